// SPDX-License-Identifier: Apache-2.0
import CLinux
import CLinuxKVM
import ExitStats
import Glibc
import GuestCode
import KVM
import Linux
import Synchronization

/// What to build a machine from.
public struct MachineConfiguration: Sendable {
    public var cpus = 1
    /// Guest RAM, MiB.
    public var memoryMiB = 16
    public var liveCPUID = LiveCPUIDMode.auto
    /// Code whose CPUID is to be answered live, beside the sites that the guest's image lists.
    public var cpuidSites: [CPUIDSite] = []
    /// With chips HLT waits in the kernel for an interrupt and ends nothing. A PC has at least split ones.
    public var irqchip = InterruptControllers.none
    /// MSRs whose accesses go to userspace, beside those of CPUID faulting. Nothing answers them: #GP.
    public var userspaceMSRs: [ClosedRange<UInt32>] = []
    public var serial = SerialOutput.Target.none
    /// Of a PC; a section 6 guest has none of them.
    public var devices = DeviceConfiguration()
    /// End the run after this many milliseconds; 0: never.
    public var timeoutMilliseconds = 0
    /// Signals of the process that end the run. They are blocked while it lasts.
    public var endingSignals: [Int32] = []
    public var sandbox = SandboxConfiguration()
    /// When the guest's boot is over.
    public var bootMarker = BootMarkerConfiguration()
    /// Share the counters with the guest, read-only, where KVM can.
    public var tallyPage = true
    /// What the guest's CPUID is to say otherwise than KVM and this machine would have it. APIC IDs and topology stay each
    /// vCPU's own.
    public var cpuidEdits: [CPUIDEdit] = []
    /// Have RAM there, and mapped where KVM can, before the guest's first instruction.
    public var prefaults = false
    /// Tally exits also by where they come from.
    public var places: Set<PlaceAxis> = []
    /// A bare-metal guest with interrupt controllers finds a PIT and the TSC deadline timer as well, as in a PC.
    package var hasPCTimers = false
    /// Of a bare-metal guest.
    package var `extension`: (any MachineExtension)?
    /// Off for benchmarks alone: exits are then neither counted nor timed.
    package var countsExits = true
    /// For tests: what somebody who has taken over the devices' thread does there.
    package var intruder: (@Sendable () -> Void)?

    public init() {}
}

/// Where a machine's interrupt controllers are.
public enum InterruptControllers: String, CaseIterable, Sendable {
    /// There are none.
    case none
    /// Local APICs, I/O APIC, 8259s and 8254 in the kernel.
    case kernel
    /// Local APICs in the kernel, an I/O APIC in the VMM, nothing else.
    case split
}

/// A VM with its vCPUs that runs one guest, once.
public final class Machine {
    public let configuration: MachineConfiguration
    /// How CPUID's tally leaves are answered.
    public let plan: LiveCPUIDPlan
    /// The guest's serial port.
    public let output: SerialOutput
    /// One tally a vCPU; readable while the guest runs.
    public let tallies: [Tally]
    /// TSC frequency in kHz, 0 if KVM does not know it.
    public let tscKHz: UInt32
    /// What came of ``MachineConfiguration/prefaults``; nil: not asked for.
    public let prefault: Prefault?

    private let host: HostAnswers
    private let vm: SharedVM
    private let memory: GuestMemory
    let page: TallyPage?
    private let control: RunControl
    private let devices: MachineDevices
    private let vcpus: [RunningVCPU]
    private let marker: BootMarker
    private let statistics: KernelStatistics
    private let sandbox: MachineSandbox

