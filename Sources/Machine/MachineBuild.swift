// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import Glibc
import KVM
import Linux

/// The parts of a machine, built in the order that KVM wants them: VM, memory, guest, devices, vCPUs.
struct MachineBuild {
    let liveCPUID: LiveCPUIDPlan
    let vm: SharedVM
    let memory: GuestMemory
    let page: TallyPage?
    let control: RunControl
    let recorder: RunRecorder?
    let marker: BootMarker
    let output: SerialOutput
    let devices: MachineDevices
    let tallies: [Tally]
    let vcpus: [RunningVCPU]
    let statistics: KernelStatistics
    let prefault: Prefault?

    init(_ plan: borrowing MachinePlan) throws(MachineError) {
        let (configuration, guest, host) = (plan.configuration, plan.guest, plan.host)
        let cpus = configuration.cpus
        let memory = try GuestMemory(mebibytes: configuration.memoryMiB, hugePages: guest.isPC)
        let page: TallyPage? =
            if let counters = configuration.counters {
                counters.page
            } else {
                configuration.tallyPage ? try TallyPage(cpus: cpus) : nil
            }
        let boot = try LoadedGuest(guest, into: memory, cpus: cpus, tables: plan.tables(page))
        vm = SharedVM(try lifted { () throws(KVMError) in try plan.system.createVM() })
        try Self.furnish(vm.machine, plan, memory, page)
        let breakpoints = plan.breakpoints
        liveCPUID = try LiveCPUIDPlan(
            configuration.liveCPUID, sites: boot.sites, searches: configuration.cpuidSites, cpus: cpus, host: host,
            tableLoads: { limit in DescriptorTableLoads.find(in: memory, boot.identityMapped, limit: limit) },
            support: { () throws(MachineError) in try breakpoints.support() })
        try Self.sendToUserspace(vm.machine, configuration, liveCPUID, host)
        // Calling vCPUs out costs exits, which a guest that lists sites wants to know of: it has its own way to say
        // that its handler is there.
        let control = try RunControl(cpus: cpus, callsOut: liveCPUID.fault)
        recorder = configuration.intervals.map { RunRecorder($0) }
        let marker = BootMarker(configuration.bootMarker, recorder: recorder) { control.finish(.marker) }
        output = SerialOutput(
            configuration.serial, marker: marker.watchesConsole ? marker : nil,
            watchesForPanic: guest.isLinux)
        devices =
            guest.isPC
            ? try MachineDevices(
                pc: configuration.devices, cpus: cpus, splitPins: plan.splitPins, isTest: guest.isTest, output: output,
                memory: memory, vm: vm, control: control, marker: marker)
            : MachineDevices(bareMetal: output, marker: marker, extension: configuration.extension)
        var table = plan.table
        if plan.hasPCTimers {
            table.applyPCTopology(cpus: cpus, tscDeadline: plan.system.check(.tscDeadlineTimer) != 0)
        }
        try table.apply(configuration.cpuidEdits)
        let counters = configuration.counters
        tallies = try lifted { () throws(TallyMemoryError) in
            if let counters { return counters.tallies }
            var tallies: [Tally] = []
            for index in 0..<cpus {
                tallies.append(try TallyPage.tally(vcpu: index, page))
            }
            return tallies
        }
        let parts = VCPUParts(
            liveCPUID: liveCPUID, platform: devices.platform, control: control, memory: memory, boot: boot,
            table: table, irqchip: configuration.irqchip != .none, ioAPIC: devices.ioAPIC,
            places: configuration.places, isPC: guest.isPC, isEdited: !configuration.cpuidEdits.isEmpty,
            tripleFaultResets: guest.tripleFaultResets, page: page?.registers ?? CPUIDRegisters())
        var vcpus: [RunningVCPU] = []
        for index in 0..<cpus {
            vcpus.append(try Self.makeVCPU(index, of: vm.machine, parts, tallies))
        }
        prefault = configuration.prefaults ? try Self.prefault(memory, vcpus[0].loop.vcpu, plan.system) : nil
        var module: ExitModuleVM?
        if case .module = liveCPUID.host {
            module = try lifted { () throws(KVMError) in try ExitModule().newestVM(of: getpid()) }
        }
        statistics = KernelStatistics(vm.machine, module: module) { [vcpus] visit in
            for vcpu in vcpus {
                visit(vcpu.loop.vcpu)
            }
        }
        self.memory = memory
        self.page = page
        self.control = control
        self.marker = marker
        self.vcpus = vcpus
    }

    /// What all vCPUs are made of.
    private struct VCPUParts {
        let liveCPUID: LiveCPUIDPlan
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
        _ index: Int, of vm: borrowing VirtualMachine, _ parts: VCPUParts, _ tallies: [Tally]
    ) throws(MachineError) -> RunningVCPU {
        let places =
            parts.places.isEmpty
            ? nil : try lifted { () throws(TallyMemoryError) in try PlaceTallies(parts.places) }
        do throws(KVMError) {
            let vcpu = try vm.createVCPU(id: Int32(index))
            // KVM_GET_TSC_KHZ fails where the TSC is unstable: unknown, then.
            let tscKHz = (try? vcpu.tscKHz()) ?? 0
            let answers = TallyAnswers(own: tallies[index], machine: tallies, tscKHz: tscKHz, page: parts.page)
            var interposer = CPUIDInterposer(plan: parts.liveCPUID, answers: answers, memory: parts.memory)
            do throws(KVMError) {
                try vcpu.setCPUID(
                    parts.table.forGuest(
                        apicID: UInt32(index), tscKHz: tscKHz, parts.liveCPUID.leaves, page: parts.page))
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

    /// Interrupt controllers, timers and memory: all that must be there before the first vCPU.
    private static func furnish(
        _ vm: borrowing VirtualMachine, _ plan: borrowing MachinePlan, _ memory: GuestMemory, _ page: TallyPage?
    ) throws(MachineError) {
        let configuration = plan.configuration
        do throws(KVMError) {
            // Intel hosts without unrestricted guest want three pages below the BIOS for themselves.
            try vm.setIdentityMapAddress(0xFFFB_C000)
            try vm.setTSSAddress(0xFFFB_D000)
            if let pins = plan.splitPins {
                try vm.splitIRQChip(pins: UInt32(pins))
            } else if configuration.irqchip != .none {
                try vm.createIRQChip()
            }
            if configuration.devices.acpi == .full {
                try vm.setGSIRouting(GSIRoute.pc)
            }
            if plan.hasPCTimers, configuration.irqchip == .kernel {
                try vm.createPIT2(flags: UInt32(KVM_PIT_SPEAKER_DUMMY))
            }
            if plan.guest.isTest, configuration.irqchip == .kernel {
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
        _ vm: borrowing VirtualMachine, _ configuration: MachineConfiguration, _ liveCPUID: LiveCPUIDPlan,
        _ host: HostLeafSupport
    ) throws(MachineError) {
        var filter = configuration.userspaceMSRs.map { range in
            MSRFilterRange(base: range.lowerBound, count: UInt32(range.count), allow: false)
        }
        if liveCPUID.watchesFaulting {
            filter += FaultingMSRs.filter
        }
        do throws(KVMError) {
            try host.count(vm, answering: liveCPUID.host.kernelCounts)
            try liveCPUID.host.apply(vm)
            if liveCPUID.host == .userspace {
                let leaves = TallyLeaf.range
                try vm.enable(HostLeafSupport.capability, UInt64(leaves.lowerBound), UInt64(leaves.count))
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
