// SPDX-License-Identifier: Apache-2.0
import CLinux
import CLinuxKVM

/// What KVM answers a guest's CPUID from a vCPU's table. All function names are those of arch/x86/kvm/cpuid.c; the
/// rules are the same from Linux 6.1 to 6.18.
extension CPUIDTable {
    /// The four registers of a CPUID, 32 bits each.
    public typealias Answer = (eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32)

    /// The four registers after a guest's CPUID with `leaf` in EAX and `subleaf` in ECX (`kvm_cpuid()`).
    ///
    /// Exactly KVM's answer if the table is what `VCPU.cpuid()` returns at that moment, or what it returned earlier with
    /// `refresh(_:)` since. The two parameters are state that KVM applies to the answer and never to the table. Not
    /// reproduced: leaf 3 of a Xen signature, whose clock parameters KVM 6.15 and newer make up on reading.
    /// - Parameters:
    ///   - tsxControl: the guest's MSR_IA32_TSX_CTRL (0x122), 0 where the guest has none.
    ///   - hidesInvariantTSC: whether Hyper-V's invariant TSC control is offered to the guest and not enabled by it.
    public func answer(
        leaf: UInt32, subleaf: UInt32, tsxControl: UInt64 = 0, hidesInvariantTSC: Bool = false
    ) -> Answer {
        var leaf = leaf
        if let entry = entry(leaf: leaf, subleaf: subleaf) ?? outOfRangeEntry(leaf: &leaf, subleaf: subleaf) {
            var answer = (eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx)
            // `leaf` may have become the highest basic leaf: KVM makes the corrections for the leaf that answers.
            if leaf == 7 && subleaf == 0 && tsxControl & Self.tsxControlCPUIDClear != 0 {
                answer.ebx &= ~Self.featuresRTMAndHLE
            } else if leaf == 0x8000_0007 && hidesInvariantTSC {
                answer.edx &= ~Self.featureInvariantTSC
            }
            return answer
        }
        // Past the last level of a topology leaf: CL as it came in, and the x2APIC ID.
        if leaf == 0xB || leaf == 0x1F, let level = entry(leaf: leaf, subleaf: 1) {
            return (0, 0, subleaf & 0xFF, level.edx)
        }
        return (0, 0, 0, 0)
    }

    /// `get_out_of_range_cpuid_entry()`: Intel's processors answer a leaf past the end of its class with the highest
    /// basic leaf, AMD's and Hygon's with zeros. `leaf` becomes the highest basic leaf even where that has no such
    /// subleaf.
    private func outOfRangeEntry(leaf: inout UInt32, subleaf: UInt32) -> kvm_cpuid_entry2? {
        guard let basic = firstEntry(leaf: 0), !Self.vendorsThatAnswerZero.contains([basic.ebx, basic.edx, basic.ecx])
        else { return nil }
        let classBase: UInt32 =
            switch leaf {
            // Hypervisors have a class for each 256 leaves, so that several can be told apart.
            case 0x4000_0000...0x4FFF_FFFF: leaf & 0xFFFF_FF00
            case 0xC000_0000...: 0xC000_0000
            default: leaf & 0x8000_0000
            }
        if let first = firstEntry(leaf: classBase), leaf <= first.eax { return nil }
        leaf = basic.eax
        return entry(leaf: leaf, subleaf: subleaf)
    }

    /// The first entry of a leaf, whatever its subleaf (KVM_CPUID_INDEX_NOT_SIGNIFICANT).
    private func firstEntry(leaf: UInt32) -> kvm_cpuid_entry2? {
        firstIndex(leaf: leaf).map { entries[$0] }
    }

    private func firstIndex(leaf: UInt32) -> Int? {
        entries.firstIndex { $0.function == leaf }
    }

    /// `is_guest_vendor_amd()`, `is_guest_vendor_hygon()`: EBX, EDX, ECX of leaf 0.
    private static let vendorsThatAnswerZero: [[UInt32]] = [
        [0x6874_7541, 0x6974_6E65, 0x444D_4163],  // AuthenticAMD
        [0x6944_4D41, 0x7465_6273, 0x2172_6574],  // AMDisbetter!
        [0x6F67_7948, 0x6E65_476E, 0x656E_6975],  // HygonGenuine
    ]
    private static let tsxControlCPUIDClear: UInt64 = 1 << 1
    private static let featuresRTMAndHLE: UInt32 = 1 << 11 | 1 << 4
    private static let featureInvariantTSC: UInt32 = 1 << 8
}

