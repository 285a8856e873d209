import CLinuxKVM
import KVM

/// What a #GP out of ring 3 pushed in 64-bit mode (SDM vol. 3A 7.14.2), and the way back that IRETQ would take.
struct InterruptFrame {
    static let words = 6

    let errorCode: UInt64
    let rip: UInt64
    let cs: UInt16
    let rflags: UInt64
    let rsp: UInt64
    let ss: UInt16

    init?(_ words: [UInt64]) {
        guard words.count == Self.words else { return nil }
        errorCode = words[0]
        rip = words[1]
        cs = UInt16(truncatingIfNeeded: words[2])
        rflags = words[3]
        rsp = words[4]
        ss = UInt16(truncatingIfNeeded: words[5])
    }

    var fromUser: Bool { cs & 3 == 3 }

    /// Puts the vCPU back where the frame says, at CPL 3, `skipping` bytes further.
    func unwind(
        _ registers: inout kvm_regs, _ special: inout kvm_sregs, code: kvm_segment, stack: kvm_segment,
        skipping length: UInt64
    ) {
        registers.rip = code.l == 1 ? rip &+ length : UInt64(UInt32(truncatingIfNeeded: rip &+ length))
        registers.rsp = rsp
        // RF was set in the image that the fault pushed; the instruction that it was for has been emulated.
        registers.rflags = rflags & ~0x1_0000
        special.cs = code
        special.ss = stack
    }

    /// The code or data descriptor that a selector names in the guest's GDT or LDT, as a segment register holds it.
    static func segment(
        _ selector: UInt16, _ special: kvm_sregs, _ linear: borrowing LinearMemory, _ vcpu: borrowing VCPU
    ) -> kvm_segment? {
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
