// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc
import Linux

/// The CPUID entries of a vCPU, or those that KVM could give one.
///
/// ```swift
/// var table = try system.supportedCPUID()
/// table[0x4000_0000]?.eax = 0x4000_0001
/// try vcpu.setCPUID(table)
/// ```
public struct CPUIDTable: Equatable, Sendable {
    /// In the order in which KVM searches them.
    public var entries: [kvm_cpuid_entry2]

    /// A table of these entries.
    public init(entries: [kvm_cpuid_entry2] = []) {
        self.entries = entries
    }

    /// The entry that KVM itself finds: the first of the leaf whose subleaf matches, or whose subleaf does not matter
    /// (`cpuid_entry2_find()`, arch/x86/kvm/cpuid.c).
    public func entry(leaf: UInt32, subleaf: UInt32 = 0) -> kvm_cpuid_entry2? {
        index(leaf: leaf, subleaf: subleaf).map { entries[$0] }
    }

    /// As `entry(leaf:subleaf:)`; assigning nil removes.
    public subscript(leaf: UInt32, subleaf: UInt32 = 0) -> kvm_cpuid_entry2? {
        get { entry(leaf: leaf, subleaf: subleaf) }
        set {
            switch (index(leaf: leaf, subleaf: subleaf), newValue) {
            case (let index?, let value?): entries[index] = value
            case (let index?, nil): entries.remove(at: index)
            case (nil, let value?): entries.append(value)
            case (nil, nil): break
            }
        }
    }

    /// Replaces the entry that KVM would find, or adds one.
    /// - Parameter subleaf: nil for a leaf that gives the same answer for every ECX.
    public mutating func set(
        leaf: UInt32, subleaf: UInt32? = nil, eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32
    ) {
        self[leaf, subleaf ?? 0] = kvm_cpuid_entry2(
            function: leaf, index: subleaf ?? 0, flags: subleaf == nil ? 0 : Self.significantIndex,
            eax: eax, ebx: ebx, ecx: ecx, edx: edx, padding: (0, 0, 0))
    }

    /// Removes a leaf: one subleaf of it, or all.
    public mutating func remove(leaf: UInt32, subleaf: UInt32? = nil) {
        entries.removeAll { $0.function == leaf && (subleaf == nil || $0.index == subleaf) }
    }

    /// Whether all entries are the same, in the same order; padding aside.
    public static func == (left: CPUIDTable, right: CPUIDTable) -> Bool {
        left.entries.elementsEqual(right.entries) {
            $0.function == $1.function && $0.index == $1.index && $0.flags == $1.flags
                && $0.eax == $1.eax && $0.ebx == $1.ebx && $0.ecx == $1.ecx && $0.edx == $1.edx
        }
    }

    /// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`: the entry answers its own subleaf only.
    static let significantIndex: UInt32 = 1

    func index(leaf: UInt32, subleaf: UInt32) -> Int? {
        entries.firstIndex {
            $0.function == leaf && ($0.flags & Self.significantIndex == 0 || $0.index == subleaf)
        }
    }
}

extension CPUIDTable {
    /// KVM refuses a longer table (`KVM_MAX_CPUID_ENTRIES` is 256, 80 before Linux 5.11); we look a little further.
    private static let maximumCount = 4096

    /// Reads a table from an ioctl that answers E2BIG as long as the room is too small.
    init(of fd: borrowing FileDescriptor, _ name: String, _ request: UInt, capacity: Int) throws(KVMError) {
        var capacity = max(1, min(capacity, Self.maximumCount))
        while true {
            let buffer = FlexibleBuffer(header: kvm_cpuid2.self, element: kvm_cpuid_entry2.self, count: capacity)
            let header = buffer.header(kvm_cpuid2.self)
            header.pointee.nent = UInt32(capacity)
            do throws(KVMError) {
                try fd.control(name, request, buffer.base)
            } catch {
                guard error.errno == E2BIG, capacity < Self.maximumCount else { throw error }
                capacity = min(capacity * 2, Self.maximumCount)
                continue
            }
            let entries = buffer.elements(after: kvm_cpuid2.self, kvm_cpuid_entry2.self)
            let count = min(Int(header.pointee.nent), capacity)
            self.init(entries: Array(UnsafeBufferPointer(start: entries, count: count)))
            return
        }
    }
}

extension VCPU {
    /// The table that KVM answers this vCPU's CPUID from, with what KVM has patched into it so far (4.48).
    public func cpuid(capacity: Int = 128) throws(KVMError) -> CPUIDTable {
        try CPUIDTable(of: fd, "KVM_GET_CPUID2", VMTALLY_KVM_GET_CPUID2, capacity: capacity)
    }

    /// Sets the table, before the vCPU runs for the first time; since Linux 5.16 it is frozen from then on (4.47).
    public func setCPUID(_ table: CPUIDTable) throws(KVMError) {
        let count = table.entries.count
        let buffer = FlexibleBuffer(header: kvm_cpuid2.self, element: kvm_cpuid_entry2.self, count: count)
        buffer.header(kvm_cpuid2.self).pointee.nent = UInt32(count)
        let room = buffer.elements(after: kvm_cpuid2.self, kvm_cpuid_entry2.self)
        for (index, entry) in table.entries.enumerated() { (room + index).initialize(to: entry) }
        do throws(KVMError) {
            try fd.control("KVM_SET_CPUID2", VMTALLY_KVM_SET_CPUID2, buffer.base)
        } catch {
            var error = error
            if error.errno == EINVAL {
                error.remedy = "Set CPUID before the vCPU first runs: KVM freezes it then."
            }
            throw error
        }
    }
}