extension CPUIDTable {
    /// The state of a vCPU that shows in its CPUID.
    public struct VCPUState: Equatable, Sendable {
        /// CR4: OSXSAVE, OSPKE and the like show in leaves 1 and 7.
        public var cr4: UInt64
        /// IA32_APIC_BASE, in `kvm_sregs.apic_base`.
        public var apicBase: UInt64
        /// XCR0, which decides about the sizes in leaf 0xD.
        public var xcr0: UInt64
        /// IA32_XSS; counts since Linux 6.18 only, and before that a guest cannot set a bit of it.
        public var xss: UInt64
        /// IA32_MISC_ENABLE (0x1A0), where its bit 18 decides about MWAIT: when KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT was
        /// disabled. nil when not.
        public var miscEnable: UInt64?
        /// Whether KVM_X86_DISABLE_EXITS_HLT is on, which takes KVM_FEATURE_PV_UNHALT away.
        public var haltsInGuest: Bool

        /// A state of these registers.
        public init(
            cr4: UInt64, apicBase: UInt64, xcr0: UInt64, xss: UInt64 = 0, miscEnable: UInt64? = nil,
            haltsInGuest: Bool = false
        ) {
            self.cr4 = cr4
            self.apicBase = apicBase
            self.xcr0 = xcr0
            self.xss = xss
            self.miscEnable = miscEnable
            self.haltsInGuest = haltsInGuest
        }
    }

    /// Brings a table that was read earlier up to date, as KVM does its own (`__kvm_update_cpuid_runtime()`,
    /// `kvm_update_cpuid_runtime()`). Cheaper than reading it again.
    public mutating func refresh(_ state: VCPUState) {
        if let index = firstIndex(leaf: 1) {
            entries[index].ecx.set(bit: 27, to: state.cr4 & 1 << 18 != 0)  // OSXSAVE
            entries[index].edx.set(bit: 9, to: state.apicBase & 1 << 11 != 0)  // APIC
            if let miscEnable = state.miscEnable {
                entries[index].ecx.set(bit: 3, to: miscEnable & 1 << 18 != 0)  // MWAIT
            }
        }
        if let index = index(leaf: 7, subleaf: 0) {
            entries[index].ecx.set(bit: 4, to: state.cr4 & 1 << 22 != 0)  // OSPKE
        }
        if let index = index(leaf: 0xD, subleaf: 0) {
            entries[index].ebx = XStateSizes.host.size(of: state.xcr0, compacted: false)
        }
        if let index = index(leaf: 0xD, subleaf: 1), entries[index].eax & (1 << 1 | 1 << 3) != 0 {  // XSAVEC, XSAVES
            entries[index].ebx = XStateSizes.host.size(of: state.xcr0 | state.xss, compacted: true)
        }
        if state.haltsInGuest, let base = hypervisorBase, let index = firstIndex(leaf: base | 1) {
            entries[index].eax.set(bit: 7, to: false)  // KVM_FEATURE_PV_UNHALT
        }
    }

    /// The first class of hypervisor leaves with KVM's signature (`kvm_get_hypervisor_cpuid()`).
    private var hypervisorBase: UInt32? {
        entries.lazy.map(\.function).filter { (0x4000_0000..<0x4001_0000).contains($0) && $0 & 0xFF == 0 }
            .sorted().first {
                guard let entry = firstEntry(leaf: $0) else { return false }
                return [entry.ebx, entry.ecx, entry.edx] == [0x4B4D_564B, 0x564B_4D56, 0x4D]  // KVMKVMKVM\0\0\0
            }
    }
}

/// Where this processor keeps each part of an XSAVE area: leaf 0xD, asked of the processor itself, as KVM does
/// (`kvm_init_xstate_sizes()`), and not of the guest's table.
struct XStateSizes: Sendable {
    /// EAX (bytes), EBX (offset) and ECX (flags) of each subleaf.
    let components: [(size: UInt32, offset: UInt32, flags: UInt32)]

    static let host = XStateSizes(
        components: (0..<UInt32(63)).map { subleaf in
            guard vmtally_cpuid(0, 0).eax >= 0xD else { return (0, 0, 0) }
            let answer = vmtally_cpuid(0xD, subleaf)
            return (answer.eax, answer.ebx, answer.ecx)
        })

    /// Bytes of an area with the components of `mask` (`xstate_required_size()`).
    func size(of mask: UInt64, compacted: Bool) -> UInt32 {
        // The legacy area and the header; x87 and SSE, components 0 and 1, lie in the former.
        var size: UInt32 = 512 + 64
        for (number, component) in components.enumerated().dropFirst(2) where mask & 1 << UInt64(number) != 0 {
            let offset =
                compacted ? (component.flags & 2 != 0 ? (size &+ 63) & ~63 : size) : component.offset
            size = max(size, offset &+ component.size)
        }
        return size
    }
}

extension UInt32 {
    fileprivate mutating func set(bit: Int, to value: Bool) {
        self = value ? self | 1 << UInt32(bit) : self & ~(1 << UInt32(bit))
    }
}
