// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import KVM
import TestSupport
import Testing
@testable import Machine

/// A guest, the exits it must make, and what it must have seen.
struct ExitCase: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let guest: TinyGuest
    /// What the guest does before it sends its data and halts.
    let exits: [SeenExit]
    /// What the guest found, from its data page.
    let found: [UInt8]
    /// Exits of the hardware that are one and the same for KVM, though they come to us in parts.
    let shared: UInt64

    init(_ name: String, _ code: [UInt8], exits: [SeenExit], found: [UInt8] = [], shared: UInt64 = 0) {
        testDescription = name
        guest = TinyGuest(code + (found.isEmpty ? Assembly.halt : Assembly.sendAndHalt(found.count)))
        self.exits = exits
        self.found = found
        self.shared = shared
    }
}

private let ones = [UInt8](repeating: 0xFF, count: 8)
private let device = TinyGuest.deviceAddress
private let data = TinyGuest.dataAddress

@Suite(.ownThread, .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"))
struct ExitKindTests {
    static let portCases: [ExitCase] = [
        // mov eax, 0x44332211; mov edx, 0x77; out dx, al
        ExitCase(
            "out, 1 byte", Assembly.eax(0x4433_2211) + Assembly.edx(0x77) + [0xEE],
            exits: [.out(port: 0x77, size: 1, data: [0x11])]),
        // out dx, ax
        ExitCase(
            "out, 2 bytes", Assembly.eax(0x4433_2211) + Assembly.edx(0x77) + [0x66, 0xEF],
            exits: [.out(port: 0x77, size: 2, data: [0x11, 0x22])]),
        // out dx, eax
        ExitCase(
            "out, 4 bytes", Assembly.eax(0x4433_2211) + Assembly.edx(0xFFFF) + [0xEF],
            exits: [.out(port: 0xFFFF, size: 4, data: [0x11, 0x22, 0x33, 0x44])]),
        // out 0x80, al
        ExitCase(
            "out to an immediate port", Assembly.eax(7) + [0xE6, 0x80],
            exits: [.out(port: 0x80, size: 1, data: [7])]),
        // mov rax, ...; in al, dx; mov [rbx], rax: of an unclaimed port, and only AL changes
        ExitCase(
            "in, 1 byte", Assembly.rax(0x1122_3344_5566_7788) + Assembly.edx(0x77) + [0xEC] + Assembly.storeRAX,
            exits: [.input(port: 0x77, size: 1, count: 1)],
            found: [0xFF, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]),
        // in ax, dx
        ExitCase(
            "in, 2 bytes", Assembly.rax(0x1122_3344_5566_7788) + Assembly.edx(0x77) + [0x66, 0xED] + Assembly.storeRAX,
            exits: [.input(port: 0x77, size: 2, count: 1)],
            found: [0xFF, 0xFF, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]),
        // in eax, dx: clears the upper half of RAX
        ExitCase(
            "in, 4 bytes", Assembly.rax(0x1122_3344_5566_7788) + Assembly.edx(0x77) + [0xED] + Assembly.storeRAX,
            exits: [.input(port: 0x77, size: 4, count: 1)],
            found: [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]),
        // mov al, 0xC3; mov edx, 0x3FF; out dx, al; xor eax, eax; in al, dx; mov [rbx], rax: a device that answers
        ExitCase(
            "in, from the UART's scratch register",
            Assembly.eax(0xC3) + Assembly.edx(0x3FF) + [0xEE] + Assembly.eax(0) + [0xEC] + Assembly.storeRAX,
            exits: [.out(port: 0x3FF, size: 1, data: [0xC3]), .input(port: 0x3FF, size: 1, count: 1)],
            found: [0xC3, 0, 0, 0, 0, 0, 0, 0]),
    ]

    /// KVM gives each element of a string OUT an exit of its own, but lets a string IN read ahead: 1,024 bytes at a
    /// time, not past the page (arch/x86/kvm/emulate.c, pio_in_emulated).
    static let stringCases: [ExitCase] = [
        // mov rax, ...; mov [rbx], rax; mov esi, data; mov ecx, 5; mov edx, 0x77; rep outsb
        ExitCase(
            "rep outsb",
            Assembly.rax(0x8877_6655_4433_2211) + Assembly.storeRAX + Assembly.esi(data) + Assembly.ecx(5)
                + Assembly.edx(0x77) + [0xF3, 0x6E],
            exits: (1...5).map { .out(port: 0x77, size: 1, data: [$0 * 0x11]) }),
        // rep outsw
        ExitCase(
            "rep outsw",
            Assembly.rax(0x8877_6655_4433_2211) + Assembly.storeRAX + Assembly.esi(data) + Assembly.ecx(3)
                + Assembly.edx(0x77) + [0x66, 0xF3, 0x6F],
            exits: (0..<3).map { .out(port: 0x77, size: 2, data: [$0 * 0x22 + 0x11, $0 * 0x22 + 0x22]) }),
        // rep outsd
        ExitCase(
            "rep outsd",
            Assembly.rax(0x8877_6655_4433_2211) + Assembly.storeRAX + Assembly.esi(data) + Assembly.ecx(2)
                + Assembly.edx(0x77) + [0xF3, 0x6F],
            exits: [
                .out(port: 0x77, size: 4, data: [0x11, 0x22, 0x33, 0x44]),
                .out(port: 0x77, size: 4, data: [0x55, 0x66, 0x77, 0x88]),
            ]),
        // mov edi, data + 4; mov ecx, 3; mov edx, 0x77; rep insb
        ExitCase(
            "rep insb", Assembly.edi(data + 4) + Assembly.ecx(3) + Assembly.edx(0x77) + [0xF3, 0x6C],
            exits: [.input(port: 0x77, size: 1, count: 3)], found: [0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0]),
        // rep insw
        ExitCase(
            "rep insw", Assembly.edi(data + 1) + Assembly.ecx(2) + Assembly.edx(0x77) + [0x66, 0xF3, 0x6D],
            exits: [.input(port: 0x77, size: 2, count: 2)], found: [0, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
        // mov al, 0xA5; mov edx, 0x3FF; out dx, al; mov edi, data; mov ecx, 4; rep insb: each element is asked for
        ExitCase(
            "rep insb from a device",
            Assembly.eax(0xA5) + Assembly.edx(0x3FF) + [0xEE] + Assembly.edi(data) + Assembly.ecx(4) + [0xF3, 0x6C],
            exits: [.out(port: 0x3FF, size: 1, data: [0xA5]), .input(port: 0x3FF, size: 1, count: 4)],
            found: [0xA5, 0xA5, 0xA5, 0xA5, 0]),
        // mov edi, data; mov ecx, 0x900; rep insb
        ExitCase(
            "rep insb of 2,304 bytes", Assembly.edi(data) + Assembly.ecx(0x900) + Assembly.edx(0x77) + [0xF3, 0x6C],
            exits: [1024, 1024, 256].map { .input(port: 0x77, size: 1, count: $0) },
            found: [UInt8](repeating: 0xFF, count: 0x900) + [0]),
        // mov edi, data + 8; mov ecx, 300; rep insd
        ExitCase(
            "rep insd of 1,200 bytes", Assembly.edi(data + 8) + Assembly.ecx(300) + Assembly.edx(0x77) + [0xF3, 0x6D],
            exits: [.input(port: 0x77, size: 4, count: 256), .input(port: 0x77, size: 4, count: 44)],
            found: [UInt8](repeating: 0, count: 8) + [UInt8](repeating: 0xFF, count: 1200) + [0]),
        // std; mov edi, data + 6; mov ecx, 3; rep insw; cld
        ExitCase(
            "rep insw downwards",
            [0xFD] + Assembly.edi(data + 6) + Assembly.ecx(3) + Assembly.edx(0x77) + [0x66, 0xF3, 0x6D, 0xFC],
            exits: [.input(port: 0x77, size: 2, count: 3)], found: [0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
        // mov ecx, 0; rep outsb; rep insb: nothing happens
        ExitCase(
            "rep with a count of 0",
            Assembly.esi(data) + Assembly.ecx(0) + Assembly.edx(0x77) + [0xF3, 0x6E, 0xF3, 0x6C],
            exits: []),
    ]

    static let memoryCases: [ExitCase] = [
        // mov rax, ...; mov edi, device; mov [rdi], al
        ExitCase(
            "write, 1 byte", Assembly.rax(0x8877_6655_4433_2211) + Assembly.edi(device) + [0x88, 0x07],
            exits: [.write(device, [0x11])]),
        // mov [rdi], ax
        ExitCase(
            "write, 2 bytes", Assembly.rax(0x8877_6655_4433_2211) + Assembly.edi(device) + [0x66, 0x89, 0x07],
            exits: [.write(device, [0x11, 0x22])]),
        // mov [rdi], eax
        ExitCase(
            "write, 4 bytes", Assembly.rax(0x8877_6655_4433_2211) + Assembly.edi(device) + [0x89, 0x07],
            exits: [.write(device, [0x11, 0x22, 0x33, 0x44])]),
        // mov [rdi], rax
        ExitCase(
            "write, 8 bytes", Assembly.rax(0x8877_6655_4433_2211) + Assembly.edi(device) + [0x48, 0x89, 0x07],
            exits: [.write(device, [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88])]),
        // mov edi, device + 3; mov [rdi], rax
        ExitCase(
            "write, 8 bytes, unaligned",
            Assembly.rax(0x8877_6655_4433_2211) + Assembly.edi(device + 3)
                + [0x48, 0x89, 0x07],
            exits: [.write(device + 3, [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88])]),
        // mov rax, ...; mov edi, device; mov al, [rdi]; mov [rbx], rax
        ExitCase(
            "read, 1 byte",
            Assembly.rax(0x8877_6655_4433_2211) + Assembly.edi(device) + [0x8A, 0x07] + Assembly.storeRAX,
            exits: [.read(device, count: 1)], found: [0xFF, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]),
        // mov ax, [rdi]
        ExitCase(
            "read, 2 bytes",
            Assembly.rax(0x8877_6655_4433_2211) + Assembly.edi(device) + [0x66, 0x8B, 0x07] + Assembly.storeRAX,
            exits: [.read(device, count: 2)], found: [0xFF, 0xFF, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]),
        // mov eax, [rdi]
        ExitCase(
            "read, 4 bytes",
            Assembly.rax(0x8877_6655_4433_2211) + Assembly.edi(device) + [0x8B, 0x07] + Assembly.storeRAX,
            exits: [.read(device, count: 4)], found: [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]),
        // mov rax, [rdi]
        ExitCase(
            "read, 8 bytes", Assembly.rax(0) + Assembly.edi(device) + [0x48, 0x8B, 0x07] + Assembly.storeRAX,
            exits: [.read(device, count: 8)], found: ones),
        // mov edi, device; mov ecx, 3; rep stosd
        ExitCase(
            "rep stosd", Assembly.eax(0x4433_2211) + Assembly.edi(device) + Assembly.ecx(3) + [0xF3, 0xAB],
            exits: (0..<3).map { .write(device + $0 * 4, [0x11, 0x22, 0x33, 0x44]) }),
        // mov rax, ...; mov edi, 0xFFFFFC; mov [rdi], rax; mov rax, [rdi]; mov [rbx], rax: RAM ends in the middle
        ExitCase(
            "write and read across the end of RAM",
            Assembly.rax(0x8877_6655_4433_2211) + Assembly.edi(0xFF_FFFC) + [0x48, 0x89, 0x07, 0x48, 0x8B, 0x07]
                + Assembly.storeRAX,
            exits: [.write(0x100_0000, [0x55, 0x66, 0x77, 0x88]), .read(0x100_0000, count: 4)],
            found: [0x11, 0x22, 0x33, 0x44, 0xFF, 0xFF, 0xFF, 0xFF]),
    ]

    /// An access across a page boundary comes in two parts: so there are 3, 5, 6 and 7 bytes as well.
    static let straddlingCases: [ExitCase] = (1...7).flatMap { (first: Int) -> [ExitCase] in
        let address = device + 0x1000 - UInt64(first)
        let bytes: [UInt8] = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]
        return [
            // mov rax, ...; mov edi, address; mov [rdi], rax
            ExitCase(
                "write, \(first) + \(8 - first) bytes across a page boundary",
                Assembly.rax(0x8877_6655_4433_2211) + Assembly.edi(address) + [0x48, 0x89, 0x07],
                exits: [.write(address, Array(bytes[..<first])), .write(device + 0x1000, Array(bytes[first...]))],
                shared: 1),
            // mov edi, address; mov rax, [rdi]; mov [rbx], rax
            ExitCase(
                "read, \(first) + \(8 - first) bytes across a page boundary",
                Assembly.rax(0) + Assembly.edi(address) + [0x48, 0x8B, 0x07] + Assembly.storeRAX,
                exits: [.read(address, count: first), .read(device + 0x1000, count: 8 - first)], found: ones,
                shared: 1),
        ]
    }

    @Test(arguments: portCases + stringCases + memoryCases + straddlingCases)
    func exitsAreCountedAndCarryTheirData(_ test: ExitCase) throws {
        let stepper = try Stepper(test.guest)
        let seen = stepper.run()
        let sent = test.found.map { SeenExit.out(port: 0x3F8, size: 1, data: [$0]) }
        #expect(seen == test.exits + sent + [.other(KVM_EXIT_HLT)])
        #expect(stepper.serial == test.found)

        let outcome = try test.guest.run()
        #expect(outcome.result.end == .halted)
        #expect(outcome.serial == test.found)
        #expect(outcome.counts == Dictionary(grouping: seen, by: \.reason).mapValues { UInt64($0.count) })
        #expect(outcome.result.total.total == UInt64(seen.count))
        try ExactnessTests.expectKernelAgrees(
            outcome.result, userspaceExits: UInt64(seen.count), sharing: test.shared)
    }

    /// A string of reads from a device is one exit of the hardware here: the emulator goes on by itself after each
    /// answer, without entering the guest.
    @Test func aStringOfDeviceReadsComesElementByElement() throws {
        // mov edi, data; mov esi, device; mov ecx, 5; rep movsb
        let guest = TinyGuest(
            Assembly.edi(data) + Assembly.esi(device) + Assembly.ecx(5) + [0xF3, 0xA4] + Assembly.sendAndHalt(6))
        let stepper = try Stepper(guest)
        let seen = stepper.run().filter { !$0.isSerial }
        #expect(seen == (0..<5).map { .read(device + $0, count: 1) } + [.other(KVM_EXIT_HLT)])
        #expect(stepper.serial == [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0])
        #expect(try guest.run().count(KVM_EXIT_MMIO) == 5)
    }

    @Test(arguments: [
        (size: 1, value: 0), (1, 1), (1, 0x7F), (1, 0x80), (1, 0xFF), (2, 0x1234), (2, 0xFFFF), (4, 0x1234_5678),
        (4, 0x7FFF_FFFF), (4, 0xFFFF_FFFF),
    ])
    func exitPortEndsTheRunWithTheGuestsStatus(size: Int, value: UInt32) throws {
        let out: [Int: [UInt8]] = [1: [0xEE], 2: [0x66, 0xEF], 4: [0xEF]]
        // mov eax, value; mov edx, 0xF4; out dx, al/ax/eax; 1: jmp 1b
        let guest = TinyGuest(Assembly.eax(value) + Assembly.edx(0xF4) + (out[size] ?? []) + [0xEB, 0xFE])
        let outcome = try guest.run()
        #expect(outcome.result.end == .exited(status: value << 1 | 1))
        #expect(outcome.result.end.exitStatus == Int32((value << 1 | 1) & 0xFF))
        #expect(outcome.counts == [KVM_EXIT_IO: 1])
    }

    @Test func readingTheExitPortEndsNothing() throws {
        // in al, 0xF4; mov [rbx], rax
        let outcome = try TinyGuest(Assembly.eax(0) + [0xE4, 0xF4] + Assembly.storeRAX + Assembly.sendAndHalt(1)).run()
        #expect(outcome.result.end == .halted)
        #expect(outcome.serial == [0xFF])
    }

    @Test(arguments: [("cli; hlt", [0xFA, 0xF4]), ("sti; nop; hlt", [0xFB, 0x90, 0xF4])] as [(String, [UInt8])])
    func haltEndsTheRunWithStatusZero(_ name: String, _ code: [UInt8]) throws {
        let outcome = try TinyGuest(code).run()
        #expect(outcome.result.end == .halted)
        #expect(outcome.result.end.exitStatus == 0)
        #expect(outcome.counts == [KVM_EXIT_HLT: 1])
    }

    /// ud2 without an IDT: #UD, double fault, triple fault.
    @Test func tripleFaultFailsWithRegistersAndCode() throws {
        let outcome = try TinyGuest(Assembly.eax(0x1234_5678) + [0x0F, 0x0B]).run()
        let failure = try #require(outcome.failure)
        #expect(outcome.result.end.exitStatus == 1)
        #expect(outcome.counts == [KVM_EXIT_SHUTDOWN: 1])
        #expect(failure.cause == "KVM_EXIT_SHUTDOWN: triple fault")
        #expect(failure.state.contains("rip    000000000010000a"))
        #expect(failure.state.contains("rax    0000000012345678"))
        #expect(failure.state.contains("bytes at rip: 0f 0b 00"))
    }

    /// jmp to an address where no memory is: KVM has no instruction to run there, on any backend.
    @Test func codeOutsideMemoryFailsWithAReport() throws {
        // mov edi, device; jmp rdi
        let outcome = try TinyGuest(Assembly.edi(device) + [0xFF, 0xE7]).run()
        let failure = try #require(outcome.failure)
        #expect(outcome.result.end.exitStatus == 1)
        #expect(outcome.counts == [KVM_EXIT_INTERNAL_ERROR: 1])
        #expect(failure.cause == "KVM_EXIT_INTERNAL_ERROR: KVM cannot emulate the instruction at RIP")
        #expect(failure.state.contains("rip    00000000d0000000"))
        #expect(failure.state.contains("bytes at rip: not in guest memory"))
    }

    @Test(.enabled(if: Host.emulatesRing0, "only where KVM emulates ring 0 does it give up on int3"))
    func unemulatedInstructionFailsWithItsBytes() throws {
        let outcome = try TinyGuest([0xCC, 0x90, 0x90]).run()
        let failure = try #require(outcome.failure)
        #expect(outcome.counts == [KVM_EXIT_INTERNAL_ERROR: 1])
        #expect(failure.state.contains("bytes at rip: cc 90 90"))
    }

    /// The last bytes of RAM: the report must not read past them.
    @Test func failureAtTheEndOfMemoryIsReported() throws {
        // mov edi, 0xFFFFFE; mov word [rdi], 0x0B0F; jmp rdi
        let outcome = try TinyGuest(Assembly.edi(0xFF_FFFE) + [0x66, 0xC7, 0x07, 0x0F, 0x0B, 0xFF, 0xE7]).run()
        let failure = try #require(outcome.failure)
        #expect(failure.state.contains("bytes at rip: 0f 0b"), "\(failure)")
    }
}
