// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
@testable import KVM

/// The answers of `CPUIDTable.answer` against those that KVM gives a guest, over leaves in and out of every class.
@Suite(.enabled(if: noKVM == nil, "no /dev/kvm: \(noKVM ?? "")"))
struct CPUIDAnswerTests {
    /// What to make of the table that the host supports, before the guest gets it.
    struct Variant: CustomTestStringConvertible, Sendable {
        let testDescription: String
        let change: @Sendable (inout CPUIDTable) -> Void

        init(_ description: String, vendor: String? = nil, _ change: @escaping @Sendable (inout CPUIDTable) -> Void) {
            testDescription = [vendor, description].compactMap { $0 }.joined(separator: ", ")
            self.change = { table in
                if let vendor { table.setVendor(vendor) }
                change(&table)
            }
        }
    }

    static let variants: [Variant] =
        ["GenuineIntel", "AuthenticAMD", "AMDisbetter!", "HygonGenuine"].map { vendor in
            Variant("as supported", vendor: vendor) { _ in }
        }
        + ["GenuineIntel", "AuthenticAMD"].flatMap { vendor in
            [
                // The highest basic leaf answers for all that is out of range, with the subleaf that was asked for.
                Variant("highest 7", vendor: vendor) { $0.setHighestBasicLeaf(7) },
                Variant("highest 0xB, 2 levels", vendor: vendor) { table in
                    table.remove(leaf: 0xB)
                    table.set(leaf: 0xB, subleaf: 0, eax: 1, ebx: 2, ecx: 0x100, edx: 0x55)
                    table.set(leaf: 0xB, subleaf: 1, eax: 4, ebx: 4, ecx: 0x201, edx: 0x77)
                    table.setHighestBasicLeaf(0xB)
                },
                Variant("highest 0x1F, 2 levels", vendor: vendor) { table in
                    table.remove(leaf: 0x1F)
                    table.set(leaf: 0x1F, subleaf: 0, eax: 1, ebx: 2, ecx: 0x100, edx: 0x55)
                    table.set(leaf: 0x1F, subleaf: 1, eax: 4, ebx: 4, ecx: 0x201, edx: 0x77)
                    table.setHighestBasicLeaf(0x1F)
                },
                Variant("highest is missing", vendor: vendor) { $0.setHighestBasicLeaf(0x123) },
                Variant("a tally class", vendor: vendor) { table in
                    table.set(leaf: 0x4FFF_FF00, eax: 0x4FFF_FFFF, ebx: 0x6174_6D56, ecx: 0x456C_6C79, edx: 0x7374_6978)
                    table.set(leaf: 0x4FFF_FFFE, eax: 1, ebx: 2, ecx: 3, edx: 4)
                    table.set(leaf: 0x4FFF_FFFF, subleaf: 0, eax: 5, ebx: 6, ecx: 7, edx: 8)
                },
                Variant("two entries that match", vendor: vendor) { table in
                    table.entries.append(entry(0x4000_0005, 7, flags: 1, 10))
                    table.entries.append(entry(0x4000_0005, 0, flags: 0, 20))
                    table.entries.append(entry(0x4000_0005, 8, flags: 1, 30))
                },
            ]
        } + [
            Variant("with its class", vendor: "CentaurHauls") { table in
                table.set(leaf: 0xC000_0000, eax: 0xC000_0002, ebx: 1, ecx: 2, edx: 3)
            },
            Variant("empty") { $0.entries = [] },
            Variant("no leaf 0") { $0.remove(leaf: 0) },
        ]

    static func entry(_ leaf: UInt32, _ subleaf: UInt32, flags: UInt32, _ value: UInt32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2(
            function: leaf, index: subleaf, flags: flags, eax: value, ebx: value + 1, ecx: value + 2, edx: value + 3,
            padding: (0, 0, 0))
    }

    static let leaves: [UInt32] =
        Array(0...0x30) + [0x123, 0x124, 0x7FFF_FFFF, 0x1000_0000, 0x2000_0000, 0x3FFF_FFFF]
        + Array(0x4000_0000...0x4000_000C)
        + [0x4000_00FF, 0x4000_0100, 0x4000_0101, 0x4000_0200, 0x4F00_0000, 0x4FFF_FEFF]
        + [0x4FFF_FF00, 0x4FFF_FF01, 0x4FFF_FFFC, 0x4FFF_FFFD, 0x4FFF_FFFE, 0x4FFF_FFFF, 0x5000_0000]
        + Array(0x8000_0000...0x8000_0028)
        + [0x8000_FFFF, 0x8086_0000, 0xBFFF_FFFF, 0xC000_0000, 0xC000_0001, 0xC000_0003, 0xFFFF_FFFF]
    static let subleaves: [UInt32] =
        Array(0...20) + [31, 62, 63, 64, 0x7F, 0x80, 0xFF, 0x100, 0x101, 0x1234_5678, 0x8000_0000, 0xFFFF_FFFF]

    @Test(arguments: variants) func everyLeafAnswersAsKVM(_ variant: Variant) throws {
        var table = try System().supportedCPUID()
        variant.change(&table)
        let guest = try CPUIDGuest(table)
        // KVM itself changes some of what it is given.
        let held = try guest.vcpu.cpuid()
        for leaf in Self.leaves {
            for subleaf in Self.subleaves {
                let kvm = try guest.ask(leaf, subleaf)
                let ours = held.answer(leaf: leaf, subleaf: subleaf)
                #expect(ours == kvm, "leaf \(String(leaf, radix: 16)) subleaf \(String(subleaf, radix: 16))")
            }
        }
    }

