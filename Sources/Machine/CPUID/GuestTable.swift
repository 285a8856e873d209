// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM

/// What a vCPU's table has in the leaves of the tally.
enum TallyLeaves {
    /// What ``HostLeafSupport/listed`` has, which asks the kernel to answer.
    case asListed
    case snapshot
    /// Nothing: a kernel that counts would take the snapshot's signature for the wish that it answer.
    case none
}

extension CPUIDTable {
    mutating func list(_ host: HostLeafSupport) {
        for (leaf, registers) in host.listed {
            set(leaf: leaf, registers)
        }
    }

    /// What KVM supports, made one vCPU's own: its APIC ID, and the snapshot of the tally as the floor under all modes.
    ///
    /// The snapshot is from before the vCPU first ran, so its counts are zero: KVM freezes the table then.
    func forGuest(
        apicID: UInt32, tscKHz: UInt32, _ leaves: TallyLeaves, page: CPUIDRegisters = CPUIDRegisters()
    ) -> CPUIDTable {
        var table = self
        for index in table.entries.indices {
            switch table.entries[index].function {
            case 1: table.entries[index].ebx = table.entries[index].ebx & 0x00FF_FFFF | apicID << 24
            case 0xB, 0x1F: table.entries[index].edx = apicID
            case 0x8000_001E:
                table.entries[index].eax = apicID
                table.entries[index].ebx = table.entries[index].ebx & ~0xFF | apicID & 0xFF
            default: break
            }
        }
        guard leaves != .asListed else {
            table.announce(page)
            return table
        }
        table.entries.removeAll { TallyLeaf.range.contains($0.function) }
        guard leaves == .snapshot else { return table }
        let features = TallyFeatures(flags: [], tscKHz: tscKHz, vocabulary: .kvm).registers
        table.set(leaf: TallyLeaf.signature, .tallySignature)
        table.set(leaf: TallyLeaf.features, features)
        for leaf in [TallyLeaf.reason, TallyLeaf.reasonCount, TallyLeaf.total, TallyLeaf.vcpuTotal] {
            table.set(leaf: leaf, CPUIDRegisters())
        }
        table.announce(page)
        return table
    }

    /// Tells where the page is: an answer that does not change, which a kernel that counts leaves as it is.
    private mutating func announce(_ page: CPUIDRegisters) {
        guard !page.isEmpty, let features = entries.firstIndex(where: { $0.function == TallyLeaf.features }) else {
            return
        }
        entries[features].ebx |= TallyFeatures.Flags.page.rawValue
        entries.removeAll { $0.function == TallyLeaf.page }
        set(leaf: TallyLeaf.page, page)
    }

    private mutating func set(leaf: UInt32, _ registers: CPUIDRegisters) {
        var entry = kvm_cpuid_entry2()
        entry.function = leaf
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (registers.eax, registers.ebx, registers.ecx, registers.edx)
        entries.append(entry)
    }
}