    /// Creates the VM and loads the guest.
    ///
    /// - Parameter support: what breakpoints can do here, if it is known already; else it is tried out.
    public init(
        _ configuration: MachineConfiguration, _ guest: Guest, support: BreakpointSupport? = nil
    ) throws(MachineError) {
        var configuration = configuration
        if guest.isPC, configuration.irqchip == .none {
            configuration.irqchip = .kernel
        }
        guard configuration.irqchip != .split || configuration.devices.acpi == .reduced else {
            throw .refused(
                .interruptControllers, "full ACPI tables announce 8259s and an 8254, which split ones leave out",
                "choose one of the two")
        }
        let splitPins = configuration.irqchip == .split ? guest.pins(configuration.devices) : nil
        self.configuration = configuration
        let system = try lifted { () throws(KVMError) in try System() }
        let cpus = configuration.cpus
        let limit = Int(system.check(.maxVCPUs))
        guard cpus > 0, cpus <= limit else {
            throw .refused(.vcpus, "\(cpus) asked for", "KVM allows 1 to \(limit)")
        }
        var table = try lifted { () throws(KVMError) in try system.supportedCPUID() }
        if configuration.places.contains(.rip), system.check(.syncRegs) & Int32(KVM_SYNC_X86_REGS) == 0 {
            throw .refused(
                .placesOfCode, "KVM does not show registers at exits (KVM_CAP_SYNC_REGS)", "use Linux 4.17 or newer")
        }
        host = HostAnswers(system, supported: table)
        table.list(host)
        let asks = support == nil && configuration.liveCPUID.asksForBreakpoints(host)
        let trial = asks ? try BreakpointTrial(system, table) : nil
        memory = try GuestMemory(mebibytes: configuration.memoryMiB, hugePages: guest.isPC)
        let page = configuration.tallyPage && system.check(.readOnlyMem) > 0 ? try TallyPage(cpus: cpus) : nil
        self.page = page
        let boot = try LoadedGuest(
            guest, into: memory, cpus: cpus,
            tables: ACPITables(
                cpus: cpus, uart: configuration.devices.console == .serial, virtio: configuration.devices.virtio,
                fixedHardware: configuration.devices.acpi == .full, tallyPage: page?.range))
        let isPC = guest.isPC || configuration.hasPCTimers && configuration.irqchip != .none
        vm = SharedVM(try lifted { () throws(KVMError) in try system.createVM() })
        try Self.prepare(vm.machine, configuration, memory, page, pins: splitPins, isPC: isPC, isTest: guest.isTest)
        plan = try LiveCPUIDPlan(
            configuration.liveCPUID, sites: boot.sites, searches: configuration.cpuidSites, cpus: cpus, host: host,
            tableLoads: { [memory] limit in DescriptorTableLoads.find(in: memory, boot.identityMapped, limit: limit) }
        ) { () throws(MachineError) in
            if let support { support } else if let trial { try trial.result() } else { BreakpointSupport() }
        }
        try Self.sendToUserspace(vm.machine, configuration, plan, host)
        // Calling vCPUs out costs exits, which a guest that lists sites wants to know of: it has its own way to say
        // that its handler is there.
        let control = try RunControl(cpus: cpus, callsOut: plan.fault)
        let marker = BootMarker(configuration.bootMarker) { control.finish(.marker) }
        output = SerialOutput(
            configuration.serial, marker: configuration.bootMarker.text.isEmpty ? nil : marker,
            watchesForPanic: guest.isLinux)
        devices =
            guest.isPC
            ? try MachineDevices(
                pc: configuration.devices, cpus: cpus, splitPins: splitPins, isTest: guest.isTest, output: output,
                memory: memory, vm: vm, control: control, marker: marker)
            : MachineDevices(bareMetal: output, marker: marker, extension: configuration.extension)
        if isPC {
            table.formPC(cpus: cpus, tscDeadline: system.check(.tscDeadlineTimer) != 0)
        }
        try table.apply(configuration.cpuidEdits)
        let parts = Parts(
            plan: plan, platform: devices.platform, control: control, memory: memory, boot: boot, table: table,
            irqchip: configuration.irqchip != .none, ioAPIC: devices.ioAPIC, places: configuration.places,
            isPC: guest.isPC, isEdited: !configuration.cpuidEdits.isEmpty, tripleFaultResets: guest.tripleFaultResets,
            page: page?.registers ?? CPUIDRegisters())
        tallies = try lifted { () throws(TallyMemoryError) in
            var tallies: [Tally] = []
            for index in 0..<cpus {
                tallies.append(try TallyPage.tally(vcpu: index, page))
            }
            return tallies
        }
        var vcpus: [RunningVCPU] = []
        for index in 0..<cpus {
            vcpus.append(try Self.makeVCPU(index, of: vm.machine, parts, tallies))
        }
        prefault = configuration.prefaults ? try Self.prefault(memory, vcpus[0].loop.vcpu, system) : nil
        self.control = control
        self.vcpus = vcpus
        sandbox = MachineSandbox(configuration.sandbox)
        self.marker = marker
        tscKHz = vcpus[0].loop.rare.interposer.tscKHz
        try page?.publish(TallyPageHeader(vcpus: UInt32(cpus), tscKHz: tscKHz, vocabulary: .kvm, boot: 1))
        var module: ExitModuleVM?
        if case .module = plan.host {
            module = try lifted { () throws(KVMError) in try ExitModule().newestVM(of: getpid()) }
        }
        statistics = KernelStatistics(vm.machine, module: module) { visit in
            for vcpu in vcpus {
                visit(vcpu.loop.vcpu)
            }
        }
        marker.attach { [tallies, statistics] in
            BootMarker.Note(
                nanoseconds: monotonicNanoseconds(), tallies: tallies.map { $0.snapshot() },
                kernel: statistics.read())
        }
    }

