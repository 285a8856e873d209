// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM

/// A change of what the guest's CPUID says: some bits of one register.
public struct CPUIDEdit: Equatable, Sendable {
    public enum Register: String, CaseIterable, Sendable {
        case eax, ebx, ecx, edx
    }

    public var leaf: UInt32
    /// nil: the leaf's only answer, or its subleaf 0.
    public var subleaf: UInt32?
    public var register: Register
    /// The bits that change.
    public var mask: UInt32
    /// What they become.
    public var value: UInt32

    public init(leaf: UInt32, subleaf: UInt32? = nil, register: Register, mask: UInt32 = .max, value: UInt32) {
        self.leaf = leaf
        self.subleaf = subleaf
        self.register = register
        self.mask = mask
        self.value = value
    }
}

extension CPUIDTable {
    /// Changes entries, and adds those that are not there, zero but for the bits of the edit.
    ///
    /// - Throws: for the tally's own leaves, and for a subleaf of a leaf that has none.
    mutating func apply(_ edits: [CPUIDEdit]) throws(MachineError) {
        for edit in edits {
            let name = "leaf 0x" + String(edit.leaf, radix: 16, uppercase: true)
            guard !TallyLeaf.range.contains(edit.leaf) else {
                throw .refused(
                    .cpuid, "\(name) is one of the tally's, 0x4FFFFF00 to 0x4FFFFFFF", "edit another leaf")
            }
            let isIndexed = entries.contains { $0.function == edit.leaf && $0.flags & 1 != 0 }
            let isThere = entries.contains { $0.function == edit.leaf }
            guard isIndexed || !isThere || edit.subleaf ?? 0 == 0 else {
                throw .refused(.cpuid, "\(name) answers the same for every subleaf", "leave the subleaf out")
            }
            let subleaf = edit.subleaf ?? 0
            var entry =
                entry(leaf: edit.leaf, subleaf: subleaf)
                ?? kvm_cpuid_entry2(
                    function: edit.leaf, index: subleaf, flags: isIndexed || edit.subleaf != nil ? 1 : 0, eax: 0,
                    ebx: 0,
                    ecx: 0, edx: 0, padding: (0, 0, 0))
            func change(_ register: inout UInt32) { register = register & ~edit.mask | edit.value & edit.mask }
            switch edit.register {
            case .eax: change(&entry.eax)
            case .ebx: change(&entry.ebx)
            case .ecx: change(&entry.ecx)
            case .edx: change(&entry.edx)
            }
            self[edit.leaf, subleaf] = entry
        }
    }
}
