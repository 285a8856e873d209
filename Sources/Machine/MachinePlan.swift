// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM

/// A machine before anything of it is built: what the user asked for, settled against what this host's KVM can do.
struct MachinePlan: ~Copyable {
    let configuration: MachineConfiguration
    let guest: Guest
    /// /dev/kvm, closed when the machine has been built.
    let system: System
    /// KVM_GET_SUPPORTED_CPUID, with the leaves that the host's kernel is to answer.
    let table: CPUIDTable
    let host: HostLeafSupport
    let breakpoints: Breakpoints

    /// What breakpoints can do here.
    enum Breakpoints {
        case known(BreakpointSupport)
        /// Being tried in a VM of its own, meanwhile.
        case tried(BreakpointTrial)
        /// Nobody asks.
        case unused
    }

    init(
        _ configuration: MachineConfiguration, _ guest: Guest, support: BreakpointSupport?
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
        let system = try lifted { () throws(KVMError) in try System() }
        let limit = Int(system.check(.maxVCPUs))
        guard configuration.cpus > 0, configuration.cpus <= limit else {
            throw .refused(.vcpus, "\(configuration.cpus) asked for", "KVM allows 1 to \(limit)")
        }
        if configuration.places.contains(.rip), system.check(.syncRegs) & Int32(KVM_SYNC_X86_REGS) == 0 {
            throw .refused(
                .placesOfCode, "KVM does not show registers at exits (KVM_CAP_SYNC_REGS)", "use Linux 4.17 or newer")
        }
        configuration.tallyPage = configuration.tallyPage && system.check(.readOnlyMem) > 0
        var table = try lifted { () throws(KVMError) in try system.supportedCPUID() }
        let host = HostLeafSupport(system, supported: table)
        table.list(host)
        let breakpoints: Breakpoints =
            if let support {
                .known(support)
            } else if configuration.liveCPUID.asksForBreakpoints(host) {
                .tried(try .begun(system, table))
            } else {
                .unused
            }
        self.configuration = configuration
        self.guest = guest
        self.system = system
        self.table = table
        self.host = host
        self.breakpoints = breakpoints
    }

    /// PIT and TSC deadline timer.
    var hasPCTimers: Bool { guest.isPC || configuration.hasPCTimers && configuration.irqchip != .none }

    /// Pins of the I/O APIC in the VMM; nil: there is none there.
    var splitPins: Int? { configuration.irqchip == .split ? guest.pins(configuration.devices) : nil }

    /// What the guest's ACPI tables announce.
    func tables(_ page: TallyPage?) -> ACPITables {
        let devices = configuration.devices
        return ACPITables(
            cpus: configuration.cpus, uart: devices.console == .serial, virtio: devices.virtio,
            fixedHardware: devices.acpi == .full, tallyPage: page?.range)
    }
}

extension MachinePlan.Breakpoints {
    /// Waits for the trial.
    func support() throws(MachineError) -> BreakpointSupport {
        switch self {
        case .known(let support): support
        case .tried(let trial): try trial.result()
        case .unused: BreakpointSupport()
        }
    }
}
