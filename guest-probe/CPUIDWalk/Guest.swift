// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// Walks the CPUID leaves by an instruction that KVM answers and by those that the VMM interposes, and compares.
///
/// Ends the run with 0 when every answer is the same, 1 when not; each difference is a line on the serial port.
@c(guest_main)
func guestMain(_ boot: UnsafePointer<guest_boot_info>?, _ vcpu: UInt32) -> Never {
    guard vcpu == 0 else { stop() }
    var walk = Walk()
    for leaf in 0...0x30 as ClosedRange<UInt32> { walk.compare(leaf) }
    for leaf in 0x4000_0000...0x4000_0012 as ClosedRange<UInt32> { walk.compare(leaf) }
    for leaf in 0x8000_0000...0x8000_0028 as ClosedRange<UInt32> { walk.compare(leaf) }
    // Ends of classes, classes without an entry, and what lies between them.
    walk.compare(0x1FFF_FFFF)
    walk.compare(0x2000_0000)
    walk.compare(0x3FFF_FFFF)
    walk.compare(0x4000_0100)
    walk.compare(0x4FFF_FEFF)
    walk.compare(0x5000_0000)
    walk.compare(0x7FFF_FFFF)
    walk.compare(0x8FFF_FFFF)
    walk.compare(0xC000_0000)
    walk.compare(0xC000_0004)
    walk.compare(0xFFFF_FFFF)
    walk.finish()
}

struct Walk: ~Copyable {
    private var compared: UInt64 = 0
    private var differences: UInt64 = 0
    private let userIsInterposed: Bool

    init() {
        var result = guest_registers()
        guest_cpuid_user(TallyLeaf.features, 0, &result)
        userIsInterposed = result.ebx & TallyFeatures.Flags.live.rawValue != 0
    }

    mutating func compare(_ leaf: UInt32) {
        for subleaf in 0...6 as ClosedRange<UInt32> { compare(leaf, subleaf) }
        compare(leaf, 0x100)
        compare(leaf, 0xFFFF_FFFF)
    }

    private mutating func compare(_ leaf: UInt32, _ subleaf: UInt32) {
        var expected = guest_registers()
        guest_cpuid_inline(leaf, subleaf, &expected)
        var kernel = guest_registers()
        guest_cpuid(leaf, subleaf, &kernel)
        check(leaf, subleaf, ring: 0, kernel, expected)
        if userIsInterposed {
            var user = guest_registers()
            guest_cpuid_user(leaf, subleaf, &user)
            check(leaf, subleaf, ring: 3, user, expected)
        }
    }

    private mutating func check(
        _ leaf: UInt32, _ subleaf: UInt32, ring: UInt64, _ got: guest_registers, _ expected: guest_registers
    ) {
        compared += 1
        guard
            got.eax != expected.eax || got.ebx != expected.ebx || got.ecx != expected.ecx || got.edx != expected.edx
        else { return }
        differences += 1
        var serial = Serial()
        serial.put("ring ")
        serial.put(ring)
        serial.put(" leaf ")
        serial.put(hexadecimal: UInt64(leaf))
        serial.put(" subleaf ")
        serial.put(hexadecimal: UInt64(subleaf))
        serial.put(" eax:ebx, ecx:edx ")
        put(got, to: &serial)
        serial.put(" KVM ")
        put(expected, to: &serial)
        serial.put("\n")
    }

    private func put(_ registers: guest_registers, to serial: inout Serial) {
        serial.put(hexadecimal: UInt64(registers.eax) << 32 | UInt64(registers.ebx))
        serial.put(" ")
        serial.put(hexadecimal: UInt64(registers.ecx) << 32 | UInt64(registers.edx))
    }

    consuming func finish() -> Never {
        var serial = Serial()
        serial.put("compared ")
        serial.put(compared)
        serial.put(", different ")
        serial.put(differences)
        serial.put(userIsInterposed ? ", rings 0 and 3\n" : ", ring 0\n")
        serial.flush()
        exitRun(differences == 0 ? 0 : 1)
    }
}