    /// Creates the VM and loads a bare-metal guest.
    public convenience init(
        _ configuration: MachineConfiguration, elf bytes: UnsafeRawBufferPointer, support: BreakpointSupport? = nil
    ) throws(MachineError) {
        try self.init(configuration, .bareMetal(bytes), support: support)
    }

    /// Creates the VM and loads the guest from a file.
    public convenience init(_ configuration: MachineConfiguration, path: String) throws(MachineError) {
        let image = try lifted { () throws(SystemError) in try FileImage(path: path) }
        try self.init(configuration, elf: image.bytes)
    }

    /// What all vCPUs are made of.
    private struct Parts {
        let plan: LiveCPUIDPlan
        let platform: Platform
        let control: RunControl
        let memory: GuestMemory
        let boot: LoadedGuest
        let table: CPUIDTable
        let irqchip: Bool
        let ioAPIC: IOAPIC?
        let places: Set<PlaceAxis>
        let isPC: Bool
        let isEdited: Bool
        let tripleFaultResets: Bool
        let page: CPUIDRegisters
    }

    private static func makeVCPU(
        _ index: Int, of vm: borrowing VirtualMachine, _ parts: Parts, _ tallies: [Tally]
    ) throws(MachineError) -> RunningVCPU {
        let places =
            parts.places.isEmpty
            ? nil : try lifted { () throws(TallyMemoryError) in try PlaceTallies(parts.places) }
        do throws(KVMError) {
            let vcpu = try vm.createVCPU(id: Int32(index))
            // KVM_GET_TSC_KHZ fails where the TSC is unstable: unknown, then.
            let tscKHz = (try? vcpu.tscKHz()) ?? 0
            let answers = TallyAnswers(own: tallies[index], machine: tallies, tscKHz: tscKHz, page: parts.page)
            var interposer = CPUIDInterposer(plan: parts.plan, answers: answers, memory: parts.memory)
            do throws(KVMError) {
                try vcpu.setCPUID(
                    parts.table.forGuest(
                        apicID: UInt32(index), tscKHz: tscKHz, parts.plan.leaves, page: parts.page))
            } catch  where error.errno == EINVAL && parts.isEdited {
                var error = error
                error.remedy = "KVM takes the table as it is, but not as it was edited: take back what was edited last."
                throw error
            }
            try parts.boot.start(vcpu, index: index)
            try interposer.start(vcpu)
            if parts.places.contains(.rip) {
                vcpu.copyOut(.general)
            }
            if parts.irqchip, !parts.boot.waits(index) {
                try vcpu.setMPState(UInt32(KVM_MP_STATE_RUNNABLE))
            }
            return RunningVCPU(
                VCPULoop(
                    vcpu: vcpu, index: index, tally: tallies[index].writer, platform: parts.platform,
                    control: parts.control,
                    rare: RareExits(
                        index: index, memory: parts.memory, ioAPIC: parts.ioAPIC, interposer: interposer,
                        isPC: parts.isPC, tripleFaultResets: parts.tripleFaultResets)), places: places)
        } catch {
            throw .kvm(error)
        }
    }

