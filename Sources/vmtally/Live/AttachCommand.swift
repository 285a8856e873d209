// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import BootRecords
import ExitStats
import Glibc
import GuestCode
import HostView
import Linux
import LiveView
import Rendering
import Reports
import ThisHost

/// `vmtally attach`
struct AttachCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "attach",
        abstract: "Counts and times the exits of a VM that runs on this host, whatever its VMM.",
        discussion: """
            vmtally attach -p PID or NAME, or attach all, until --duration is over, the program after -- has ended, the \
            VM has ended, or Ctrl-C. With --from-start the program after -- is the VMM, and no exit is missed. The \
            table goes to standard output (docs/attach.md). The exit status is that of the program after --.
            """)

    @Argument(help: ArgumentHelp("all: every VM of this host.", valueName: "all"), completion: .list(["all"]))
    var target: String?

    @Option(
        name: [.customShort("p"), .customLong("vm")], help: "The VM: its process's pid, or its name.",
        completion: .custom { _, _, _ in Completions.machines })
    var vm: String?

    @Option(help: ArgumentHelp("End after this many seconds.", valueName: "seconds"))
    var duration: Double?

    @Option(
        name: .shortAndLong,
        help: ArgumentHelp("Print a line for every interval of this many seconds as well.", valueName: "seconds"))
    var interval: Double?

    @Option(
        help: ArgumentHelp("Write the exits as JSON here; - is standard output.", valueName: "file"),
        completion: .file())
    var json: String?

    @Option(
        help: ArgumentHelp("Write them as comma-separated values here; - is standard output.", valueName: "file"),
        completion: .file())
    var csv: String?

    @Option(
        name: .shortAndLong,
        help: ArgumentHelp("Write a recording for vmtally compare here: each --interval is a run.", valueName: "file"),
        completion: .file())
    var output: String?

    @Option(help: "Name of the recording.")
    var label: String?

    @Option(help: "Who counts: auto, module, bpf, tracefs or statistics.")
    var collector = CollectorChoice.auto

    @Option(help: "Also count VM exits by the guest's code: rip.")
    var by: Axis?

    @Option(
        help: ArgumentHelp(
            "With --by rip: names of the guest's code: vmlinux, System.map or kallsyms.", valueName: "file"),
        completion: .file())
    var symbols: String?

    @Flag(help: "With --by rip: nothing but a line a stack, for flame graphs.")
    var folded = false

    enum Axis: String, Choice {
        case rip
    }

    @Flag(help: "The program after -- is the VMM: count from its first exit on.")
    var fromStart = false

    @Flag(help: "No table.")
    var quiet = false

    @Flag(help: "Leave the process all its system calls while it watches.")
    var noSandbox = false

    @Argument(parsing: .postTerminator, help: "After --: a program to run meanwhile, or with --from-start the VMM.")
    var command: [String] = []

    func validate() throws {
        guard target == nil || target == "all" else {
            throw ValidationError("A VM goes with -p: -p \(target ?? ""). The word all stands for every VM.")
        }
        let wanted = (target == nil ? 0 : 1) + (vm == nil ? 0 : 1) + (fromStart ? 1 : 0)
        guard wanted == 1 else { throw ValidationError("Give one of -p PID or NAME, all, and --from-start.") }
        guard !fromStart || !command.isEmpty else {
            throw ValidationError("--from-start needs the VMM after --: --from-start -- qemu-system-x86_64 ...")
        }
        guard by == .rip || symbols == nil && !folded else {
            throw ValidationError("--symbols and --folded go with --by rip.")
        }
        for seconds in [duration, interval].compactMap({ $0 }) where !(seconds >= 0.001 && seconds < 1e8) {
            throw ValidationError("--duration and --interval take seconds, from 0.001 to below 100,000,000.")
        }
    }

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        var named = NamedFiles()
        named.input("--symbols", symbols)
        named.output("--json", json)
        named.output("--csv", csv)
        named.output("--output", output)
        try named.check()
        let confinement = noSandbox ? OutputFile.Confinement.none : .observer
        let document = try OutputFile(optional: json, confinement)
        let values = try OutputFile(optional: csv, confinement)
        let recording = try OutputFile(optional: output, confinement)
        let lines = try LiveOutput()
        var waiter = Waiter()
        let child = command.isEmpty ? nil : try ChildProgram(command)
        let chosen = try vm.map { try MachineSelection.find($0) }
        let scope: CollectorScope =
            if let child, fromStart {
                .descendants(child.process)
            } else {
                chosen.map { .process($0.process) } ?? .everything
            }
        let running = chosen.map { [$0] } ?? (fromStart ? [] : RunningMachine.all())
        let (collector, refusals) = try collector.make(scope, vcpus: running.reduce(0) { $0 + $1.vcpus })
        for refusal in refusals { warn("not by \(refusal)") }
        let symbols = try symbols.map { try SymbolTable(path: $0) }
        let places = try by.map { _ in try PlaceCollector(scope) }
        // Nothing from here on needs more than this user may; the statistics in debugfs are root's by their mode.
        try confine(collector, noSandbox)
        var live = LiveMachines(collector)
        live.learn(running)
        if let child, fromStart { live.learn([RunningMachine(process: child.process, words: command)]) }
        var session = AttachSession(live, chosen: chosen?.process)
        try session.begin()
        child?.go()
        let start = monotonicNanoseconds()
        let end = duration.map { start + UInt64($0 * 1e9) } ?? .max
        if let duration { Patience.limit(nanoseconds: UInt64((duration + 1) * 1e9)) }
        let step = interval.map { UInt64($0 * 1e9) } ?? .max
        var next = step == .max ? .max : start + step
        if interval != nil, !quiet { lines.print(AttachSession.header) }
        while true {
            let moment = min(end, next, monotonicNanoseconds() + session.live.collector.discoveryNanoseconds)
            let time = monotonicNanoseconds()
            let signal = waiter.wait(nanoseconds: moment > time ? moment - time : 0)
            try session.live.collector.discover()
            let isOver =
                monotonicNanoseconds() >= end || child?.exitStatus != nil || signal != nil
                || !fromStart && chosen.map { kill($0.process, 0) != 0 && errno == ESRCH } ?? false
            if monotonicNanoseconds() >= next || isOver {
                let line = try session.span(at: monotonicNanoseconds() - start, isLast: isOver)
                if interval != nil, !quiet, let line { lines.print(line) }
                // Spans that a busy machine has slept through are one longer span.
                while next <= monotonicNanoseconds() { next += step }
            }
            if isOver { break }
        }
        try finish(
            session, nanoseconds: monotonicNanoseconds() - start, document: document, values: values,
            recording: recording, lines)
        if let places { show(places, session, symbols, lines) }
        try lines.check()
        if let child, let status = child.exitStatus, status != 0 { throw ExitCode(status) }
    }

    private func show(
        _ places: PlaceCollector, _ session: AttachSession, _ symbols: SymbolTable?, _ lines: LiveOutput
    ) {
        let names = Dictionary(session.machines.map { ($0.process, $0) }, uniquingKeysWith: { first, _ in first })
        let table = PlaceTable(
            places.read().compactMap { place in
                guard let machine = names[place.process], let counts = machine.hardware else { return nil }
                let code = counts.vocabulary == .vmx ? place.code & 0xFFFF : place.code
                return PlaceTable.Place(
                    machine: machine.name,
                    code: symbols?.location(of: place.rip)?.symbol ?? "0x" + String(place.rip, radix: 16),
                    reason: counts.name(of: ExitCounts.Reason(code: code, count: 0)), count: place.count)
            })
        lines.print(
            (folded ? table.folded : [""] + table.lines(30, width: Terminal.columns(STDOUT_FILENO))).joined(
                separator: "\n"))
        if places.withoutRoom > 0 { warn("\(places.withoutRoom) exits at places without room in the map") }
    }

    private func finish(
        _ session: AttachSession, nanoseconds: UInt64, document: consuming OutputFile?,
        values: consuming OutputFile?, recording: consuming OutputFile?, _ lines: LiveOutput
    ) throws {
        let kHz = UInt32(clamping: TSCScale.host.kHz)
        let host = HostIdentity(tscKHz: kHz)
        let machines = session.machines
        let losses = session.live.collector.losses()
        if !quiet, !folded, ![json, csv, output].contains("-") {
            let report = AttachReport(
                machines, collector: session.live.collector.name, nanoseconds: nanoseconds, lost: losses.description,
                isSummed: target != nil, tscKHz: kHz, width: Terminal.columns(STDOUT_FILENO))
            lines.print((report.lines() + (host.caveat.map { [$0] } ?? [])).joined(separator: "\n"))
        } else if let lost = losses.description {
            warn(lost)
        }
        if json != nil {
            let text = try LiveDocument(
                schema: "vmtally.attach/1", version: VMTally.version, host: host,
                collector: session.live.collector.name, lost: session.live.losses, nanoseconds: nanoseconds,
                machines: machines
            ).json()
            try document?.replaceContents(with: text + "\n")
        }
        if csv != nil {
            let records = [TopRecords.csvHeader] + TopRecords.csv(machines, seconds: Double(nanoseconds) / 1e9)
            try values?.replaceContents(with: records.joined(separator: "\n") + "\n")
        }
        if output != nil {
            guard
                let recorded = session.recording(
                    label: label ?? session.machines.first?.name ?? "attach", host: host, version: VMTally.version)
            else { throw Failure("no exits to record: --output holds nothing") }
            try recording?.replaceContents(with: recorded.json())
        }
    }
}

