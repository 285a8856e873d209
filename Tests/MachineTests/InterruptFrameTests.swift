// SPDX-License-Identifier: Apache-2.0

import KVM
import Testing

@testable import Machine

/// Frames of #GP that IRETQ would not take back to ring 3: the guest's own affair, and none that the VMM may load.
struct InterruptFrameTests {
    /// GDT: null, kernel code, data, user data, user code 64, user code 32, user data read-only, not present, a TSS.
    private static let descriptors: [UInt64] = [
        0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF,
        0x00CF_FB00_0000_FFFF, 0x00CF_F100_0000_FFFF, 0x00CF_7300_0000_FFFF, 0x0000_8B00_0000_0067,
    ]

    @Test(
        arguments: [
            (0x23, 0x1B, true), (0x2B, 0x1B, true), (0x1B, 0x1B, false), (0x23, 0x23, false), (0x23, 0x33, false),
            (0x23, 0x3B, false), (0x23, 0x18, false), (0x23, 0x13, false), (0x0B, 0x1B, false), (0x43, 0x1B, false),
            (0x23, 0x03, false), (0x03, 0x1B, false), (0x23, 0x4B, false), (0x27, 0x1B, false), (0xFFFB, 0x1B, false),
        ] as [(cs: UInt16, ss: UInt16, isTaken: Bool)])
    func segments(frame: (cs: UInt16, ss: UInt16, isTaken: Bool)) throws {
        let memory = try GuestMemory(mebibytes: 1)
        let longMode = LongMode(base: 0x8000)
        try #require(longMode.write(to: memory))
        for (index, descriptor) in Self.descriptors.enumerated() {
            memory.store(descriptor, at: 0x2000 + UInt64(index) * 8)
        }
        let words: [UInt64] = [0, 0x1234, UInt64(frame.cs), 0x202, 0x5678, UInt64(frame.ss)]
        for (index, word) in words.enumerated() {
            memory.store(word, at: 0x3000 + UInt64(index) * 8)
        }
        var special = kvm_sregs()
        (special.cr0, special.cr3, special.cr4, special.efer) = (0x8001_0001, longMode.pml4, 0x20, 0x500)
        (special.gdt.base, special.gdt.limit) = (0x2000, UInt16(Self.descriptors.count * 8 - 1))
        let linear = LinearMemory(memory: memory, special: special)
        let vcpu = try FabricatedExit.absentVCPU()
        // Not inside the macro: a vCPU cannot be copied.
        let read = InterruptFrame(at: 0x3000, linear, vcpu)
        let interrupt = try #require(read)
        let taken = interrupt.segments(linear, vcpu)
        #expect((taken != nil) == frame.isTaken)
        #expect(taken?.code.selector ?? frame.cs == frame.cs && taken?.stack.selector ?? frame.ss == frame.ss)
    }
}