    private static func prefault(
        _ memory: GuestMemory, _ vcpu: borrowing VCPU, _ system: borrowing System
    ) throws(MachineError) -> Prefault {
        try memory.populate()
        guard system.check(.preFaultMemory) > 0 else {
            return .populated("KVM maps nothing ahead here: KVM_PRE_FAULT_MEMORY takes Linux 6.11 and nested paging")
        }
        return memory.map(into: vcpu).map(Prefault.populated) ?? .mapped
    }

    /// Runs the guest to its end.
    public func run() throws(MachineError) -> RunResult {
        configuration.extension?.attach(
            MachineParts(
                vm: vm, memory: memory, tallies: tallies, host: host, ring: vcpus.first?.loop.vcpu.coalescedRing,
                statistics: statistics))
        let before = statistics.read()
        let start = monotonicNanoseconds()
        let end = try runThreads()
        let wall = monotonicNanoseconds() - start
        let kernel = statistics.read().difference(since: before)
        return RunResult(
            end: end, wallNanoseconds: wall, vcpus: tallies.map { $0.snapshot() }, places: placeSnapshots(),
            anchors: configuration.places.contains(.rip) ? anchors() : [], kernel: kernel,
            hardware: host.exits(kernel), time: VCPUTime(statistics: kernel.counter),
            boot: marker.note.map { note in
                let kernel = note.kernel.difference(since: before)
                return BootReading(
                    nanoseconds: note.nanoseconds - start,
                    userspace: note.tallies.sum() ?? .none(of: .vmm, .kvm),
                    kernel: kernel, hardware: host.exits(kernel))
            },
            prefault: prefault, sandbox: sandbox.state,
            leaf: LeafReport(
                mode: plan.name,
                answered: vcpus.reduce(LeafReport.Answered()) { $0 + $1.loop.rare.interposer.answered },
                last: vcpus.compactMap { $0.loop.rare.interposer.last }.last,
                unfound: Set(vcpus[0].loop.rare.interposer.searches.map(\.name)).sorted(),
                readings: vcpus.flatMap { $0.loop.rare.interposer.readings },
                meaningless: vcpus.map { $0.loop.rare.interposer.meaningless }.reduce(into: [:]) {
                    $0.merge($1, uniquingKeysWith: +)
                }),
            withheldMessages: devices.messages.withheld)
    }

    private func placeSnapshots() -> [PlaceAxis: PlaceSnapshot] {
        configuration.places.reduce(into: [:]) { snapshots, axis in
            snapshots[axis] = vcpus.compactMap(\.places).reduce(into: PlaceSnapshot()) { $0.merge($1.snapshot(axis)) }
        }
    }

