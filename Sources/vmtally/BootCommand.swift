// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import BootRecords
import Boots
import Glibc
import GuestCode
import Machine
import Rendering
import Reports
import ThisHost

/// `vmtally boot`
struct BootCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "boot",
        abstract: "Boot a Linux kernel several times and record what each boot costs in exits.",
        discussion: """
            A boot begins with the first KVM_RUN and ends when the guest writes to port 0xF5 (vmtally-probe mark), \
            by the rules of docs/boot-protocol.md. VM exits by reason, over time and by guest function come from KVM's \
            tracepoints and need root, or a kernel with the patches of kernel-patch/. `vmtally compare` sets two \
            recordings beside each other. Exit status 1 when a boot did not reach its marker.
            """
    )

    @Option(help: "Boots of each configuration.")
    var runs = 10

    @Option(help: "What the recording is called.")
    var label = "boot"

    @Option(
        name: [.customShort("o"), .customLong("output"), .customLong("json")],
        help: ArgumentHelp("Write the recording (JSON) here; - is standard output.", valueName: "file"),
        completion: .file())
    var output: String?

    @Option(
        help: ArgumentHelp(
            "Write a line of comma-separated values for each boot here; - is standard output.", valueName: "file"),
        completion: .file())
    var csv: String?

    @Option(
        help: ArgumentHelp("bzImage or vmlinux. (default: that of make guest)", valueName: "file"), completion: .file())
    var kernel: String?

    @Option(
        help: ArgumentHelp("Initial RAM disk. (default: that of make guest)", valueName: "file"), completion: .file())
    var initrd: String?

    @Option(help: ArgumentHelp("More words for the kernel's command line.", valueName: "words"))
    var append: String?

    @Option(help: "The guest's console: virtio, serial (or 8250), none.")
    var console: BootConsole?

    @Option(help: "Number of vCPUs. (default: 1)")
    var cpus: Int?

    @Option(help: ArgumentHelp("Guest RAM. (default: 256)", valueName: "MiB"))
    var memory: Int?

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp(
            "Boot all combinations: cpus=1,4 console=virtio,8250 memory=256,512 kernel=FILE,FILE.",
            valueName: "key=value,..."), completion: .list(["cpus=", "console=", "memory=", "kernel="]))
    var matrix: [String] = []

    @Option(help: "Boots at a time.")
    var parallel = 1

    @Flag(help: "Give the guest its RAM before the start, as run --prefault does: not of the protocol.")
    var prefault = false

    @Option(
        help: ArgumentHelp(
            """
            Another VMM: its command line, with {kernel}, {initrd}, {append}, {cpus}, {memory} and {console} in it. \
            Needs root.
            """, valueName: "command"))
    var vmm: String?

    @Option(help: ArgumentHelp("The boot ends with this on the console instead.", valueName: "text"))
    var markerText: String?

    @Option(
        help: ArgumentHelp(
            "Names of the guest's kernel code: vmlinux, System.map or kallsyms.", valueName: "file"),
        completion: .file())
    var symbols: String?

    @Flag(inversion: .prefixedNo, help: "Have the guest print its log after the marker, for exits by boot phase.")
    var log = true

    @Option(help: ArgumentHelp("End a boot that is not over after this many seconds.", valueName: "seconds"))
    var timeout = 120.0

    @Option(help: "Of the order of the boots.")
    var seed: UInt64 = 1

    @Flag(help: "No table, and no line for each boot.")
    var quiet = false

    func validate() throws {
        guard (1...10_000).contains(runs) else { throw ValidationError("--runs takes 1 to 10000.") }
        guard (1...256).contains(parallel) else { throw ValidationError("--parallel takes 1 to 256.") }
        guard timeout > 0, timeout < 1e6 else {
            throw ValidationError("--timeout takes seconds, more than 0 and less than a million.")
        }
        guard markerText.map({ !$0.isEmpty }) ?? true else { throw ValidationError("--marker-text takes a text.") }
        guard markerText == nil || vmm == nil else {
            throw ValidationError("--marker-text goes with vmtally's own console, not with --vmm.")
        }
        guard !prefault || vmm == nil else { throw ValidationError("--prefault is of vmtally's own machine.") }
        _ = try setups()
    }

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        let setups = try setups()
        var named = NamedFiles()
        for setup in setups {
            named.input("--kernel", setup.kernel)
            named.input("--initrd", setup.initrd)
        }
        named.input("--symbols", symbols)
        named.output("--output", output)
        named.output("--csv", csv)
        try named.check()
        let file = try OutputFile(optional: output)
        let values = try OutputFile(optional: csv)
        let symbols = try symbols.map { try SymbolTable(path: $0) }
        let host = HostIdentity(tscKHz: 0)
        let isQuiet = quiet
        LinuxHost.warn()
        let session = BootSession(
            setups: setups, runs: runs, seed: seed, symbols: symbols,
            progress: { line in if !isQuiet { StandardError.print(line) } },
            report: { line in StandardError.print(line) })
        try session.prepare()
        try session.run(parallel: parallel)
        var recording = BootRecording(
            tool: .init(name: "vmtally", version: VMTally.version), label: label, recorded: time(nil), seed: seed,
            host: .init(host, tscKHz: session.tscKHz), configurations: session.configurations())
        if session.interrupted != nil {
            recording.cutOff = true
            Patience.limit(nanoseconds: 1_000_000_000)
        }
        if !quiet, !recording.configurations.isEmpty {
            let isTaken = output == "-" || csv == "-"
            let width = Terminal.columns(isTaken ? STDERR_FILENO : STDOUT_FILENO)
            let table = BootTable(recording, width: width).lines().joined(separator: "\n")
            if isTaken { StandardError.print(table) } else { say(table) }
        }
        if !recording.configurations.isEmpty {
            if output != nil { try file?.replaceContents(with: recording.json()) }
            if csv != nil { try values?.replaceContents(with: BootTable(recording).csv.text) }
        }
        if let signal = session.interrupted {
            let made = recording.configurations.reduce(0) { $0 + $1.runs.count }
            warn("cut off after \(made) of \(setups.count * runs) boots")
            throw ExitCode(128 + signal)
        }
        let failures = session.failures
        guard failures == 0 else {
            throw Failure("\(failures) of \(setups.count * runs) boots did not reach their marker")
        }
    }

    /// All combinations of the matrix, the first key slowest.
    private func setups() throws -> [BootSetup] {
        let ready = ReadyGuest()
        var base = BootSetup(
            kernel: "", initrd: initrd, console: console ?? .virtio, cpus: cpus ?? 1, memoryMiB: memory ?? 256,
            words: append ?? "",
            vmm: vmm, markerText: markerText, printsLog: log, timeout: timeout)
        base.prefaults = prefault
        let given = [("cpus", cpus != nil), ("console", console != nil), ("memory", memory != nil)]
        if let (key, _) = given.first(where: { key, isGiven in isGiven && matrix.contains { $0.hasPrefix("\(key)=") } })
        {
            throw ValidationError("--\(key) is in the matrix: leave one out.")
        }
        let isInMatrix = matrix.contains { $0.hasPrefix("kernel=") }
        let ownKernel = try kernel ?? (isInMatrix ? "" : ready.kernel(else: "--kernel"))
        base.kernel = ownKernel
        if initrd == nil, kernel == nil {
            base.initrd = ready.initrd
        }
        var setups = [base]
        for axis in matrix {
            let parts = axis.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2 else { throw ValidationError("--matrix takes key=value,value: not '\(axis)'.") }
            let values = parts[1].split(separator: ",", omittingEmptySubsequences: false).map(String.init)
            setups = try setups.flatMap { setup in
                try values.map { value in
                    var setup = setup
                    guard setup.set(parts[0], value) else {
                        throw ValidationError(
                            "--matrix: '\(parts[0])=\(value)' is not one of cpus=N, console=virtio|8250|none, memory=MIB, kernel=FILE."
                        )
                    }
                    return setup
                }
            }
        }
        guard Set(setups.map(\.name)).count == setups.count else {
            throw ValidationError(
                "--matrix: two of its combinations have the same name; a kernel's is its file's, without folders.")
        }
        guard setups.allSatisfy({ $0.cpus > 0 && $0.cpus <= 4096 && $0.memoryMiB > 0 }) else {
            throw ValidationError("--cpus and --memory take numbers from 1 on.")
        }
        guard markerText == nil || setups.allSatisfy({ $0.console != .none }) else {
            throw ValidationError("--marker-text needs a console to watch: not --console none.")
        }
        guard setups.count * runs <= 100_000 else { throw ValidationError("--matrix: too many boots.") }
        return setups
    }
}

extension BootConsole: Choice {}
