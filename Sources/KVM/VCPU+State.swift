// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc

/// Registers and events. All of them are the state between two `run()`s.
/// A vCPU's state, one structure of the kernel's each.
///
/// ```swift
/// var registers = try vcpu.registers()
/// registers.rip = 0x1000
/// try vcpu.setRegisters(registers)
/// ```
extension VCPU {
    /// RAX to R15, RIP and RFLAGS (4.11).
    public func registers() throws(KVMError) -> kvm_regs {
        try fd.read("KVM_GET_REGS", VMTALLY_KVM_GET_REGS, into: kvm_regs())
    }

    /// Clears a pending exception, too (4.12).
    public func setRegisters(_ registers: kvm_regs) throws(KVMError) {
        var registers = registers
        try fd.control("KVM_SET_REGS", VMTALLY_KVM_SET_REGS, with: &registers)
    }

    /// Segments, descriptor tables, control registers, EFER and the APIC base (4.13).
    public func specialRegisters() throws(KVMError) -> kvm_sregs {
        try fd.read("KVM_GET_SREGS", VMTALLY_KVM_GET_SREGS, into: kvm_sregs())
    }

    /// EINVAL for a state that no processor can be in (4.14).
    public func setSpecialRegisters(_ registers: kvm_sregs) throws(KVMError) {
        var registers = registers
        try fd.control("KVM_SET_SREGS", VMTALLY_KVM_SET_SREGS, with: &registers)
    }

    /// Breakpoints and single-step for the debugger outside, which is us (4.87). The exit is KVM_EXIT_DEBUG.
    public func setGuestDebug(_ debug: kvm_guest_debug) throws(KVMError) {
        var debug = debug
        try fd.control("KVM_SET_GUEST_DEBUG", VMTALLY_KVM_SET_GUEST_DEBUG, with: &debug)
    }

    /// The guest's own DR0 to DR3, DR6 and DR7 (4.33).
    public func debugRegisters() throws(KVMError) -> kvm_debugregs {
        try fd.read("KVM_GET_DEBUGREGS", VMTALLY_KVM_GET_DEBUGREGS, into: kvm_debugregs())
    }

    /// Writes the guest's own debug registers (4.34).
    public func setDebugRegisters(_ registers: kvm_debugregs) throws(KVMError) {
        var registers = registers
        try fd.control("KVM_SET_DEBUGREGS", VMTALLY_KVM_SET_DEBUGREGS, with: &registers)
    }

    /// Exceptions, interrupts, NMIs and SMIs on their way into the guest (4.31).
    public func events() throws(KVMError) -> kvm_vcpu_events {
        try fd.read("KVM_GET_VCPU_EVENTS", VMTALLY_KVM_GET_VCPU_EVENTS, into: kvm_vcpu_events())
    }

    /// Injects or takes back what is on its way into the guest; `flags` says which parts are valid (4.32).
    public func setEvents(_ events: kvm_vcpu_events) throws(KVMError) {
        var events = events
        try fd.control("KVM_SET_VCPU_EVENTS", VMTALLY_KVM_SET_VCPU_EVENTS, with: &events)
    }

    /// Walks the guest's present page tables: `valid` is 0 where `linear` is not mapped (4.15).
    public func translate(_ linear: UInt64) throws(KVMError) -> kvm_translation {
        var translation = kvm_translation()
        translation.linear_address = linear
        try fd.control("KVM_TRANSLATE", VMTALLY_KVM_TRANSLATE, with: &translation)
        return translation
    }

    /// The local APIC's registers; needs an in-kernel one (4.57).
    public func lapic() throws(KVMError) -> kvm_lapic_state {
        try fd.read("KVM_GET_LAPIC", VMTALLY_KVM_GET_LAPIC, into: kvm_lapic_state())
    }

    /// Writes the local APIC's registers (4.58).
    public func setLAPIC(_ state: kvm_lapic_state) throws(KVMError) {
        var state = state
        try fd.control("KVM_SET_LAPIC", VMTALLY_KVM_SET_LAPIC, with: &state)
    }

    /// `KVM_MP_STATE_RUNNABLE`, `_HALTED`, ... (4.38).
    public func mpState() throws(KVMError) -> UInt32 {
        try fd.read("KVM_GET_MP_STATE", VMTALLY_KVM_GET_MP_STATE, into: kvm_mp_state()).mp_state
    }

    /// Any but RUNNABLE needs an in-kernel local APIC (4.39).
    public func setMPState(_ state: UInt32) throws(KVMError) {
        var state = kvm_mp_state(mp_state: state)
        try fd.control("KVM_SET_MP_STATE", VMTALLY_KVM_SET_MP_STATE, with: &state)
    }

