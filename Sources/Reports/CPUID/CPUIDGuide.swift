// SPDX-License-Identifier: Apache-2.0
import ExitStats

/// The meaning of single CPUID bits: the KVM features that a guest looks for, and the processor features that bear on
/// virtualization.
public struct CPUIDBitGuide: Equatable, Sendable {
    public let bit: Int
    public let name: String
    /// What a guest does with it.
    public let meaning: String
    /// What it costs the guest not to have it.
    public let cost: String

    private init(_ feature: KVMFeature) {
        bit = Int(feature.bit)
        name = "\(feature.name)"
        meaning = "\(feature.meaning)"
        cost = "\(feature.cost)"
    }

    /// EAX of leaf 0x40000001.
    public static let kvmFeatures = KVMFeature.features.map(CPUIDBitGuide.init)

    /// EDX of leaf 0x40000001.
    public static let kvmHints = KVMFeature.hints.map(CPUIDBitGuide.init)
}

/// Bits of a processor leaf that matter to a VMM or to what its guests cost.
struct CPUIDLeafGuide {
    enum Register: String, Codable { case eax, ebx, ecx, edx }

    let leaf: UInt32
    let subleaf: UInt32
    let register: Register
    let bits: [(bit: Int, name: String, meaning: String)]

    static let all: [CPUIDLeafGuide] = [
        .init(
            leaf: 1, subleaf: 0, register: .ecx,
            bits: [
                (3, "MONITOR", "MONITOR and MWAIT"), (5, "VMX", "a guest can run VMs (Intel)"),
                (17, "PCID", "tagged TLB"),
                (21, "X2APIC", "APIC by MSR: fewer, faster exits"), (22, "MOVBE", "MOVBE"),
                (24, "TSC_DEADLINE", "APIC timer by TSC deadline"),
                (26, "XSAVE", "extended register state"), (28, "AVX", "256-bit vectors"),
                (30, "RDRAND", "random numbers"),
                (31, "HYPERVISOR", "tells the guest that it is one: leaves 0x40000000 exist"),
            ]),
        .init(
            leaf: 1, subleaf: 0, register: .edx,
            bits: [
                (3, "PSE", "4 MiB pages"), (4, "TSC", "RDTSC"), (6, "PAE", "36-bit paging"), (9, "APIC", "local APIC"),
                (12, "MTRR", "memory types"), (13, "PGE", "global pages"), (28, "HTT", "more than one logical CPU"),
            ]),
        .init(
            leaf: 6, subleaf: 0, register: .eax, bits: [(2, "ARAT", "the APIC timer never stops: no broadcast timer")]),
        .init(
            leaf: 7, subleaf: 0, register: .ebx,
            bits: [
                (0, "FSGSBASE", "FS and GS base without MSRs"), (1, "TSC_ADJUST", "TSC_ADJUST MSR"),
                (2, "SGX", "enclaves"),
                (7, "SMEP", "no execution of user pages"), (10, "INVPCID", "INVPCID"),
                (20, "SMAP", "no access to user pages"),
            ]),
        .init(
            leaf: 7, subleaf: 0, register: .ecx,
            bits: [
                (2, "UMIP", "SGDT and such not for user mode"), (3, "PKU", "protection keys"),
                (5, "WAITPKG", "UMWAIT and TPAUSE: waits that need not exit"), (16, "LA57", "57-bit addresses"),
                (22, "RDPID", "RDPID"), (24, "BUS_LOCK_DETECT", "bus locks trap"),
            ]),
        .init(
            leaf: 7, subleaf: 0, register: .edx,
            bits: [
                (18, "PCONFIG", "memory encryption keys"),
                (26, "SPEC_CTRL", "IBRS and IBPB: MSR writes in each switch"),
                (29, "ARCH_CAPABILITIES", "which mitigations the guest can leave out"),
                (31, "SSBD", "store bypass disable"),
            ]),
        .init(
            leaf: 0xD, subleaf: 1, register: .eax,
            bits: [
                (0, "XSAVEOPT", "XSAVEOPT"), (1, "XSAVEC", "compacted state"), (3, "XSAVES", "supervisor state"),
                (4, "XFD", "AMX state on demand"),
            ]),
        .init(
            leaf: 0x8000_0001, subleaf: 0, register: .ecx,
            bits: [
                (2, "SVM", "a guest can run VMs (AMD)"), (22, "TOPOEXT", "topology leaf 0x8000001E"),
                (28, "PERFCTR_LLC", "last-level cache counters"), (29, "MWAITX", "MWAITX"),
            ]),
        .init(
            leaf: 0x8000_0001, subleaf: 0, register: .edx,
            bits: [
                (11, "SYSCALL", "SYSCALL"), (20, "NX", "no-execute pages"), (26, "GBPAGES", "1 GiB pages"),
                (27, "RDTSCP", "RDTSCP"), (29, "LM", "64-bit mode"),
            ]),
        .init(
            leaf: 0x8000_0007, subleaf: 0, register: .edx,
            bits: [(8, "INVARIANT_TSC", "the TSC can be trusted as a clock")]),
        .init(
            leaf: 0x8000_000A, subleaf: 0, register: .edx,
            bits: [
                (0, "NPT", "nested page tables for the guest's VMs"), (2, "SVML", "SVM lock"),
                (3, "NRIPS", "next RIP saved"),
                (4, "TSC_RATE", "TSC scaling"), (10, "PAUSEFILTER", "PAUSE exits after a count"),
                (13, "AVIC", "interrupts without exits"), (16, "VGIF", "virtual interrupt flag"),
                (25, "VNMI", "virtual NMIs"),
            ]),
        .init(
            leaf: 0x8000_001F, subleaf: 0, register: .eax,
            bits: [
                (0, "SME", "encrypted memory"), (1, "SEV", "encrypted guests"), (3, "SEV_ES", "encrypted registers"),
                (4, "SEV_SNP", "encrypted guests with integrity"),
            ]),
    ]