    /// Addresses that the processor has been told by Linux: system call entry (MSR_LSTAR) and #GP handler.
    private func anchors() -> [SymbolTable.Anchor] {
        var anchors: [SymbolTable.Anchor] = []
        for vcpu in vcpus {
            if let address = try? vcpu.loop.vcpu.msrs([0xC000_0082]).first, address != 0 {
                anchors.append(.init(symbol: "entry_SYSCALL_64", address: address))
            }
            if let special = try? vcpu.loop.vcpu.specialRegisters(),
                let address = LinearMemory(memory: memory, special: special).faultGate()?.handler
            {
                anchors.append(.init(symbol: "asm_exc_general_protection", address: address))
            }
        }
        return anchors
    }

    /// The names that a Linux guest has of its own kernel's code, out of its RAM, when the run is over; nil when it is no
    /// Linux, or has none. They are where the guest has them: KASLR is in them.
    ///
    /// - Parameter anchors: ``RunResult/anchors``.
    public func kernelSymbols(_ anchors: [SymbolTable.Anchor]) -> SymbolTable? {
        guard let special = try? vcpus[0].loop.vcpu.specialRegisters() else { return nil }
        let linear = LinearMemory(memory: memory, special: special)
        // Those of the first vCPU: another's would not do better.
        for anchor in anchors.prefix(2) {
            guard let place = linear.walk(anchor.address)?.physical,
                let image = memory.surroundings(of: place, before: 32 << 20, after: 64 << 20),
                let table = Kallsyms(UnsafeRawBufferPointer(image)).flatMap(SymbolTable.init),
                table.address(of: anchor.symbol) == anchor.address
            else { continue }
            return table
        }
        return nil
    }

    /// Ends the run from another thread, as its timeout would.
    package func stop() {
        control.finish(.timeout)
    }

    /// Ends the run from another thread, as a signal would.
    package var interrupt: @Sendable (Int32) -> Void {
        { [control] signal in control.finish(.interrupted(signal: signal)) }
    }

    /// How the run ended; a reset or halt behind a panic is one.
    private var ending: RunEnd {
        let end = control.end ?? .halted
        return output.hasPanicked && (end == .reset || end == .halted) ? .panicked : end
    }

    private func runThreads() throws(MachineError) -> RunEnd {
        let signals = try lifted { () throws(SystemError) in try EndingSignals(configuration.endingSignals) }
        devices.input?.begin()
        var helpers: [(loop: EventLoop, thread: Thread)] = []
        var threads: [Thread] = []
        defer {
            MachineDevices.stop(helpers)
            devices.input?.restore()
        }
        for (index, loop) in devices.loops.enumerated() {
            let name = index == 0 ? "devices" : "disk\(index - 1)"
            let thread = try lifted { () throws(SystemError) in try Thread(name: name) { loop.run() } }
            helpers.append((loop, thread))
        }
        let counting = configuration.countsExits
        // Devices with a thread of their own open descriptors that both sides must see.
        let ownDescriptors = devices.loops.isEmpty
        let gate = try sandbox.begin()
        do throws(MachineError) {
            try lifted { () throws(SystemError) in
                for (index, loop) in devices.loops.enumerated() {
                    let intruder = index == 0 ? configuration.intruder : nil
                    let thread = try Thread(name: index == 0 ? "devices" : "disk\(index - 1)") { [sandbox, control] in
                        guard sandbox.enter(.devices, .devicesThread, control) else { return }
                        intruder?()
                        loop.run()
                    }
                    helpers.append((loop, thread))
                }
                for vcpu in vcpus {
                    threads.append(
                        try Thread(name: "vcpu\(vcpu.loop.index)") { [sandbox, control] in
                            if ownDescriptors {
                                // An ioctl on a table that nobody shares takes no reference to the file: two locked
                                // instructions an exit less, 1 % of an exit's time. Where it is not allowed it is not
                                // needed.
                                _ = vmtally_unshare_descriptors()
                            }
                            guard sandbox.enter(.vCPU, .vCPUThread, control) else { return }
                            gate.wait()
                            vcpu.run(counting: counting)
                        })
                }
            }
            try sandbox.enterMain()
        } catch {
            control.finish(.timeout)
            gate.open()
            threads.forEach { $0.join() }
            throw error
        }
        gate.open()
        let deadline = deadline(milliseconds: configuration.timeoutMilliseconds)
        control.wait(until: deadline, signals)
        output.endOfRun()
        threads.forEach { $0.join() }
        let end = ending
        // A slow reader gets what is left, unless time is over or the user has had enough.
        while !output.flush(), !end.isCalledOff, monotonicNanoseconds() < deadline, signals.next() == nil {}
        return end
    }

