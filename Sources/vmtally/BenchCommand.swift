// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Bench
import BootRecords
import Glibc
import Linux
import Machine
import Outcomes
import ProbeImage
import Rendering
import Reports
import ThisHost

struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Latency of each exit reason, seen from the guest.",
        discussion: """
            A bare-metal guest provokes each kind of exit and times it with RDTSC; the VMM's tally of the same exits \
            tells what of it was userspace's, and must equal their number exactly. docs/bench.md says how.
            """
    )

    @Option(
        help: ArgumentHelp(
            "Only these kinds, of those that --list names; may be given several times.", valueName: "name,..."),
        completion: .custom { _, _, prefix in Completions.list(prefix, of: BenchKind.catalogue.map(\.name)) })
    var only: [String] = []

    @Option(help: "For all kinds together. (default: 20)")
    var seconds: Double?

    @Option(help: "vCPUs of the VMs with more than one; 1 leaves out what needs two. (default: 2)")
    var cpus: Int?

    @Option(
        help: """
            Interrupt controllers where a kind needs none: none, or kernel, as every PC guest has them. (default: none)
            """)
    var irqchip: InterruptControllers?

    @Option(help: "Shuffles the blocks. (default: another one each time)")
    var seed: UInt64?

    @Flag(help: "Leave it to the scheduler where vCPUs run.")
    var unpinned = false

    @Flag(help: "Name the kinds and end.")
    var list = false

    @OptionGroup var documents: DocumentOptions

    @Option(help: ArgumentHelp("The same as --json with a file.", valueName: "file"), completion: .file())
    var output: String?

    @Option(help: ArgumentHelp("Also write a page for a browser to this file.", valueName: "file"), completion: .file())
    var html: String?

    @Option(help: ArgumentHelp("Compare with an earlier run's JSON.", valueName: "file"), completion: .file())
    var baseline: String?

    @Option(
        help: ArgumentHelp(
            "With --baseline: exit with status 2 when a kind's median grew by more than this and by more than chance, "
                + "3 when a kind could not be judged: 5% or 0.05.", valueName: "share"), transform: Share.init)
    var failAbove: Share?

    @Option(
        name: .customLong("from"), help: ArgumentHelp("Report this run's JSON; measure nothing.", valueName: "file"),
        completion: .file())
    var source: String?

    func validate() throws {
        if let seconds, !(seconds > 0 && seconds < 1e6) {
            throw ValidationError("--seconds takes a number above 0 and below 1,000,000.")
        }
        let measuring: [(String, Bool)] = [
            ("--only", !only.isEmpty), ("--seconds", seconds != nil), ("--cpus", cpus != nil),
            ("--irqchip", irqchip != nil), ("--seed", seed != nil), ("--unpinned", unpinned),
        ]
        if source != nil, let option = measuring.first(where: \.1)?.0 {
            throw ValidationError("--from reports a whole run and measures nothing: leave out \(option).")
        }
        guard !list || documents.json == nil && documents.csv == nil && output == nil && html == nil && source == nil
        else {
            throw ValidationError("--list names the kinds and ends: leave out what a run would give.")
        }
        guard failAbove == nil || baseline != nil else {
            throw ValidationError("--fail-above compares with a --baseline: give one.")
        }
        guard irqchip != .split else { throw ValidationError("--irqchip takes none or kernel.") }
        guard (1...64).contains(cpus ?? 2) else { throw ValidationError("--cpus takes 1 to 64.") }
        _ = try kinds
    }

    func run() throws {
        if list {
            let width = try kinds.map(\.name.count).max() ?? 0
            for kind in try kinds {
                print(kind.name + String(repeating: " ", count: width + 2 - kind.name.count) + kind.summary)
            }
            return
        }
        var named = NamedFiles()
        named.input("--baseline", baseline)
        named.input("--from", source)
        documents.name(&named)
        named.output("--output", output)
        named.output("--html", html)
        try named.check()
        let earlier = try baseline.map(Self.read)
        // A run may be long: better now than after it.
        let files = try documents.open()
        let outputFile = try Self.open(output)
        let page = try Self.open(html)
        let (document, signal) = try source.map { (try Self.read($0), nil) } ?? measure()
        let comparison = earlier.map { BenchComparison(document, to: $0) }
        try outputFile?.replaceContents(with: document.json() + "\n")
        try page?.replaceContents(with: BenchPage(document, comparison: comparison).html())
        let table = BenchTable(document, comparison: comparison, width: Terminal.columns(STDOUT_FILENO))
        try files.write(json: document.json(), csv: table.csv)
        if !documents.takeStandardOutput, output != "-" {
            say(table.lines().joined(separator: "\n"))
        }
        if let signal { throw ExitCode(128 + signal) }
        guard document.exact else { throw Failure("counts differ from the exits that the guest made: see the table") }
        if let limit = failAbove?.value, let gate = comparison?.gate(above: limit) {
            for line in BootComparisonReport.lines(gate) { StandardError.print(line) }
            guard gate.verdict == .passed else { throw ExitCode(gate.status) }
        }
    }

    /// With the signal that cut it short.
    private func measure() throws -> (BenchDocument, signal: Int32?) {
        var options = BenchOptions()
        options.kinds = try kinds
        options.seconds = seconds ?? 20
        options.cpus = cpus ?? 2
        options.seed = seed ?? .random(in: 0 ... .max >> 16)
        options.pins = !unpinned
        let bench = try Bench(options, elf: ProbeImage.bench)
        let progress = ProgressLine()
        var signals = try EndingSignals(EndingSignal.all)
        var signal: Int32?
        let result = try bench.run {
            progress.show($0)
            signal = signal ?? signals.next()
            return signal == nil
        }
        progress.clear()
        if signal != nil {
            signals.stayBlocked()
            Patience.limit(nanoseconds: 1_000_000_000)
        }
        guard signal == nil || result.rows.contains(where: \.isMeasured) else { throw ExitCode(128 + (signal ?? 0)) }
        let document = BenchDocument(
            result, host: HostIdentity(tscKHz: result.tscKHz), version: VMTally.version, cutOff: signal != nil)
        return (document, signal)
    }

    private static func read(_ path: String) throws -> BenchDocument {
        do {
            let file = try FileImage(path: path, limit: documentLimit)
            return try BenchDocument(json: Array(file.bytes))
        } catch let error as SystemError {
            // It names the file itself.
            throw error
        } catch {
            throw Failure("\(path): \(error)")
        }
    }

    private static func open(_ path: String?) throws -> OutputFile? {
        if let path { try OutputFile(path: path) } else { nil }
    }

    private var kinds: [BenchKind] {
        get throws {
            let catalogue = BenchKind.catalogue.map { irqchip == .kernel ? $0.withInterruptControllers : $0 }
            guard !only.isEmpty else { return catalogue }
            let names = only.flatMap { $0.split(separator: ",", omittingEmptySubsequences: false).map(String.init) }
            for name in names where !catalogue.contains(where: { $0.name == name }) {
                throw ValidationError("There is no kind '\(name)': vmtally bench --list names them.")
            }
            return catalogue.filter { names.contains($0.name) }
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