    /// XCR0 (4.44).
    public func xcrs() throws(KVMError) -> kvm_xcrs {
        try fd.read("KVM_GET_XCRS", VMTALLY_KVM_GET_XCRS, into: kvm_xcrs())
    }

    /// Writes XCR0 (4.45).
    public func setXCRs(_ registers: kvm_xcrs) throws(KVMError) {
        var registers = registers
        try fd.control("KVM_SET_XCRS", VMTALLY_KVM_SET_XCRS, with: &registers)
    }

    /// x87 and SSE (4.22).
    public func fpu() throws(KVMError) -> kvm_fpu {
        try fd.read("KVM_GET_FPU", VMTALLY_KVM_GET_FPU, into: kvm_fpu())
    }

    /// Writes x87 and SSE (4.23).
    public func setFPU(_ state: kvm_fpu) throws(KVMError) {
        var state = state
        try fd.control("KVM_SET_FPU", VMTALLY_KVM_SET_FPU, with: &state)
    }

    /// The XSAVE area in the processor's layout: 4096 bytes, more with AMX (4.42, 4.134).
    public func xsave() throws(KVMError) -> [UInt8] {
        let buffer = FlexibleBuffer(byteCount: xsaveSize)
        if xsaveSize > 4096 {
            try fd.control("KVM_GET_XSAVE2", VMTALLY_KVM_GET_XSAVE2, buffer.base)
        } else {
            try fd.control("KVM_GET_XSAVE", VMTALLY_KVM_GET_XSAVE, buffer.base)
        }
        return Array(UnsafeRawBufferPointer(start: buffer.base, count: xsaveSize))
    }

    /// Takes an area as `xsave()` gives it (4.43).
    public func setXSAVE(_ area: [UInt8]) throws(KVMError) {
        guard area.count == xsaveSize else {
            throw KVMError(
                call: "KVM_SET_XSAVE", errno: EINVAL, remedy: "The area has \(area.count) bytes, not \(xsaveSize).")
        }
        let buffer = FlexibleBuffer(byteCount: xsaveSize)
        buffer.base.copyMemory(from: area, byteCount: area.count)
        try fd.control("KVM_SET_XSAVE", VMTALLY_KVM_SET_XSAVE, buffer.base)
    }

    /// The guest's TSC frequency in kHz (4.56); EIO where the host's own TSC is not stable.
    public func tscKHz() throws(KVMError) -> UInt32 {
        UInt32(try fd.control("KVM_GET_TSC_KHZ", VMTALLY_KVM_GET_TSC_KHZ))
    }

    /// Gives the guest a TSC of `frequency` kHz, before it runs (4.55).
    public func setTSCKHz(_ frequency: UInt32) throws(KVMError) {
        try fd.control("KVM_SET_TSC_KHZ", VMTALLY_KVM_SET_TSC_KHZ, UInt(frequency))
    }

    /// Which signals are blocked during `run()` only: bit n - 1 for signal n; nil undoes it (4.21).
    public func setSignalMask(_ mask: UInt64?) throws(KVMError) {
        guard let mask else {
            try fd.control("KVM_SET_SIGNAL_MASK", VMTALLY_KVM_SET_SIGNAL_MASK)
            return
        }
        // `len` and then the kernel's sigset, 8 bytes, unaligned.
        let buffer = FlexibleBuffer(byteCount: 4 + 8)
        buffer.base.storeBytes(of: 8, as: UInt32.self)
        buffer.base.storeBytes(of: mask, toByteOffset: 4, as: UInt64.self)
        try fd.control("KVM_SET_SIGNAL_MASK", VMTALLY_KVM_SET_SIGNAL_MASK, buffer.base)
    }

    /// Queues a non-maskable interrupt (4.64).
    public func nmi() throws(KVMError) {
        try fd.control("KVM_NMI", VMTALLY_KVM_NMI)
    }

    /// Queues a system management interrupt; needs `KVM_CAP_X86_SMM`.
    public func smi() throws(KVMError) {
        try fd.control("KVM_SMI", VMTALLY_KVM_SMI)
    }

    /// Queues external interrupt `vector`, where no in-kernel irqchip does it; after `run()` has returned with
    /// `ready_for_interrupt_injection` set (4.16).
    public func interrupt(_ vector: UInt8) throws(KVMError) {
        var request = kvm_interrupt(irq: UInt32(vector))
        try fd.control("KVM_INTERRUPT", VMTALLY_KVM_INTERRUPT, with: &request)
    }

    /// Tells a guest with kvmclock that it was paused, so that its watchdogs hold still (4.70).
    public func notifyPaused() throws(KVMError) {
        try fd.control("KVM_KVMCLOCK_CTRL", VMTALLY_KVM_KVMCLOCK_CTRL)
    }
}
