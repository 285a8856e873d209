// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM

/// A `KVM_CAP_*`: something that a kernel's KVM may or may not offer (kvm/api.rst 4.4).
///
/// Known by number rather than by the build host's header, so that one binary asks any kernel. Numbers are the kernel's
/// ABI and the same on every architecture.
public struct Capability: RawRepresentable, Hashable, Sendable {
    /// The number of `KVM_CAP_*`.
    public let rawValue: Int32

    /// Out of the number of `KVM_CAP_*`, known here or not.
    public init(rawValue: Int32) {
        self.rawValue = rawValue
    }

    /// The kernel's name, as `KVM_CAP_SYNC_REGS`; `KVM_CAP_<number>` for one that is newer than this table.
    public var name: String {
        Self.names[rawValue].map { "KVM_CAP_\($0)" } ?? "KVM_CAP_\(rawValue)"
    }

    /// Every capability that has a name here, by number.
    public static let all: [Capability] = names.keys.sorted().map(Capability.init(rawValue:))
}

/// Those that something here asks for or enables; any other by its number.
extension Capability {
    /// PIC, I/O APIC and local APICs in the kernel (kvm/api.rst 4.24).
    public static let irqChip = Capability(rawValue: KVM_CAP_IRQCHIP)
    /// Writes to memory-mapped devices that need no exit each (4.116).
    public static let coalescedMMIO = Capability(rawValue: KVM_CAP_COALESCED_MMIO)
    /// Breakpoints and single steps in the guest (4.87).
    public static let setGuestDebug = Capability(rawValue: KVM_CAP_SET_GUEST_DEBUG)
    /// The i8254 in the kernel (4.71).
    public static let pit2 = Capability(rawValue: KVM_CAP_PIT2)
    /// An eventfd instead of an exit (4.59).
    public static let ioEventFD = Capability(rawValue: KVM_CAP_IOEVENTFD)
    /// `KVM_GET_XSAVE` (4.42).
    public static let xsave = Capability(rawValue: KVM_CAP_XSAVE)
    /// `KVM_GET_XCRS` (4.44).
    public static let xcrs = Capability(rawValue: KVM_CAP_XCRS)
    /// The value: how many vCPUs a machine may have.
    public static let maxVCPUs = Capability(rawValue: KVM_CAP_MAX_VCPUS)
    /// The local APIC's TSC-deadline mode.
    public static let tscDeadlineTimer = Capability(rawValue: KVM_CAP_TSC_DEADLINE_TIMER)
    /// Registers in the run page; the value: which sets of them.
    public static let syncRegs = Capability(rawValue: KVM_CAP_SYNC_REGS)
    /// An MSI without a route (4.70).
    public static let signalMSI = Capability(rawValue: KVM_CAP_SIGNAL_MSI)
    /// Memory slots that the guest cannot write (4.35).
    public static let readOnlyMem = Capability(rawValue: KVM_CAP_READONLY_MEM)
    /// Local APICs in the kernel, I/O APIC and PIC in userspace (7.5).
    public static let splitIRQChip = Capability(rawValue: KVM_CAP_SPLIT_IRQCHIP)
    /// Hyper-V's synthetic interrupt controller.
    public static let hyperVSYNIC = Capability(rawValue: KVM_CAP_HYPERV_SYNIC)
    /// As ``coalescedMMIO``, for ports.
    public static let coalescedPIO = Capability(rawValue: KVM_CAP_COALESCED_PIO)
    /// How long the kernel polls before a halted vCPU sleeps, ns (7.20).
    public static let haltPoll = Capability(rawValue: KVM_CAP_HALT_POLL)
    /// Accesses to MSRs that KVM refuses exit to userspace (7.21).
    public static let x86UserSpaceMSR = Capability(rawValue: KVM_CAP_X86_USER_SPACE_MSR)
    /// Which MSRs KVM leaves to userspace (4.97).
    public static let x86MSRFilter = Capability(rawValue: KVM_CAP_X86_MSR_FILTER)
    /// Hypercalls that exit to userspace; the value: which.
    public static let exitHypercall = Capability(rawValue: KVM_CAP_EXIT_HYPERCALL)
    /// `KVM_GET_STATS_FD` (4.133).
    public static let binaryStatsFD = Capability(rawValue: KVM_CAP_BINARY_STATS_FD)
    /// Newer than the header of Debian 12.
    public static let preFaultMemory = Capability(rawValue: 236)
    /// The value: bytes of `KVM_GET_XSAVE2` (4.134).
    public static let xsave2 = Capability(rawValue: KVM_CAP_XSAVE2)
}

