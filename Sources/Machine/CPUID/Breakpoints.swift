// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import KVM

extension kvm_guest_debug {
    /// Execution breakpoints, one a debug register, then write breakpoints on eight bytes each; as many as there are
    /// registers (SDM vol. 3B 19.2.4).
    static func breakpoints(_ addresses: [UInt64], writes: [UInt64] = []) -> kvm_guest_debug {
        var debug = kvm_guest_debug()
        debug.control = UInt32(KVM_GUESTDBG_ENABLE) | UInt32(KVM_GUESTDBG_USE_HW_BP)
        withUnsafeMutableBytes(of: &debug.arch.debugreg) { bytes in
            let registers = bytes.bindMemory(to: UInt64.self)
            registers[7] = 0x400
            let kinds = addresses.map { ($0, 0b0000 as UInt64) } + writes.map { ($0, 0b1001 as UInt64) }
            for (index, (address, kind)) in kinds.prefix(4).enumerated() {
                registers[index] = address
                registers[7] |= 2 << (UInt64(index) * 2) | kind << (16 + UInt64(index) * 4)
            }
        }
        return debug
    }

    static var singleStep: kvm_guest_debug {
        var debug = kvm_guest_debug()
        debug.control = UInt32(KVM_GUESTDBG_ENABLE) | UInt32(KVM_GUESTDBG_SINGLESTEP)
        return debug
    }
}

extension VCPU {
    /// Gives the guest a #DB that KVM reported instead of delivering (kvm/api.rst 4.87).
    func reinjectDebugException(dr6: UInt64, breakpoints: kvm_guest_debug) throws(KVMError) {
        var registers = try debugRegisters()
        registers.dr6 = dr6
        try setDebugRegisters(registers)
        var debug = breakpoints
        debug.control |= UInt32(KVM_GUESTDBG_INJECT_DB)
        try setGuestDebug(debug)
    }
}