    private static func prepare(
        _ vm: borrowing VirtualMachine, _ configuration: MachineConfiguration, _ memory: GuestMemory,
        _ page: TallyPage?,
        pins: Int?, isPC: Bool, isTest: Bool
    ) throws(MachineError) {
        do throws(KVMError) {
            // Intel hosts without unrestricted guest want three pages below the BIOS for themselves.
            try vm.setIdentityMapAddress(0xFFFB_C000)
            try vm.setTSSAddress(0xFFFB_D000)
            if let pins {
                try vm.splitIRQChip(pins: UInt32(pins))
            } else if configuration.irqchip != .none {
                try vm.createIRQChip()
            }
            if configuration.devices.acpi == .full {
                try vm.setGSIRouting(GSIRoute.pc)
            }
            if isPC, configuration.irqchip == .kernel {
                try vm.createPIT2(flags: UInt32(KVM_PIT_SPEAKER_DUMMY))
            }
            if isTest, configuration.irqchip == .kernel {
                try Multiboot.startTimer(vm)
            }
            try vm.setMemoryRegion(slot: 0, guestAddress: 0, size: memory.lowSize, host: memory.host)
            if memory.size > memory.lowSize {
                try vm.setMemoryRegion(
                    slot: 1, guestAddress: GuestMemory.holeEnd, size: memory.size - memory.lowSize,
                    host: memory.host + Int(memory.lowSize))
            }
            try page?.map(into: vm)
        } catch {
            throw .kvm(error)
        }
    }

    /// Has KVM count, where it can, and pass on what the guest's tally, its CPUID faulting and the user's wishes need.
    private static func sendToUserspace(
        _ vm: borrowing VirtualMachine, _ configuration: MachineConfiguration, _ plan: LiveCPUIDPlan,
        _ host: HostAnswers
    ) throws(MachineError) {
        var filter = configuration.userspaceMSRs.map { range in
            MSRFilterRange(base: range.lowerBound, count: UInt32(range.count), allow: false)
        }
        if plan.watchesFaulting {
            filter += FaultingMSRs.filter
        }
        do throws(KVMError) {
            try host.count(vm, answering: plan.host.kernelCounts)
            try plan.host.apply(vm)
            if plan.host == .userspace {
                let leaves = TallyLeaf.range
                try vm.enable(HostAnswers.capability, UInt64(leaves.lowerBound), UInt64(leaves.count))
            }
            if !filter.isEmpty {
                try vm.enable(.x86UserSpaceMSR, UInt64(KVM_MSR_EXIT_REASON_FILTER))
                try vm.setMSRFilter(defaultAllow: true, ranges: filter)
            }
        } catch {
            throw .kvm(error)
        }
    }
}

/// One vCPU's loop, on the heap so that its thread and the machine can share it.
///
/// While the thread runs, only the thread uses it; the machine reads it after the join.
private final class RunningVCPU: @unchecked Sendable {
    var loop: VCPULoop
    let places: PlaceTallies?

    init(_ loop: consuming VCPULoop, places: PlaceTallies?) {
        self.loop = loop
        self.places = places
    }

    func run(counting: Bool) {
        loop.control.enter(vcpu: loop.index, runPage: loop.vcpu.runPage)
        if !counting {
            loop.runUncounted()
        } else if let places {
            loop.run(places.writers)
        } else {
            loop.run()
        }
        loop.control.leave(vcpu: loop.index)
    }
}