extension Capability {
    private static let names: [Int32: String] = [
        0: "IRQCHIP",
        1: "HLT",
        2: "MMU_SHADOW_CACHE_CONTROL",
        3: "USER_MEMORY",
        4: "SET_TSS_ADDR",
        6: "VAPIC",
        7: "EXT_CPUID",
        8: "CLOCKSOURCE",
        9: "NR_VCPUS",
        10: "NR_MEMSLOTS",
        11: "PIT",
        12: "NOP_IO_DELAY",
        13: "PV_MMU",
        14: "MP_STATE",
        15: "COALESCED_MMIO",
        16: "SYNC_MMU",
        18: "IOMMU",
        21: "DESTROY_MEMORY_REGION_WORKS",
        22: "USER_NMI",
        23: "SET_GUEST_DEBUG",
        24: "REINJECT_CONTROL",
        25: "IRQ_ROUTING",
        26: "IRQ_INJECT_STATUS",
        29: "ASSIGN_DEV_IRQ",
        30: "JOIN_MEMORY_REGIONS_WORKS",
        31: "MCE",
        32: "IRQFD",
        33: "PIT2",
        34: "SET_BOOT_CPU_ID",
        35: "PIT_STATE2",
        36: "IOEVENTFD",
        37: "SET_IDENTITY_MAP_ADDR",
        38: "XEN_HVM",
        39: "ADJUST_CLOCK",
        40: "INTERNAL_ERROR_DATA",
        41: "VCPU_EVENTS",
        42: "S390_PSW",
        43: "PPC_SEGSTATE",
        44: "HYPERV",
        45: "HYPERV_VAPIC",
        46: "HYPERV_SPIN",
        47: "PCI_SEGMENT",
        48: "PPC_PAIRED_SINGLES",
        49: "INTR_SHADOW",
        50: "DEBUGREGS",
        51: "X86_ROBUST_SINGLESTEP",
        52: "PPC_OSI",
        53: "PPC_UNSET_IRQ",
        54: "ENABLE_CAP",
        55: "XSAVE",
        56: "XCRS",
        57: "PPC_GET_PVINFO",
        58: "PPC_IRQ_LEVEL",
        59: "ASYNC_PF",
        60: "TSC_CONTROL",
        61: "GET_TSC_KHZ",
        62: "PPC_BOOKE_SREGS",
        63: "SPAPR_TCE",
        64: "PPC_SMT",
        65: "PPC_RMA",
        66: "MAX_VCPUS",
        67: "PPC_HIOR",
        68: "PPC_PAPR",
        69: "SW_TLB",
        70: "ONE_REG",
        71: "S390_GMAP",
        72: "TSC_DEADLINE_TIMER",
        73: "S390_UCONTROL",
        74: "SYNC_REGS",
        75: "PCI_2_3",
        76: "KVMCLOCK_CTRL",
        77: "SIGNAL_MSI",
        78: "PPC_GET_SMMU_INFO",
        79: "S390_COW",
        80: "PPC_ALLOC_HTAB",
        81: "READONLY_MEM",
        82: "IRQFD_RESAMPLE",
        83: "PPC_BOOKE_WATCHDOG",
        84: "PPC_HTAB_FD",
        85: "S390_CSS_SUPPORT",
        86: "PPC_EPR",
        87: "ARM_PSCI",
        88: "ARM_SET_DEVICE_ADDR",
        89: "DEVICE_CTRL",
        90: "IRQ_MPIC",
        91: "PPC_RTAS",
        92: "IRQ_XICS",
        93: "ARM_EL1_32BIT",
        94: "SPAPR_MULTITCE",
        95: "EXT_EMUL_CPUID",
        96: "HYPERV_TIME",
        97: "IOAPIC_POLARITY_IGNORED",
        98: "ENABLE_CAP_VM",
        99: "S390_IRQCHIP",
        100: "IOEVENTFD_NO_LENGTH",
        101: "VM_ATTRIBUTES",
        102: "ARM_PSCI_0_2",
        103: "PPC_FIXUP_HCALL",
        104: "PPC_ENABLE_HCALL",
        105: "CHECK_EXTENSION_VM",
        106: "S390_USER_SIGP",
        107: "S390_VECTOR_REGISTERS",
        108: "S390_MEM_OP",
        109: "S390_USER_STSI",
        110: "S390_SKEYS",
        111: "MIPS_FPU",
        112: "MIPS_MSA",
        113: "S390_INJECT_IRQ",
        114: "S390_IRQ_STATE",
        115: "PPC_HWRNG",
        116: "DISABLE_QUIRKS",
        117: "X86_SMM",
        118: "MULTI_ADDRESS_SPACE",
        119: "GUEST_DEBUG_HW_BPS",
        120: "GUEST_DEBUG_HW_WPS",
        121: "SPLIT_IRQCHIP",
        122: "IOEVENTFD_ANY_LENGTH",
        123: "HYPERV_SYNIC",
        124: "S390_RI",
        125: "SPAPR_TCE_64",
        126: "ARM_PMU_V3",
        127: "VCPU_ATTRIBUTES",
        128: "MAX_VCPU_ID",
        129: "X2APIC_API",
        130: "S390_USER_INSTR0",
        131: "MSI_DEVID",
        132: "PPC_HTM",
        133: "SPAPR_RESIZE_HPT",
        134: "PPC_MMU_RADIX",
        135: "PPC_MMU_HASH_V3",
        136: "IMMEDIATE_EXIT",
        137: "MIPS_VZ",
        138: "MIPS_TE",
        139: "MIPS_64BIT",
        140: "S390_GS",
        141: "S390_AIS",
        142: "SPAPR_TCE_VFIO",
        143: "X86_DISABLE_EXITS",
        144: "ARM_USER_IRQ",
        145: "S390_CMMA_MIGRATION",
        146: "PPC_FWNMI",
        147: "PPC_SMT_POSSIBLE",
        148: "HYPERV_SYNIC2",
        149: "HYPERV_VP_INDEX",
        150: "S390_AIS_MIGRATION",
        151: "PPC_GET_CPU_CHAR",
        152: "S390_BPB",
        153: "GET_MSR_FEATURES",
        154: "HYPERV_EVENTFD",
        155: "HYPERV_TLBFLUSH",
        156: "S390_HPAGE_1M",
        157: "NESTED_STATE",
        158: "ARM_INJECT_SERROR_ESR",
        159: "MSR_PLATFORM_INFO",
        160: "PPC_NESTED_HV",
        161: "HYPERV_SEND_IPI",
        162: "COALESCED_PIO",
        163: "HYPERV_ENLIGHTENED_VMCS",
        164: "EXCEPTION_PAYLOAD",
        165: "ARM_VM_IPA_SIZE",
        166: "MANUAL_DIRTY_LOG_PROTECT",
        167: "HYPERV_CPUID",
        168: "MANUAL_DIRTY_LOG_PROTECT2",
        169: "PPC_IRQ_XIVE",
        170: "ARM_SVE",
        171: "ARM_PTRAUTH_ADDRESS",
        172: "ARM_PTRAUTH_GENERIC",
        173: "PMU_EVENT_FILTER",
        174: "ARM_IRQ_LINE_LAYOUT_2",
        175: "HYPERV_DIRECT_TLBFLUSH",
        176: "PPC_GUEST_DEBUG_SSTEP",
        177: "ARM_NISV_TO_USER",
        178: "ARM_INJECT_EXT_DABT",
        179: "S390_VCPU_RESETS",
        180: "S390_PROTECTED",
        181: "PPC_SECURE_GUEST",
        182: "HALT_POLL",
        183: "ASYNC_PF_INT",
        184: "LAST_CPU",
        185: "SMALLER_MAXPHYADDR",
        186: "S390_DIAG318",
        187: "STEAL_TIME",
        188: "X86_USER_SPACE_MSR",
        189: "X86_MSR_FILTER",
        190: "ENFORCE_PV_FEATURE_CPUID",
        191: "SYS_HYPERV_CPUID",
        192: "DIRTY_LOG_RING",
        193: "X86_BUS_LOCK_EXIT",
        194: "PPC_DAWR1",
        195: "SET_GUEST_DEBUG2",
        196: "SGX_ATTRIBUTE",
        197: "VM_COPY_ENC_CONTEXT_FROM",
        198: "PTP_KVM",
        199: "HYPERV_ENFORCE_CPUID",
        200: "SREGS2",
        201: "EXIT_HYPERCALL",
        202: "PPC_RPT_INVALIDATE",
        203: "BINARY_STATS_FD",
        204: "EXIT_ON_EMULATION_FAILURE",
        205: "ARM_MTE",
        206: "VM_MOVE_ENC_CONTEXT_FROM",
        207: "VM_GPA_BITS",
        208: "XSAVE2",
        209: "SYS_ATTRIBUTES",
        210: "PPC_AIL_MODE_3",
        211: "S390_MEM_OP_EXTENSION",
        212: "PMU_CAPABILITY",
        213: "DISABLE_QUIRKS2",
        214: "VM_TSC_CONTROL",
        215: "SYSTEM_EVENT_DATA",
        216: "ARM_SYSTEM_SUSPEND",
        217: "S390_PROTECTED_DUMP",
        218: "X86_TRIPLE_FAULT_EVENT",
        219: "X86_NOTIFY_VMEXIT",
        220: "VM_DISABLE_NX_HUGE_PAGES",
        221: "S390_ZPCI_OP",
        222: "S390_CPU_TOPOLOGY",
        223: "DIRTY_LOG_RING_ACQ_REL",
        224: "S390_PROTECTED_ASYNC_DISABLE",
        225: "DIRTY_LOG_RING_WITH_BITMAP",
        226: "PMU_EVENT_MASKED_EVENTS",
        227: "COUNTER_OFFSET",
        228: "ARM_EAGER_SPLIT_CHUNK_SIZE",
        229: "ARM_SUPPORTED_BLOCK_SIZES",
        230: "ARM_SUPPORTED_REG_MASK_RANGES",
        231: "USER_MEMORY2",
        232: "MEMORY_FAULT_INFO",
        233: "MEMORY_ATTRIBUTES",
        234: "GUEST_MEMFD",
        235: "VM_TYPES",
        236: "PRE_FAULT_MEMORY",
        237: "X86_APIC_BUS_CYCLES_NS",
        238: "X86_GUEST_MODE",
        239: "ARM_WRITABLE_IMP_ID_REGS",
        240: "ARM_EL2",
        241: "ARM_EL2_E2H0",
        242: "RISCV_MP_STATE_RESET",
        243: "ARM_CACHEABLE_PFNMAP_SUPPORTED",
        244: "GUEST_MEMFD_FLAGS",
        245: "ARM_SEA_TO_USER",
        246: "S390_USER_OPEREXEC",
    ]
}
