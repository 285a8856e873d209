// SPDX-License-Identifier: Apache-2.0
import TestSupport
import Testing
@testable import Machine

@Suite("Multiboot 1: the machine", .ownThread, .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"))
struct MultibootMachineTests {
    /// Goes to real mode, where two timer interrupts end two HLTs: the first was acknowledged, then.
    private static let realMode = multibootImage(
        [
            0x0F, 0x01, 0x15, 0x2E, 0x10, 0x00, 0x00,  // lgdt 0x102E
            0xEA, 0x3C, 0x10, 0x00, 0x00, 0x08, 0x00,  // ljmp $8, $0x103C: a 16-bit segment
            0x0F, 0x00, 0x2C, 0x10, 0x00, 0x00,  // 0x102E: the GDT's limit and address, 0x102C
            0xFF, 0xFF, 0x00, 0x00, 0x00, 0x9B, 0x00, 0x00,  // 0x1034: code, 64 KiB from 0
            0x0F, 0x20, 0xC0,  // 0x103C: mov %cr0, %eax
            0x24, 0xFE,  // and $0xFE, %al
            0x0F, 0x22, 0xC0,  // mov %eax, %cr0
            0xEA, 0x49, 0x10, 0x00, 0x00,  // ljmp $0, $0x1049
            0x31, 0xC0,  // 0x1049: xor %ax, %ax
            0x8E, 0xD0,  // mov %ax, %ss
            0xBC, 0x00, 0x10,  // mov $0x1000, %sp
            0xB9, 0x02, 0x00,  // mov $2, %cx
            0xFB, 0xF4,  // 1: sti; hlt
            0xE2, 0xFC,  // loop 1b
            0xB0, 0x03,  // mov $3, %al
            0xE6, 0xF4,  // out %al, $0xF4
        ], at: 0x1000)

    @Test("PIC, PIT and real mode's vectors are as a BIOS leaves them: the timer interrupts, again and again")
    func timer() throws {
        try Self.realMode.withUnsafeBytes { bytes in
            var configuration = MachineConfiguration()
            configuration.timeoutMilliseconds = 3_600_000
            configuration.sandbox.scope = .machineThreads
            let machine = try Machine(configuration, .multiboot(bytes, commandLine: ""))
            #expect(try machine.run().end == .exited(status: 7))
        }
    }
}
