import ArgumentParser
import Glibc
import Machine
import ProbeImage
import Reports

struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Latency of each exit reason, seen from the guest.",
        discussion: """
            A bare-metal guest provokes each kind of exit and times it with RDTSC; the VMM's tally of the same exits \
            tells what of it was userspace's, and must equal their number exactly. docs/bench.md says how.
            """
    )

    @Option(help: ArgumentHelp("Only these kinds, of those that --list names.", valueName: "name,..."))
    var only: String?

    @Option(help: "For all kinds together.")
    var seconds = 20.0

    @Option(help: "vCPUs of the VMs with more than one; 1 leaves out what needs two.")
    var cpus = 2

    @Option(help: "Shuffles the blocks. (default: another one each time)")
    var seed: UInt64?

    @Flag(help: "Leave it to the scheduler where vCPUs run.")
    var unpinned = false

    @Flag(help: "Name the kinds and end.")
    var list = false

    func validate() throws {
        guard seconds > 0, seconds < 1e6 else { throw ValidationError("--seconds takes a number above 0.") }
        guard (1...64).contains(cpus) else { throw ValidationError("--cpus takes 1 to 64.") }
        _ = try kinds
    }

    func run() throws {
        if list {
            var table = TextTable(header: ["name"])
            for kind in try kinds { table.add([kind.name]) }
            let width = try kinds.map(\.name.count).max() ?? 0
            for kind in try kinds {
                print(kind.name + String(repeating: " ", count: width + 2 - kind.name.count) + kind.summary)
            }
            return
        }
        var options = BenchOptions()
        options.kinds = try kinds
        options.seconds = seconds
        options.cpus = cpus
        options.seed = seed ?? .random(in: 0 ... .max >> 16)
        options.pins = !unpinned
        let bench = try Bench(options, elf: ProbeImage.bench)
        let progress = ProgressLine()
        let result = try bench.run { progress.show($0) }
        progress.clear()
        let host = HostIdentity(tscKHz: result.tscKHz)
        print("host: \(host.cpu), Linux \(host.kernel), \(host.backend)")
        print(BenchTable(result).lines().joined(separator: "\n"))
        guard result.isExact else { throw ExitCode(1) }
    }

    private var kinds: [BenchKind] {
        get throws {
            guard let only else { return BenchKind.catalogue }
            let names = only.split(separator: ",").map(String.init)
            for name in names where !BenchKind.catalogue.contains(where: { $0.name == name }) {
                throw ValidationError("There is no kind '\(name)': vmtally bench --list names them.")
            }
            return BenchKind.catalogue.filter { names.contains($0.name) }
        }
    }
}

/// One line on standard error that is written over and over; none where that is no terminal.
final class ProgressLine {
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private var last = ""

    func show(_ progress: Bench.Progress) {
        switch progress {
        case .trying(let name): show("trying \(name)")
        case .measuring(let done, let all): show("measuring: \(done * 100 / max(1, all)) %")
        }
    }

    func clear() {
        show("")
    }

    private func show(_ text: String) {
        guard isTerminal, text != last else { return }
        last = text
        let line = "\r\u{1B}[K" + text
        _ = Array(line.utf8).withUnsafeBytes { Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}
