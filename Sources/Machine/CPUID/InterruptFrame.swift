// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import KVM

/// What a #GP pushed in 64-bit mode (SDM vol. 3A 7.14.2), and the way back to ring 3 that IRETQ would take.
struct InterruptFrame {
    private let words: [UInt64]

    /// Reads the frame at the handler's first instruction, where RSP points to the error code.
    init?(at stack: UInt64, _ linear: LinearMemory, _ vcpu: borrowing VCPU) {
        guard let words = linear.readWords(stack, count: 6, vcpu) else { return nil }
        self.words = words
    }

    var errorCode: UInt64 { words[0] }
    var rip: UInt64 { words[1] }
    var cs: UInt16 { UInt16(truncatingIfNeeded: words[2]) }
    var ss: UInt16 { UInt16(truncatingIfNeeded: words[5]) }
    var fromUser: Bool { cs & 3 == 3 }

    /// Puts the vCPU back where the frame says, at CPL 3, past an instruction of so many bytes.
    func unwind(
        _ registers: inout kvm_regs, _ special: inout kvm_sregs, code: kvm_segment, stack: kvm_segment,
        past length: UInt64
    ) {
        registers.rip = code.l == 1 ? rip &+ length : UInt64(UInt32(truncatingIfNeeded: rip &+ length))
        // The fault set RF in the image that it pushed, for an instruction that is done now.
        registers.rflags = words[3] & ~0x1_0000
        registers.rsp = words[4]
        special.cs = code
        special.ss = stack
    }

    /// Where the frame goes back to; nil if IRETQ would not take it.
    func segments(_ linear: LinearMemory, _ vcpu: borrowing VCPU) -> (code: kvm_segment, stack: kvm_segment)? {
        // Type bits: 8 code, 2 writable data (SDM vol. 3A table 3-1).
        guard let code = Self.segment(cs, linear, vcpu), code.type & 8 != 0,
            let stack = Self.segment(ss, linear, vcpu), stack.type & 0b1010 == 0b10, ss & 3 == 3
        else { return nil }
        return (code, stack)
    }

    /// The ring-3 descriptor that a selector names in the guest's GDT or LDT, as a segment register holds it.
    private static func segment(_ selector: UInt16, _ linear: LinearMemory, _ vcpu: borrowing VCPU) -> kvm_segment? {
        let special = linear.special
        let local = selector & 4 != 0
        let base = local ? special.ldt.base : special.gdt.base
        let limit = local ? special.ldt.limit : UInt32(special.gdt.limit)
        let offset = UInt32(selector & ~7)
        guard offset != 0 || local, offset + 7 <= limit,
            let descriptor = linear.readWords(base &+ UInt64(offset), count: 1, vcpu)?.first
        else { return nil }
        let segment = kvm_segment(descriptor: descriptor, selector: selector)
        return segment.present == 1 && segment.s == 1 && segment.dpl == 3 ? segment : nil
    }
}
