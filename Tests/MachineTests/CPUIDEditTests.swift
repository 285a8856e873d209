// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM
import TestSupport
import Testing
@testable import Machine

/// `run --cpuid`: what the guest's CPUID says, and what it refuses.
struct CPUIDEditTests {
    private static func table() -> CPUIDTable {
        var table = CPUIDTable()
        table.set(leaf: 1, eax: 0x11, ebx: 0x22, ecx: 0xFFFF_FFFF, edx: 0x44)
        table.set(leaf: 7, subleaf: 0, eax: 1, ebx: 2, ecx: 3, edx: 4)
        table.set(leaf: 7, subleaf: 1, eax: 5, ebx: 6, ecx: 7, edx: 8)
        return table
    }

    struct Case: Sendable {
        let edit: CPUIDEdit
        let leaf: UInt32
        let subleaf: UInt32
        let expected: [UInt32]
    }

    @Test(arguments: [
        Case(edit: .init(leaf: 1, register: .eax, value: 9), leaf: 1, subleaf: 5, expected: [9, 0x22, .max, 0x44]),
        Case(
            edit: .init(leaf: 1, register: .ecx, mask: 1 << 21, value: 0), leaf: 1, subleaf: 0,
            expected: [0x11, 0x22, ~(1 << 21), 0x44]),
        Case(
            edit: .init(leaf: 1, register: .edx, mask: 3, value: .max), leaf: 1, subleaf: 0,
            expected: [0x11, 0x22, .max, 0x47]),
        Case(edit: .init(leaf: 7, register: .ebx, value: 9), leaf: 7, subleaf: 0, expected: [1, 9, 3, 4]),
        Case(edit: .init(leaf: 7, register: .ebx, value: 9), leaf: 7, subleaf: 1, expected: [5, 6, 7, 8]),
        Case(edit: .init(leaf: 7, subleaf: 1, register: .ebx, value: 9), leaf: 7, subleaf: 1, expected: [5, 9, 7, 8]),
        Case(edit: .init(leaf: 7, subleaf: 2, register: .edx, value: 9), leaf: 7, subleaf: 2, expected: [0, 0, 0, 9]),
        Case(
            edit: .init(leaf: 0x4000_0010, register: .eax, value: 9), leaf: 0x4000_0010, subleaf: 3,
            expected: [9, 0, 0, 0]),
    ])
    func oneRegisterChanges(_ test: Case) throws {
        var table = Self.table()
        try table.apply([test.edit])
        let entry = try #require(table.entry(leaf: test.leaf, subleaf: test.subleaf))
        #expect([entry.eax, entry.ebx, entry.ecx, entry.edx] == test.expected)
    }

    @Test("the tally's leaves stay what they are", arguments: [0x4FFF_FF00, 0x4FFF_FF03, 0x4FFF_FFFF] as [UInt32])
    func ourLeaves(leaf: UInt32) {
        var table = Self.table()
        #expect(throws: MachineError.self) { try table.apply([CPUIDEdit(leaf: leaf, register: .eax, value: 1)]) }
        #expect(table == Self.table())
    }

    @Test func aSubleafOfALeafWithout() {
        var table = Self.table()
        #expect(throws: MachineError.self) {
            try table.apply([CPUIDEdit(leaf: 1, subleaf: 1, register: .eax, value: 1)])
        }
    }

    /// mov eax, leaf; mov ecx, 0; cpuid; mov eax, ebx; out dx, al and shr eax, 8, four times
    private static func tell(_ leaf: UInt32) -> [UInt8] {
        let byte: [UInt8] = [0xEE, 0xC1, 0xE8, 0x08]
        return Assembly.eax(leaf) + Assembly.ecx(0) + [0x0F, 0xA2, 0x89, 0xD8] + Assembly.edx(0x3F8) + byte + byte
            + byte
            + byte
    }

    @Test(.enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"), arguments: [1, 2])
    func theGuestSeesIt(cpus: Int) throws {
        let outcome = try TinyGuest(Self.tell(0x8000_0002) + Self.tell(0x4000_0010) + Assembly.halt).run {
            $0.cpus = cpus
            $0.cpuidEdits = [
                CPUIDEdit(leaf: 0x8000_0002, register: .ebx, value: 0x6C6C_6154),
                CPUIDEdit(leaf: 0x4000_0010, register: .ebx, value: 0x2179_2121),
                CPUIDEdit(leaf: 0x4000_0010, register: .ebx, mask: 0xFF, value: 0x79),
            ]
        }
        #expect(outcome.failure == nil)
        if cpus == 1 {
            #expect(String(decoding: outcome.serial, as: UTF8.self) == "Tally!y!")
        } else {
            #expect(outcome.serial.sorted() == Array("Tally!y!Tally!y!".utf8).sorted())
        }
    }

    @Test(
        .enabled(if: CommandLineTool.missing == nil, "\(CommandLineTool.missing ?? "")"),
        arguments: [
            ("-NOSUCH", 64, "no such feature"), ("5", 64, "LEAF[.SUB]:REG=VALUE"), ("1:EFX=1", 64, "LEAF"),
            ("1.2.3:EAX=1", 64, "LEAF"), ("1:EAX=0x100000000", 64, "LEAF"), (":=", 64, "LEAF"),
            ("1:EAX=-1", 64, "LEAF"),
            ("0x4FFFFF01:EAX=1", 1, "is one of the tally's"), ("0x80000002.1:EAX=1", 1, "the same for every subleaf"),
            ("-x2apic", 0, ""), ("-kvm-feature-pv-eoi", 0, ""), ("-PV_EOI", 0, ""), ("+REALTIME", 0, ""),
            ("0x80000002:eax=65", 0, ""), ("0x40000010.3:EDX=0xffffffff", 0, ""),
        ])
    func theCommand(edit: String, status: Int32, message: String) throws {
        let folder = try TemporaryFolder()
        let guest = try folder.file("guest.elf", TinyGuest(Assembly.halt).elf)
        let outcome = try CommandLineTool.run(
            "exec \"$VMTALLY\" run --guest $GUEST --live-cpuid off --cpuid '\(edit)' --quiet", ["GUEST": guest])
        #expect(outcome.status == status, "\(outcome.error)")
        #expect(message.isEmpty || outcome.error.contains(message), "\(outcome.error)")
    }
}