    /// OSXSAVE, OSPKE, the APIC bit and the sizes in 0xD: both in the table that KVM gives back, and by `refresh`.
    @Test(arguments: [0, 1 << 18, 1 << 22, 1 << 18 | 1 << 22] as [UInt64], [1, 3, 7] as [UInt64])
    func stateShowsInAnswersAsInKVM(cr4: UInt64, xcr0: UInt64) throws {
        let guest = try CPUIDGuest(try System().supportedCPUID())
        let early = try guest.vcpu.cpuid()

        // Not every processor has each of these, and not every KVM lets us set them outside of the guest.
        var special = try guest.vcpu.specialRegisters()
        special.cr4 |= cr4
        if xcr0 == 3 { special.apic_base &= ~(1 << 11) }
        try? guest.vcpu.setSpecialRegisters(special)
        var registers = kvm_xcrs()
        registers.nr_xcrs = 1
        registers.xcrs.0.value = xcr0
        try? guest.vcpu.setXCRs(registers)

        special = try guest.vcpu.specialRegisters()
        var refreshed = early
        refreshed.refresh(
            CPUIDTable.VCPUState(
                cr4: special.cr4, apicBase: special.apic_base, xcr0: try guest.vcpu.xcrs().xcrs.0.value))
        let held = try guest.vcpu.cpuid()
        #expect(refreshed == held)
        for leaf: UInt32 in [1, 7, 0xD] {
            for subleaf: UInt32 in 0...12 {
                let kvm = try guest.ask(leaf, subleaf)
                #expect(held.answer(leaf: leaf, subleaf: subleaf) == kvm, "held \(leaf) \(subleaf)")
                #expect(refreshed.answer(leaf: leaf, subleaf: subleaf) == kvm, "refreshed \(leaf) \(subleaf)")
            }
        }
    }

    @Test func randomTablesAnswerAsKVM() throws {
        var random = SystemRandomNumberGenerator()
        let basic = try System().supportedCPUID()
        for _ in 0..<40 {
            var table = CPUIDTable()
            // KVM_SET_CPUID2 wants a possible width of linear addresses, and only features that it can give in 0xD.
            for leaf: UInt32 in [1, 7, 0xD, 0x8000_0001, 0x8000_0008] { table[leaf] = basic[leaf] }
            let leaves = Self.leaves.filter { table[$0] == nil }
            for _ in 0..<Int.random(in: 0...60) {
                guard let leaf = leaves.randomElement(), let subleaf = Self.subleaves.prefix(6).randomElement() else {
                    continue
                }
                table.entries.append(
                    Self.entry(leaf, subleaf, flags: .random(in: 0...1), .random(in: 0...0x7FFF_FFFF, using: &random)))
            }
            table.setVendor(Bool.random() ? "GenuineIntel" : "AuthenticAMD")
            if let highest = Self.leaves.prefix(0x31).randomElement() { table.setHighestBasicLeaf(highest) }
            let guest = try CPUIDGuest(table)
            let held = try guest.vcpu.cpuid()
            for leaf in Self.leaves {
                for subleaf in Self.subleaves.prefix(8) {
                    let kvm = try guest.ask(leaf, subleaf)
                    #expect(held.answer(leaf: leaf, subleaf: subleaf) == kvm, "\(leaf) \(subleaf) of \(held.entries)")
                }
            }
        }
    }
}

extension CPUIDTable {
    mutating func setVendor(_ name: String) {
        let words = stride(from: 0, to: 12, by: 4).map { start in
            Array(name.utf8)[start..<(start + 4)].reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        }
        set(leaf: 0, eax: self[0]?.eax ?? 0, ebx: words[0], ecx: words[2], edx: words[1])
    }

    mutating func setHighestBasicLeaf(_ leaf: UInt32) {
        guard var entry = self[0] else { return }
        entry.eax = leaf
        self[0] = entry
    }
}

/// A guest that runs CPUID for what it finds in its memory, over and over.
struct CPUIDGuest: ~Copyable {
    private let guest: Guest
    var vcpu: VCPU { _read { yield guest.vcpu } }

    init(_ table: CPUIDTable) throws {
        guest = try Guest(
            code: [
                0x66, 0xA1, 0x00, 0x20,  // again: mov eax, [2000h]
                0x66, 0x8B, 0x0E, 0x04, 0x20,  // mov ecx, [2004h]
                0x0F, 0xA2,  // cpuid
                0x66, 0xA3, 0x08, 0x20,  // mov [2008h], eax
                0x66, 0x89, 0x1E, 0x0C, 0x20,  // mov [200Ch], ebx
                0x66, 0x89, 0x0E, 0x10, 0x20,  // mov [2010h], ecx
                0x66, 0x89, 0x16, 0x14, 0x20,  // mov [2014h], edx
                0xE6, 0x80,  // out 80h, al
                0xEB, 0xDE,  // jmp again
            ],
            vcpu: { try $0.setCPUID(table) })
    }

    func ask(_ leaf: UInt32, _ subleaf: UInt32) throws -> CPUIDTable.Answer {
        let words = (guest.memory + 0x2000).assumingMemoryBound(to: UInt32.self)
        words[0] = leaf
        words[1] = subleaf
        try #require(try guest.exit() == UInt32(KVM_EXIT_IO))
        return (words[2], words[3], words[4], words[5])
    }
}
