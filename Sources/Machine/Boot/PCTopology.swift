// SPDX-License-Identifier: Apache-2.0
import KVM

extension CPUIDTable {
    /// What a PC's processors have in common beside what KVM supports: the TSC deadline timer, which comes with the
    /// local APIC, and a topology of one package with a core a vCPU (SDM vol. 3A 9.9; AMD APM vol. 3 appendix E).
    mutating func applyPCTopology(cpus: Int, tscDeadline: Bool) {
        let logical = UInt32(min(cpus, 255))
        // Bits of the APIC ID that number the cores.
        let coreBits = cpus > 1 ? UInt32(UInt64.bitWidth - UInt64(cpus - 1).leadingZeroBitCount) : 0
        for index in entries.indices {
            switch entries[index].function {
            case 1:
                entries[index].ebx = entries[index].ebx & 0xFF00_FFFF | logical << 16
                entries[index].ecx |= 1 << 31  // a hypervisor is present
                if tscDeadline {
                    entries[index].ecx |= 1 << 24
                }
                if cpus > 1 {
                    entries[index].edx |= 1 << 28  // the count in EBX is valid
                } else {
                    entries[index].edx &= ~(1 << 28)
                }
            case 4 where entries[index].eax & 0x1F != 0:
                // Cores in the package, and logical processors that share the cache: one, or all for level 3.
                let sharing = entries[index].eax >> 5 & 7 >= 3 ? UInt32(1) << coreBits - 1 : 0
                entries[index].eax =
                    entries[index].eax & 0x3FFF | min(sharing, 0xFFF) << 14
                    | min(UInt32(1) << coreBits - 1, 0x3F) << 26
            case 0x8000_0001 where cpus > 1:
                entries[index].ecx |= entries[index].ecx & 1 << 22 != 0 ? 1 << 1 : 0  // AMD: CmpLegacy
            case 0x8000_0008:
                entries[index].ecx = entries[index].ecx & ~0xF0FF | coreBits << 12 | UInt32(min(cpus, 256) - 1)
            case 0x8000_001D where entries[index].eax & 0x1F != 0:
                let sharing = entries[index].eax >> 5 & 7 >= 3 ? UInt32(cpus - 1) : 0
                entries[index].eax = entries[index].eax & 0x3FFF | min(sharing, 0xFFF) << 14
            case 0x8000_001E:
                entries[index].ebx &= ~0xFF00  // a thread a core
                entries[index].ecx = 0  // a node
            default: break
            }
        }
        setExtendedTopology(cpus: cpus, coreBits: coreBits)
    }

    /// Leaf 0xB: a thread a core, then all cores in the package. `forGuest` fills in each vCPU's x2APIC ID.
    private mutating func setExtendedTopology(cpus: Int, coreBits: UInt32) {
        remove(leaf: 0x1F)
        guard let basic = entry(leaf: 0), basic.eax >= 0xB else { return }
        remove(leaf: 0xB)
        set(leaf: 0xB, subleaf: 0, eax: 0, ebx: 1, ecx: 0x100, edx: 0)
        set(leaf: 0xB, subleaf: 1, eax: coreBits, ebx: UInt32(cpus), ecx: 0x201, edx: 0)
        set(leaf: 0xB, subleaf: 2, eax: 0, ebx: 0, ecx: 2, edx: 0)
        if basic.eax >= 0x1F {
            set(leaf: 0x1F, subleaf: 0, eax: 0, ebx: 0, ecx: 0, edx: 0)
        }
    }
}
