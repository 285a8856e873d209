// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// The privilege level that executes CPUID: a VMM may answer one ring live and the other by a snapshot only.
enum Ring: UInt64 {
    case kernel = 0
    case user = 3
}

/// Reads the tally by CPUID from one ring, and counts how often: every live reading is an exit itself.
struct Tally {
    let ring: Ring
    /// What ``TallyLeaf/features`` says in this ring.
    let features: TallyFeatures
    let hasSignature: Bool
    /// CPUIDs asked since the start.
    private(set) var reads: UInt64 = 0

    init(ring: Ring) {
        self.ring = ring
        hasSignature = Self.cpuid(ring, TallyLeaf.signature, 0).isTallySignature
        features = TallyFeatures(Self.cpuid(ring, TallyLeaf.features, 0))
    }

    var isLive: Bool { hasSignature && features.flags.contains(.live) }

    mutating func ask(_ leaf: UInt32, _ subleaf: UInt32) -> CPUIDRegisters {
        reads += 1
        return Self.cpuid(ring, leaf, subleaf)
    }

    mutating func total(_ scope: TallyScope = .machine) -> TallyPair {
        let question = scope.question(version: features.version)
        return ask(question.leaf, question.subleaf).tallyPair ?? TallyPair()
    }

    mutating func reason(_ code: UInt32) -> TallyPair {
        ask(TallyLeaf.reason, code).tallyPair ?? TallyPair()
    }

    mutating func count(_ code: UInt32) -> UInt64 {
        ask(TallyLeaf.reasonCount, code).tallyCount ?? 0
    }

    private static func cpuid(_ ring: Ring, _ leaf: UInt32, _ subleaf: UInt32) -> CPUIDRegisters {
        var result = guest_registers()
        switch ring {
        case .kernel: guest_cpuid(leaf, subleaf, &result)
        case .user: guest_cpuid_user(leaf, subleaf, &result)
        }
        return CPUIDRegisters(eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx)
    }
}

/// The reason codes that the probe makes exits of, in each vocabulary.
struct ReasonCodes {
    let portIO: UInt32
    /// Device memory; two codes where the processor tells the kinds apart.
    let mmio: UInt32
    let otherMMIO: UInt32?
    let readMSR: UInt32
    let writeMSR: UInt32
    /// What a CPUID of the guest is counted under.
    let query: UInt32
    /// Defined, and never caused by this guest.
    let absent: UInt32

    init(_ vocabulary: TallyFeatures.Vocabulary) {
        switch vocabulary {
        case .kvm:  // linux/kvm.h: IO, MMIO, X86_RDMSR, X86_WRMSR, DEBUG, HYPERV
            (portIO, mmio, otherMMIO, readMSR, writeMSR, query, absent) = (2, 6, nil, 29, 30, 4, 27)
        case .vmx:  // SDM vol. 3D, appendix C: I/O, EPT misconfiguration, EPT violation, RDMSR, WRMSR, CPUID, GETSEC
            (portIO, mmio, otherMMIO, readMSR, writeMSR, query, absent) = (30, 49, 48, 31, 32, 10, 11)
        case .svm:  // APM vol. 2, appendix C: IOIO, NPF, MSR, MSR, CPUID, SKINIT
            (portIO, mmio, otherMMIO, readMSR, writeMSR, query, absent) = (0x7B, 0x400, nil, 0x7C, 0x7C, 0x72, 0x86)
        }
    }

    /// Defined by no vocabulary.
    static let undefined: UInt32 = 0x7FFF_FFF0
}
