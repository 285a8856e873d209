// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM

/// A `KVM_CAP_*`: something that a kernel's KVM may or may not offer (kvm/api.rst 4.4).
///
/// Known by number rather than by the build host's header, so that one binary asks any kernel. Numbers are the kernel's
/// ABI and the same on every architecture.
public struct Capability: RawRepresentable, Hashable, Sendable {
    public let rawValue: Int32

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

extension Capability {
    public static let irqChip = Capability(rawValue: 0)
    public static let hlt = Capability(rawValue: 1)
    public static let mmuShadowCacheControl = Capability(rawValue: 2)
    public static let userMemory = Capability(rawValue: 3)
    public static let setTSSAddr = Capability(rawValue: 4)
    public static let vapic = Capability(rawValue: 6)
    public static let extCPUID = Capability(rawValue: 7)
    public static let clockSource = Capability(rawValue: 8)
    public static let nrVCPUs = Capability(rawValue: 9)
    public static let nrMemSlots = Capability(rawValue: 10)
    public static let pit = Capability(rawValue: 11)
    public static let nopIODelay = Capability(rawValue: 12)
    public static let pvMMU = Capability(rawValue: 13)
    public static let mpState = Capability(rawValue: 14)
    public static let coalescedMMIO = Capability(rawValue: 15)
    public static let syncMMU = Capability(rawValue: 16)
    public static let iommu = Capability(rawValue: 18)
    public static let destroyMemoryRegionWorks = Capability(rawValue: 21)
    public static let userNMI = Capability(rawValue: 22)
    public static let setGuestDebug = Capability(rawValue: 23)
    public static let reinjectControl = Capability(rawValue: 24)
    public static let irqRouting = Capability(rawValue: 25)
    public static let irqInjectStatus = Capability(rawValue: 26)
    public static let assignDevIRQ = Capability(rawValue: 29)
    public static let joinMemoryRegionsWorks = Capability(rawValue: 30)
    public static let mce = Capability(rawValue: 31)
    public static let irqfd = Capability(rawValue: 32)
    public static let pit2 = Capability(rawValue: 33)
    public static let setBootCPUID = Capability(rawValue: 34)
    public static let pitState2 = Capability(rawValue: 35)
    public static let ioEventFD = Capability(rawValue: 36)
    public static let setIdentityMapAddr = Capability(rawValue: 37)
    public static let xenHvm = Capability(rawValue: 38)
    public static let adjustClock = Capability(rawValue: 39)
    public static let internalErrorData = Capability(rawValue: 40)
    public static let vcpuEvents = Capability(rawValue: 41)
    public static let s390Psw = Capability(rawValue: 42)
    public static let ppcSegstate = Capability(rawValue: 43)
    public static let hyperV = Capability(rawValue: 44)
    public static let hyperVVAPIC = Capability(rawValue: 45)
    public static let hyperVSpin = Capability(rawValue: 46)
    public static let pciSegment = Capability(rawValue: 47)
    public static let ppcPairedSingles = Capability(rawValue: 48)
    public static let intrShadow = Capability(rawValue: 49)
    public static let debugRegs = Capability(rawValue: 50)
    public static let x86RobustSinglestep = Capability(rawValue: 51)
    public static let ppcOSI = Capability(rawValue: 52)
    public static let ppcUnsetIRQ = Capability(rawValue: 53)
    public static let enableCap = Capability(rawValue: 54)
    public static let xsave = Capability(rawValue: 55)
    public static let xcrs = Capability(rawValue: 56)
    public static let ppcGetPVINFO = Capability(rawValue: 57)
    public static let ppcIRQLevel = Capability(rawValue: 58)
    public static let asyncPF = Capability(rawValue: 59)
    public static let tscControl = Capability(rawValue: 60)
    public static let getTSCKHz = Capability(rawValue: 61)
    public static let ppcBookeSregs = Capability(rawValue: 62)
    public static let spaprTCE = Capability(rawValue: 63)
    public static let ppcSMT = Capability(rawValue: 64)
    public static let ppcRMA = Capability(rawValue: 65)
    public static let maxVCPUs = Capability(rawValue: 66)
    public static let ppcHIOR = Capability(rawValue: 67)
    public static let ppcPAPR = Capability(rawValue: 68)
    public static let swTLB = Capability(rawValue: 69)
    public static let oneReg = Capability(rawValue: 70)
    public static let s390GMap = Capability(rawValue: 71)
    public static let tscDeadlineTimer = Capability(rawValue: 72)
    public static let s390UCONTROL = Capability(rawValue: 73)
    public static let syncRegs = Capability(rawValue: 74)
    public static let pci23 = Capability(rawValue: 75)
    public static let kvmclockCtrl = Capability(rawValue: 76)
    public static let signalMSI = Capability(rawValue: 77)
    public static let ppcGetSMMUInfo = Capability(rawValue: 78)
    public static let s390Cow = Capability(rawValue: 79)
    public static let ppcAllocHTAB = Capability(rawValue: 80)
    public static let readOnlyMem = Capability(rawValue: 81)
    public static let irqfdResample = Capability(rawValue: 82)
    public static let ppcBookeWatchdog = Capability(rawValue: 83)
    public static let ppcHTABFD = Capability(rawValue: 84)
    public static let s390CSSSupport = Capability(rawValue: 85)
    public static let ppcEPR = Capability(rawValue: 86)
    public static let armPSCI = Capability(rawValue: 87)
    public static let armSetDeviceAddr = Capability(rawValue: 88)
    public static let deviceCtrl = Capability(rawValue: 89)
    public static let irqMPIC = Capability(rawValue: 90)
    public static let ppcRTAS = Capability(rawValue: 91)
    public static let irqXICS = Capability(rawValue: 92)
    public static let armEL132Bit = Capability(rawValue: 93)
    public static let spaprMultitce = Capability(rawValue: 94)
    public static let extEmulCPUID = Capability(rawValue: 95)
    public static let hyperVTime = Capability(rawValue: 96)
    public static let ioapicPolarityIgnored = Capability(rawValue: 97)
    public static let enableCapVM = Capability(rawValue: 98)
    public static let s390IRQChip = Capability(rawValue: 99)
    public static let ioEventFDNoLength = Capability(rawValue: 100)
    public static let vmAttributes = Capability(rawValue: 101)
    public static let armPSCI02 = Capability(rawValue: 102)
    public static let ppcFixupHCall = Capability(rawValue: 103)
    public static let ppcEnableHCall = Capability(rawValue: 104)
    public static let checkExtensionVM = Capability(rawValue: 105)
    public static let s390UserSIGP = Capability(rawValue: 106)
    public static let s390VectorRegisters = Capability(rawValue: 107)
    public static let s390MemOP = Capability(rawValue: 108)
    public static let s390UserSTSI = Capability(rawValue: 109)
    public static let s390SKeys = Capability(rawValue: 110)
    public static let mipsFPU = Capability(rawValue: 111)
    public static let mipsMsa = Capability(rawValue: 112)
    public static let s390InjectIRQ = Capability(rawValue: 113)
    public static let s390IRQState = Capability(rawValue: 114)
    public static let ppcHWRNG = Capability(rawValue: 115)
    public static let disableQuirks = Capability(rawValue: 116)
    public static let x86SMM = Capability(rawValue: 117)
    public static let multiAddressSpace = Capability(rawValue: 118)
    public static let guestDebugHWBPs = Capability(rawValue: 119)
    public static let guestDebugHWWPs = Capability(rawValue: 120)
    public static let splitIRQChip = Capability(rawValue: 121)
    public static let ioEventFDAnyLength = Capability(rawValue: 122)
    public static let hyperVSYNIC = Capability(rawValue: 123)
    public static let s390RI = Capability(rawValue: 124)
    public static let spaprTCE64 = Capability(rawValue: 125)
    public static let armPMUV3 = Capability(rawValue: 126)
    public static let vcpuAttributes = Capability(rawValue: 127)
    public static let maxVCPUID = Capability(rawValue: 128)
    public static let x2apicAPI = Capability(rawValue: 129)
    public static let s390UserInstr0 = Capability(rawValue: 130)
    public static let msiDevID = Capability(rawValue: 131)
    public static let ppcHTM = Capability(rawValue: 132)
    public static let spaprResizeHPT = Capability(rawValue: 133)
    public static let ppcMMURadix = Capability(rawValue: 134)
    public static let ppcMMUHashV3 = Capability(rawValue: 135)
    public static let immediateExit = Capability(rawValue: 136)
    public static let mipsVz = Capability(rawValue: 137)
    public static let mipsTe = Capability(rawValue: 138)
    public static let mips64Bit = Capability(rawValue: 139)
    public static let s390Gs = Capability(rawValue: 140)
    public static let s390AIS = Capability(rawValue: 141)
    public static let spaprTCEVFIO = Capability(rawValue: 142)
    public static let x86DisableExits = Capability(rawValue: 143)
    public static let armUserIRQ = Capability(rawValue: 144)
    public static let s390CMMAMigration = Capability(rawValue: 145)
    public static let ppcFWNMI = Capability(rawValue: 146)
    public static let ppcSMTPossible = Capability(rawValue: 147)
    public static let hyperVSYNIC2 = Capability(rawValue: 148)
    public static let hyperVVPIndex = Capability(rawValue: 149)
    public static let s390AISMigration = Capability(rawValue: 150)
    public static let ppcGetCPUChar = Capability(rawValue: 151)
    public static let s390BPB = Capability(rawValue: 152)
    public static let getMSRFeatures = Capability(rawValue: 153)
    public static let hyperVEventFD = Capability(rawValue: 154)
    public static let hyperVTLBFlush = Capability(rawValue: 155)
    public static let s390Hpage1M = Capability(rawValue: 156)
    public static let nestedState = Capability(rawValue: 157)
    public static let armInjectSErrorESR = Capability(rawValue: 158)
    public static let msrPlatformInfo = Capability(rawValue: 159)
    public static let ppcNestedHV = Capability(rawValue: 160)
    public static let hyperVSendIPI = Capability(rawValue: 161)
    public static let coalescedPIO = Capability(rawValue: 162)
    public static let hyperVEnlightenedVMCS = Capability(rawValue: 163)
    public static let exceptionPayload = Capability(rawValue: 164)
    public static let armVMIPASize = Capability(rawValue: 165)
    public static let manualDirtyLogProtect = Capability(rawValue: 166)
    public static let hyperVCPUID = Capability(rawValue: 167)
    public static let manualDirtyLogProtect2 = Capability(rawValue: 168)
    public static let ppcIRQXIVE = Capability(rawValue: 169)
    public static let armSVE = Capability(rawValue: 170)
    public static let armPTRAUTHAddress = Capability(rawValue: 171)
    public static let armPTRAUTHGeneric = Capability(rawValue: 172)
    public static let pmuEventFilter = Capability(rawValue: 173)
    public static let armIRQLineLayout2 = Capability(rawValue: 174)
    public static let hyperVDirectTLBFlush = Capability(rawValue: 175)
    public static let ppcGuestDebugSstep = Capability(rawValue: 176)
    public static let armNISVToUser = Capability(rawValue: 177)
    public static let armInjectExtDabt = Capability(rawValue: 178)
    public static let s390VCPUResets = Capability(rawValue: 179)
    public static let s390Protected = Capability(rawValue: 180)
    public static let ppcSecureGuest = Capability(rawValue: 181)
    public static let haltPoll = Capability(rawValue: 182)
    public static let asyncPFInt = Capability(rawValue: 183)
    public static let lastCPU = Capability(rawValue: 184)
    public static let smallerMaxPhyAddr = Capability(rawValue: 185)
    public static let s390Diag318 = Capability(rawValue: 186)
    public static let stealTime = Capability(rawValue: 187)
    public static let x86UserSpaceMSR = Capability(rawValue: 188)
    public static let x86MSRFilter = Capability(rawValue: 189)
    public static let enforcePVFeatureCPUID = Capability(rawValue: 190)
    public static let sysHyperVCPUID = Capability(rawValue: 191)
    public static let dirtyLogRing = Capability(rawValue: 192)
    public static let x86BusLockExit = Capability(rawValue: 193)
    public static let ppcDAWR1 = Capability(rawValue: 194)
    public static let setGuestDebug2 = Capability(rawValue: 195)
    public static let sgxAttribute = Capability(rawValue: 196)
    public static let vmCopyENCContextFrom = Capability(rawValue: 197)
    public static let ptpKVM = Capability(rawValue: 198)
    public static let hyperVEnforceCPUID = Capability(rawValue: 199)
    public static let sregs2 = Capability(rawValue: 200)
    public static let exitHypercall = Capability(rawValue: 201)
    public static let ppcRptInvalidate = Capability(rawValue: 202)
    public static let binaryStatsFD = Capability(rawValue: 203)
    public static let exitOnEmulationFailure = Capability(rawValue: 204)
    public static let armMTE = Capability(rawValue: 205)
    public static let vmMoveENCContextFrom = Capability(rawValue: 206)
    public static let vmGPABits = Capability(rawValue: 207)
    public static let xsave2 = Capability(rawValue: 208)
    public static let sysAttributes = Capability(rawValue: 209)
    public static let ppcAILMode3 = Capability(rawValue: 210)
    public static let s390MemOPExtension = Capability(rawValue: 211)
    public static let pmuCapability = Capability(rawValue: 212)
    public static let disableQuirks2 = Capability(rawValue: 213)
    public static let vmTSCControl = Capability(rawValue: 214)
    public static let systemEventData = Capability(rawValue: 215)
    public static let armSystemSuspend = Capability(rawValue: 216)
    public static let s390ProtectedDump = Capability(rawValue: 217)
    public static let x86TripleFaultEvent = Capability(rawValue: 218)
    public static let x86NotifyVMExit = Capability(rawValue: 219)
    public static let vmDisableNXHugePages = Capability(rawValue: 220)
    public static let s390ZPCIOP = Capability(rawValue: 221)
    public static let s390CPUTopology = Capability(rawValue: 222)
    public static let dirtyLogRingAcqRel = Capability(rawValue: 223)
    public static let s390ProtectedAsyncDisable = Capability(rawValue: 224)
    public static let dirtyLogRingWithBitmap = Capability(rawValue: 225)
    public static let pmuEventMaskedEvents = Capability(rawValue: 226)
    public static let counterOffset = Capability(rawValue: 227)
    public static let armEagerSplitChunkSize = Capability(rawValue: 228)
    public static let armSupportedBlockSizes = Capability(rawValue: 229)
    public static let armSupportedRegMaskRanges = Capability(rawValue: 230)
    public static let userMemory2 = Capability(rawValue: 231)
    public static let memoryFaultInfo = Capability(rawValue: 232)
    public static let memoryAttributes = Capability(rawValue: 233)
    public static let guestMemFD = Capability(rawValue: 234)
    public static let vmTypes = Capability(rawValue: 235)
    public static let preFaultMemory = Capability(rawValue: 236)
    public static let x86APICBusCyclesNS = Capability(rawValue: 237)
    public static let x86GuestMode = Capability(rawValue: 238)
    public static let armWritableImpIDRegs = Capability(rawValue: 239)
    public static let armEL2 = Capability(rawValue: 240)
    public static let armEL2E2H0 = Capability(rawValue: 241)
    public static let riscvMPStateReset = Capability(rawValue: 242)
    public static let armCacheablePFNMAPSupported = Capability(rawValue: 243)
    public static let guestMemFDFlags = Capability(rawValue: 244)
    public static let armSEAToUser = Capability(rawValue: 245)
    public static let s390UserOperexec = Capability(rawValue: 246)
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
