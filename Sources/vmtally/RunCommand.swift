// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import ExitStats
import Glibc
import GuestCode
import KVM
import Linux
import Machine
import Outcomes
import Rendering
import Reports
import ThisHost

/// Defaults are told in words: each that the parser is to tell costs every start some 40 us a type (docs/performance.md).
struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        _superCommandName: "vmtally",
        abstract: "Run a guest and tally its exits.",
        discussion: """
            The guest's serial port is standard output; the tally goes to standard error when the run has ended. \
            The exit status is the guest's own, 124 at --timeout, 128 + signal, or 1 when the run failed.
            """
    )

    @Option(help: "A static ELF64 x86-64 guest (docs/guests.md).", completion: .file())
    var guest: String?

    @Option(help: "A Linux kernel: bzImage or vmlinux. Without any guest: that of make guest.", completion: .file())
    var kernel: String?

    @Option(help: "A Multiboot 1 image.", completion: .file())
    var multiboot: String?

    @Option(help: "The kernel's initial RAM disk.", completion: .file())
    var initrd: String?

    @Option(help: "The kernel's command line. (default: quiet console=... panic=-1)")
    var append: String?

    @Option(
        help:
            "The Linux guest's console: serial (a 16550, console=ttyS0), virtio (console=hvc0) or none. (default: serial)"
    )
    var console: DeviceConfiguration.Console?

    @Option(help: "A disk of the Linux guest: FILE or FILE,ro. May be given again.", completion: .file())
    var disk: [String] = []

    @Option(help: "A network card of the Linux guest: tap=NAME. May be given again.")
    var net: [String] = []

    @Flag(help: "Give the Linux guest a virtio entropy source.")
    var rng = false

    @Option(
        help: "virtio notifications by ioeventfd and irqfd: on, or off: then each is a userspace exit. (default: on)")
    var ioeventfd: OnOff?

    @Option(help: "Number of vCPUs. (default: 1)")
    var cpus: Int?

    @Option(help: "Guest RAM in MiB. (default: 16, for Linux 512)")
    var memory: Int?

    @Flag(
        help: """
            Give the guest its RAM before the start: pages of the host, which KVM maps where it can (Linux 6.11). \
            Spares first touches.
            """)
    var prefault = false

    @Option(help: "Where the serial port goes: stdio, none or file=PATH. (default: stdio)")
    var serial: SerialOption?

    @Option(
        help: """
            How CPUID leaf 0x4FFFFFFF is answered: auto, fault, sites, host, or off: a snapshot from before the start. \
            (default: auto)
            """)
    var liveCpuid: LiveCPUIDMode?

    @Option(
        name: .customLong("cpuid"), parsing: .unconditionalSingleValue,
        help: ArgumentHelp(
            """
            What the guest's CPUID is to say: LEAF[.SUB]:REG=VALUE, or -FEATURE to take one away, as -X2APIC. May be \
            given again.
            """, valueName: "edit"),
        // Asked for when a shell completes: the list takes longer than all other options together.
        completion: .custom { _, _, _ in CPUIDFeatureNames.all.map { "-\($0)" } },
        transform: CPUIDEditOption.init)
    var cpuidEdits: [CPUIDEditOption] = []

    @Option(
        help:
            "The tally page, the counters themselves in the guest's memory (docs/tally-page.md): on, or off. (default: on)"
    )
    var tallyPage: OnOff?

    @Option(
        help: """
            Answer CPUID in this code of the guest live, in any ring: SYMBOL=ADDRESS, hexadecimal, or SYMBOL alone, \
            which --symbols has. May be given again.
            """)
    var cpuidSite: [CPUIDSiteOption] = []

    @Option(
        help: """
            Interrupt controllers: none, kernel, or split: I/O APIC here, no PIC, no PIT. (default: none, for Linux kernel)
            """)
    var irqchip: InterruptControllers?

    @Option(
        help: "ACPI tables: reduced, or full: PM registers, PM timer, PIC, PIT, clock. (default: full for Multiboot)")
    var acpi: DeviceConfiguration.ACPI?

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp(
            """
            Also tally exits by port, msr, address (guest physical) or rip (the guest's code), and show the N places \
            with the most. (default of N: 20)
            """, valueName: "axis [N]"),
        completion: .list(PlaceAxis.allCases.map(\.rawValue)))
    var by: [String] = []

    @Option(help: "The same as --by rip N.")
    var byRip: Int?

    @Option(
        help: "Names of the guest's code: vmlinux, System.map or kallsyms. (default: the guest's own)",
        completion: .file())
    var symbols: String?

    @Option(
        name: [.customLong("stats-json"), .customLong("json")],
        help: ArgumentHelp("Write the tally as JSON to this file; - is standard output.", valueName: "file"),
        completion: .file())
    var statsJson: String?

    @Option(
        help: ArgumentHelp(
            "Write the tally as comma-separated values to this file; - is standard output.", valueName: "file"),
        completion: .file())
    var csv: String?

    @Option(
        name: .shortAndLong,
        help: ArgumentHelp(
            "A line on standard error for each span of this many seconds, and the spans in the JSON.",
            valueName: "seconds"))
    var interval: Double?

    @Option(
        help: ArgumentHelp(
            "With --interval: tell when the console shows this, between the spans. May be given again. Writes to port 0xF5 are told too.",
            valueName: "text"))
    var mark: [String] = []

    @Option(
        help: """
            When the guest resets: end, or restart: it boots again, and its counters go on; each boot has its own totals \
            at the end (docs/guests.md). (default: end)
            """)
    var onReset: ResetPolicy?

    @Option(help: "End the run after this many seconds.")
    var timeout: Double?

    @Flag(help: "No table at the end.")
    var quiet = false

    @OptionGroup(title: "Sandbox")
    var sandbox: SandboxOptions

    func validate() throws {
        guard [guest, kernel, multiboot].filter({ $0 != nil }).count <= 1 else {
            throw ValidationError("Give one of --guest, --kernel and --multiboot.")
        }
        guard guest == nil && multiboot == nil || initrd == nil else {
            throw ValidationError("--initrd goes with a Linux kernel.")
        }
        if guest != nil {
            let given: [(String, Bool)] = [
                ("--append", append != nil), ("--console", console != nil), ("--disk", !disk.isEmpty),
                ("--net", !net.isEmpty), ("--rng", rng), ("--ioeventfd", ioeventfd != nil), ("--acpi", acpi != nil),
            ]
            if let option = given.first(where: \.1)?.0 {
                throw ValidationError(
                    "\(option) goes with --kernel and --multiboot: a bare-metal guest has no such device.")
            }
        }
        guard net.allSatisfy({ $0.hasPrefix("tap=") && $0.count > 4 }) else {
            throw ValidationError("--net takes tap=NAME.")
        }
        _ = try PlaceOptions(by, byRip)
        guard symbols == nil || needsSymbols else {
            throw ValidationError("--symbols goes with --by rip and --cpuid-site SYMBOL.")
        }
        guard cpuidSite.isEmpty || [nil, .auto, .sites].contains(liveCpuid) else {
            throw ValidationError("--cpuid-site goes with --live-cpuid auto and sites.")
        }
        if let interval, !(interval >= 0.001 && interval < 1e8) {
            throw ValidationError("--interval takes seconds, from 0.001 to below 100,000,000.")
        }
        guard mark.isEmpty || interval != nil, mark.allSatisfy({ (1...256).contains($0.utf8.count) }), mark.count <= 64
        else {
            throw ValidationError("--mark goes with --interval and takes 1 to 256 bytes of text, 64 times at most.")
        }
        if onReset == .restart {
            guard sandbox.noSandbox else {
                throw ValidationError(
                    "--on-reset restart needs --no-sandbox: a confined process can make no second VM.")
            }
            guard byRip == nil, by.isEmpty else {
                throw ValidationError("--by counts one boot: leave out --on-reset restart.")
            }
        }
        if let timeout, !(timeout > 0 && timeout < 1e9) {
            throw ValidationError("--timeout takes seconds, more than 0 and less than a billion.")
        }
        try DocumentOptions.refuseOneForBoth(json: statsJson, csv: csv)
    }

    private static let guestOptions = "--guest, --kernel or --multiboot"

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        // Not among what is validated: a word too many is to be told first.
        if guest == nil, kernel == nil, multiboot == nil {
            do {
                _ = try ReadyGuest().kernel(else: Self.guestOptions)
            } catch {
                StandardError.print(Self.fullMessage(for: error))
                throw ExitCode.validationFailure
            }
        }
        try checkFiles()
        var configuration = MachineConfiguration()
        configuration.sandbox = try sandbox.configuration()
        let isConfined = configuration.sandbox.scope == .process
        configuration.cpus = cpus ?? 1
        configuration.memoryMiB = memory ?? (guest != nil ? 16 : 512)
        configuration.liveCPUID = liveCpuid ?? .auto
        configuration.tallyPage = tallyPage != .off
        configuration.prefaults = prefault
        configuration.cpuidEdits = cpuidEdits.map(\.edit)
        configuration.irqchip = irqchip ?? InterruptControllers.none
        configuration.timeoutMilliseconds = timeout.map { max(1, Int($0 * 1000)) } ?? 0
        configuration.endingSignals = EndingSignal.all
        var serialFile = try (serial ?? .stdio).open()
        configuration.serial = serialFile.target
        configuration.devices = devices
        let axes = try PlaceOptions(by, byRip).tops
        configuration.places = Set(axes.map(\.axis))
        // Between the first file and the first boot, and between two boots: what comes then ends the run that follows.
        var signals = try EndingSignals(EndingSignal.all)
        // A run may be long: better now than after it.
        let stats = try OutputFile(optional: statsJson, isConfined ? .full : .none)
        let values = try OutputFile(optional: csv, isConfined ? .full : .none)
        let symbols = try needsSymbols ? readSymbols() : nil
        configuration.cpuidSites = try cpuidSite.flatMap { try $0.sites(symbols) }
        if let interval {
            configuration.intervals = intervals(seconds: interval)
        }
        let first = try makeMachine(configuration)
        serialFile.truncate()
        // Asked now: a sandbox may not let us.
        let width = Terminal.columns(STDERR_FILENO)
        // After the run no file can be opened any more.
        let host = statsJson.map { _ in HostIdentity(tscKHz: first.tscKHz) }
        let emulator = quiet ? nil : host.map(\.emulator) ?? HostIdentity.emulatorHere
        if interval != nil, !quiet { StandardError.print(IntervalLines.header) }
        let (machine, result, report) = try boots(first, configuration)
        if case .interrupted = result.end { signals.stayBlocked() }
        limitPatience(result.end)
        let places = axes.compactMap { axis, count in
            result.places[axis].map {
                PlaceReport(
                    axis, $0, top: count, allExits: report.total.total,
                    symbols: axis == .rip ? symbols ?? machine.kernelSymbols(result.anchors) : nil,
                    anchors: result.anchors)
            }
        }
        if let remark = result.end.remark {
            warn(remark)
        }
        if let loss = machine.output.loss {
            warn("\(loss) (--serial file=PATH or none)")
        }
        if result.withheldMessages > 0 {
            warn("and \(result.withheldMessages) more messages about devices, withheld")
        }
        let table = RunTable(report, emulator: emulator, places: places, width: width)
        if !quiet {
            if let shortfall = machine.liveCPUID.shortfall {
                warn("live CPUID: \(machine.liveCPUID.name): \(shortfall)")
            }
            for site in result.leaf.unmatchedSites {
                warn("--cpuid-site \(site): no CPUID instruction was seen there")
            }
            if !result.leaf.meaningless.isEmpty {
                warn(Self.advice(meaningless: result.leaf.meaningless))
            }
            StandardError.print(table.lines().joined(separator: "\n"))
        }
        try values?.replaceContents(with: table.csv.text)
        if let host {
            let document = RunDocument(report, host: host, version: VMTally.version, places: places)
            try stats?.replaceContents(with: document.json() + "\n")
        }
        // What the guest printed and nobody took is no success.
        let status = result.end.exitStatus
        throw ExitCode(status == EXIT_SUCCESS && machine.output.loss != nil ? EXIT_FAILURE : status)
    }

    /// Runs the guest, and with `--on-reset restart` again after each reset.
    ///
    /// - Returns: the last machine and its result, and what there is to tell of all.
    private func boots(
        _ first: consuming Machine, _ configuration: MachineConfiguration
    ) throws -> (Machine, RunResult, RunReport) {
        let start = monotonicNanoseconds()
        var configuration = configuration
        var machine = first
        var result = try machine.run()
        var report = RunReport(result, of: machine)
        while onReset == .restart, result.end == .reset, report.boots.count < ResetPolicy.mostBoots {
            configuration.counters = machine.countersForNextBoot
            if let timeout {
                let left = timeout - Double(monotonicNanoseconds() - start) / 1e9
                configuration.timeoutMilliseconds = max(1, Int(left * 1000))
            }
            machine = try makeMachine(configuration)
            result = try machine.run()
            report = RunReport(result, of: machine).following(report)
        }
        return (machine, result, report)
    }

    private func intervals(seconds: Double) -> IntervalConfiguration {
        let isQuiet = quiet
        return IntervalConfiguration(nanoseconds: UInt64(seconds * 1e9), texts: mark.map { Array($0.utf8) }) {
            interval, marks in
            guard !isQuiet else { return }
            let lines = IntervalLines.lines(RunReport.Interval(interval), marks.map { RunReport.Mark($0) })
            // Whoever does not read them does not hold up the run.
            StandardError.print(lines.joined(separator: "\n"), patience: 10_000_000)
        }
    }

    /// What is written must not be what is read.
    private func checkFiles() throws {
        var files = NamedFiles()
        files.input("--guest", guest)
        files.input("--kernel", kernel)
        files.input("--multiboot", multiboot)
        files.input("--initrd", initrd)
        files.input("--symbols", symbols)
        for disk in disk.map(Self.diskOption) {
            if disk.isReadOnly { files.input("--disk", disk.path) } else { files.output("--disk", disk.path) }
        }
        if case .file(let path)? = serial { files.output("--serial", path) }
        files.output("--stats-json", statsJson)
        files.output("--csv", csv)
        try files.check()
    }

    /// A run that was called off is not held up by whoever does not read its tally; one with a --timeout not past it.
    private func limitPatience(_ end: RunEnd) {
        let moment: UInt64 = 50_000_000
        if end.isCalledOff {
            Patience.limit(nanoseconds: moment)
        } else if let timeout {
            Patience.limit(nanoseconds: moment + UInt64(timeout * 1e9))
        }
    }

    private static func diskOption(_ text: String) -> DeviceConfiguration.Disk {
        text.hasSuffix(",ro")
            ? DeviceConfiguration.Disk(path: String(text.dropLast(3)), isReadOnly: true)
            : DeviceConfiguration.Disk(path: text, isReadOnly: false)
    }

    /// What to say of a guest that asked for leaves without a meaning.
    static func advice(meaningless leaves: [UInt32: UInt64]) -> String {
        let count = leaves.values.reduce(0, &+)
        let names = leaves.keys.sorted().map { "0x" + String($0, radix: 16, uppercase: true) }
        let listed = names.prefix(4).joined(separator: ", ") + (names.count > 4 ? ", ..." : "")
        return "the guest asked \(count == 1 ? "once" : "\(count) times") for tally leaves without a meaning here "
            + "(\(listed)) and got zeros: its program may follow another kernel's layout of the leaves; "
            + "docs/cpuid-abi.md has a table of them"
    }

    private var devices: DeviceConfiguration {
        var devices = DeviceConfiguration()
        // Programs that test a machine expect a PC; split chips are none.
        devices.acpi = acpi ?? (multiboot != nil && irqchip != .split ? .full : .reduced)
        devices.console = console ?? .serial
        devices.disks = disk.map(Self.diskOption)
        devices.taps = net.map { String($0.dropFirst(4)) }
        devices.entropy = rng
        devices.eventDescriptors = ioeventfd != .off
        devices.input = serial == nil || serial == .stdio ? STDIN_FILENO : nil
        // A guest that provokes messages waits for nobody who reads them.
        devices.report = { warn($0, patience: 10_000_000) }
        return devices
    }

    private var needsSymbols: Bool { byRip != nil || by.contains("rip") || cpuidSite.contains { $0.address == nil } }

    /// Those of the file that the user gave, else those that the guest brings.
    ///
    /// - Throws: when the user's file is no good. A guest need not have symbols.
    private func readSymbols() throws -> SymbolTable? {
        if let symbols {
            return try SymbolTable(path: symbols)
        }
        return (guest ?? kernel ?? multiboot).flatMap { path in try? SymbolTable(path: path) }
    }

    private func makeMachine(_ configuration: MachineConfiguration) throws -> Machine {
        if let guest {
            return try Machine(configuration, path: guest)
        }
        if let multiboot {
            let image = try FileImage(path: multiboot)
            return try Machine(configuration, .multiboot(image.bytes, commandLine: append ?? multiboot))
        }
        let ready = ReadyGuest()
        let initrd = kernel == nil ? self.initrd ?? ready.initrd : self.initrd
        let kernel = try FileImage(path: try self.kernel ?? ready.kernel(else: Self.guestOptions))
        let device = ["serial": " console=ttyS0", "virtio": " console=hvc0"][(console ?? .serial).rawValue] ?? ""
        let append = append ?? "quiet\(device) panic=-1"
        guard let initrd else {
            return LinuxHost.warned(
                try Machine(configuration, .linux(LinuxImages(kernel: kernel.bytes, commandLine: append))))
        }
        let disk = try FileImage(path: initrd)
        return LinuxHost.warned(
            try Machine(
                configuration, .linux(LinuxImages(kernel: kernel.bytes, initrd: disk.bytes, commandLine: append))))
    }
}
