// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc

extension VirtualMachine {
    /// The PICs, the I/O APIC and a local APIC for every vCPU to come, all in the kernel (4.24). Before any vCPU.
    public func createIRQChip() throws(KVMError) {
        try fd.control("KVM_CREATE_IRQCHIP", VMTALLY_KVM_CREATE_IRQCHIP)
    }

    /// Local APICs in the kernel, PICs and I/O APIC left to the caller, with `pins` I/O APIC pins reserved for it
    /// (7.5). Before any vCPU.
    public func splitIRQChip(pins: UInt32) throws(KVMError) {
        try enable(.splitIRQChip, UInt64(pins))
    }

    /// The interval timer, after `createIRQChip()` (4.71).
    /// - Parameter flags: `KVM_PIT_SPEAKER_DUMMY` claims port 0x61 as well.
    public func createPIT2(flags: UInt32 = 0) throws(KVMError) {
        var config = kvm_pit_config()
        config.flags = flags
        try fd.control("KVM_CREATE_PIT2", VMTALLY_KVM_CREATE_PIT2, with: &config)
    }

    /// The interval timer's state (4.74).
    public func pit2() throws(KVMError) -> kvm_pit_state2 {
        try fd.read("KVM_GET_PIT2", VMTALLY_KVM_GET_PIT2, into: kvm_pit_state2())
    }

    /// Sets the interval timer's state (4.75).
    public func setPIT2(_ state: kvm_pit_state2) throws(KVMError) {
        var state = state
        try fd.control("KVM_SET_PIT2", VMTALLY_KVM_SET_PIT2, with: &state)
    }

    /// The state of `KVM_IRQCHIP_PIC_MASTER`, `_PIC_SLAVE` or `_IOAPIC` (4.26).
    public func irqChip(_ id: UInt32) throws(KVMError) -> kvm_irqchip {
        var state = kvm_irqchip()
        state.chip_id = id
        return try fd.read("KVM_GET_IRQCHIP", VMTALLY_KVM_GET_IRQCHIP, into: state)
    }

    /// Sets the state of the chip that `state.chip_id` names (4.27).
    public func setIRQChip(_ state: kvm_irqchip) throws(KVMError) {
        var state = state
        try fd.control("KVM_SET_IRQCHIP", VMTALLY_KVM_SET_IRQCHIP, with: &state)
    }

    /// Where kvm-intel may put three pages that it needs for real-mode guests (4.36). Below 4 GiB, not in any slot.
    public func setTSSAddress(_ address: UInt32) throws(KVMError) {
        try fd.control("KVM_SET_TSS_ADDR", VMTALLY_KVM_SET_TSS_ADDR, UInt(address))
    }

    /// Where kvm-intel may put one page more, an identity page table; 0 for the default (4.40). Before any vCPU.
    public func setIdentityMapAddress(_ address: UInt64) throws(KVMError) {
        var address = address
        try fd.control("KVM_SET_IDENTITY_MAP_ADDR", VMTALLY_KVM_SET_IDENTITY_MAP_ADDR, with: &address)
    }

    /// Raises or lowers an interrupt line of the in-kernel chips (4.25). For an edge do both.
    ///
    /// ```swift
    /// try vm.createIRQChip()  // before any vCPU
    /// try vm.irqLine(gsi: 4, level: true)
    /// try vm.irqLine(gsi: 4, level: false)
    /// ```
    public func irqLine(gsi: UInt32, level: Bool) throws(KVMError) {
        var request = kvm_irq_level()
        request.irq = gsi
        request.level = level ? 1 : 0
        try fd.control("KVM_IRQ_LINE", VMTALLY_KVM_IRQ_LINE, with: &request)
    }

    /// Delivers a message-signalled interrupt (4.70). False when the guest has blocked it.
    @discardableResult
    public func signalMSI(address: UInt64, data: UInt32) throws(KVMError) -> Bool {
        var message = kvm_msi()
        message.address_lo = UInt32(truncatingIfNeeded: address)
        message.address_hi = UInt32(truncatingIfNeeded: address >> 32)
        message.data = data
        return try fd.control("KVM_SIGNAL_MSI", VMTALLY_KVM_SIGNAL_MSI, with: &message) > 0
    }

    /// Replaces the whole table of where each GSI goes (4.52).
    public func setGSIRouting(_ routes: [GSIRoute]) throws(KVMError) {
        let buffer = FlexibleBuffer(
            header: kvm_irq_routing.self, element: kvm_irq_routing_entry.self, count: routes.count)
        buffer.header(kvm_irq_routing.self).pointee.nr = UInt32(routes.count)
        let room = buffer.elements(after: kvm_irq_routing.self, kvm_irq_routing_entry.self)
        for (index, route) in routes.enumerated() { (room + index).initialize(to: route.entry) }
        try fd.control("KVM_SET_GSI_ROUTING", VMTALLY_KVM_SET_GSI_ROUTING, buffer.base)
    }
}

/// Where a global system interrupt goes.
public enum GSIRoute: Equatable, Sendable {
    /// To a pin of `KVM_IRQCHIP_PIC_MASTER` (0), `_PIC_SLAVE` (1) or `_IOAPIC` (2).
    case irqChip(gsi: UInt32, chip: UInt32, pin: UInt32)
    /// To local APICs, as a message.
    case msi(gsi: UInt32, address: UInt64, data: UInt32)

    /// A PC's wiring: an ISA interrupt goes to both 8259s and the I/O APIC; the timer's, 0, to the I/O APIC's pin 2. KVM's
    /// own default has it at pin 0.
    public static let pc: [GSIRoute] =
        (0..<16).map { .irqChip(gsi: $0, chip: $0 < 8 ? 0 : 1, pin: $0 % 8) }
        + (0..<24).filter { $0 != 2 }.map { .irqChip(gsi: $0, chip: 2, pin: $0 == 0 ? 2 : $0) }

    fileprivate var entry: kvm_irq_routing_entry {
        var entry = kvm_irq_routing_entry()
        switch self {
        case .irqChip(let gsi, let chip, let pin):
            entry.gsi = gsi
            entry.type = UInt32(KVM_IRQ_ROUTING_IRQCHIP)
            entry.u.irqchip = kvm_irq_routing_irqchip(irqchip: chip, pin: pin)
        case .msi(let gsi, let address, let data):
            entry.gsi = gsi
            entry.type = UInt32(KVM_IRQ_ROUTING_MSI)
            entry.u.msi.address_lo = UInt32(truncatingIfNeeded: address)
            entry.u.msi.address_hi = UInt32(truncatingIfNeeded: address >> 32)
            entry.u.msi.data = data
        }
        return entry
    }
}