/// What attach has seen so far.
struct AttachSession {
    private(set) var live: LiveMachines
    private let chosen: Int32?
    /// Every VM that has had an exit, those that have ended as they were at last.
    private var seen: [(machine: LiveMachine, isOver: Bool)] = []
    private var before: (hardware: ExitCounts?, userspace: ExitCounts?, resets: UInt64) = (nil, nil, 0)
    private var spanStart: UInt64 = 0
    private var runs: [BootRun] = []

    static let header = "    seconds      VM exits  userspace exits  most frequent"

    init(_ live: LiveMachines, chosen: Int32?) {
        self.live = live
        self.chosen = chosen
    }

    /// Totals that were there before are no exits of ours.
    mutating func begin() throws {
        _ = try live.read(CollectorDetail())
    }

    var machines: [LiveMachine] { seen.map(\.machine) }

    /// Ends a span.
    ///
    /// - Parameter time: since the start, ns.
    /// - Returns: a line on it; nil for an empty one at the end.
    mutating func span(at time: UInt64, isLast: Bool) throws -> String? {
        for machine in try live.read(CollectorDetail(histograms: true))
        where chosen.map({ $0 == machine.process }) ?? true {
            if let index = seen.firstIndex(where: {
                !$0.isOver && $0.machine.process == machine.process && $0.machine.machine == machine.machine
            }) {
                seen[index] = (machine, machine.hasEnded)
            } else {
                seen.append((machine, machine.hasEnded))
            }
        }
        let hardware = Self.sum(machines.flatMap { [$0.hardware, $0.nested] })
        let userspace = Self.sum(machines.map(\.userspace))
        let span = (hardware: hardware.since(before.hardware), userspace: userspace.since(before.userspace))
        let resets = machines.reduce(0) { $0 &+ ($1.resets ?? 0) }
        let mark = resets > before.resets ? ", guest reset" : ""
        before = (hardware, userspace, resets)
        defer { spanStart = time }
        let total = (span.hardware?.total ?? 0) + (span.userspace?.total ?? 0)
        guard !isLast || total > 0 else { return nil }
        runs.append(
            BootRun(
                index: runs.count, nanoseconds: time - spanStart,
                userspace: span.userspace?.withoutTimes
                    ?? ExitCounts(source: span.hardware?.source ?? .statistics, total: 0),
                hardware: span.hardware?.withoutTimes, phases: nil))
        let reasons = (span.hardware.flatMap { $0.reasons.isEmpty ? nil : $0 } ?? span.userspace).map { counts in
            counts.reasons.sorted { $0.count > $1.count }.prefix(4).map { "\(counts.name(of: $0)) \($0.count)" }
        }
        let seconds = fixed(Double(time) / 1e9, 3)
        return "\(right(seconds, 11)) \(right(span.hardware.map { "\($0.total)" } ?? "-", 13)) "
            + "\(right(span.userspace.map { "\($0.total)" } ?? "-", 16))  \((reasons ?? []).joined(separator: ", "))\(mark)"
    }