    /// What a leaf is about, for those that a reader may look for.
    static func title(_ leaf: UInt32) -> String? {
        switch leaf {
        case 0: "highest leaf, vendor"
        case 1: "version, features"
        case 2: "caches (Intel)"
        case 4: "caches"
        case 5: "MONITOR/MWAIT"
        case 6: "power and thermal"
        case 7: "features"
        case 0xA: "performance counters (Intel)"
        case 0xB: "topology"
        case 0xD: "XSAVE state"
        case 0x12: "SGX"
        case 0x14: "processor trace"
        case 0x15: "TSC and crystal clock"
        case 0x16: "frequencies"
        case 0x1D, 0x1E: "AMX tiles"
        case 0x1F: "topology, with dies"
        case 0x24: "AVX10"
        case 0x4000_0000: "hypervisor signature"
        case 0x4000_0001: "KVM features and hints"
        case 0x4000_0010: "TSC and APIC timer frequency (VMware's convention)"
        case 0x4FFF_FF00: "vmtally signature"
        case 0x4FFF_FF01: "vmtally features"
        case 0x4FFF_FFFD: "vmtally: count and cycles of a reason"
        case 0x4FFF_FFFE: "vmtally: count of a reason"
        case 0x4FFF_FFFF: "vmtally: count and cycles of all exits"
        case 0x8000_0000: "highest extended leaf"
        case 0x8000_0001: "extended features"
        case 0x8000_0002...0x8000_0004: "processor name"
        case 0x8000_0005: "L1 caches (AMD)"
        case 0x8000_0006: "L2 and L3 caches"
        case 0x8000_0007: "power management, TSC"
        case 0x8000_0008: "address sizes"
        case 0x8000_000A: "SVM"
        case 0x8000_001D: "caches (AMD)"
        case 0x8000_001E: "topology (AMD)"
        case 0x8000_001F: "memory encryption (AMD)"
        case 0x8000_0021: "features (AMD)"
        case 0x8000_0022: "performance counters (AMD)"
        default: nil
        }
    }
}