    private static func sum(_ counts: [ExitCounts?]) -> ExitCounts? {
        counts.compactMap { $0 }.sum()
    }

    /// nil when there was not one span.
    func recording(label: String, host: HostIdentity, version: String) -> BootRecording? {
        guard !runs.isEmpty, !machines.isEmpty else { return nil }
        let names = machines.map(\.name)
        var configuration = BootConfiguration(
            name: "vm=\(names.count == 1 ? names[0] : "\(names.count) VMs")",
            vmm: Set(machines.map(\.program)).sorted().joined(separator: ", "),
            cpus: machines.reduce(0) { $0 + $1.vcpuCount }, memoryMiB: 0, console: "unknown", kernel: nil,
            initrd: nil, commandLine: "", marker: "interval")
        configuration.runs = runs
        var recording = BootRecording(
            tool: .init(name: "vmtally", version: version), label: label, recorded: time(nil), seed: 0,
            host: .init(host, tscKHz: host.tscKHz), configurations: [configuration])
        recording.protocolName = BootRecording.intervals
        return recording
    }
}

extension ExitCounts {
    /// As recordings of boots have them.
    fileprivate var withoutTimes: ExitCounts {
        guard let vocabulary else { return self }
        return ExitCounts(
            source: source, vocabulary: vocabulary, reasons: reasons.map { Reason(code: $0.code, count: $0.count) })
    }
}

private func right(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
}
