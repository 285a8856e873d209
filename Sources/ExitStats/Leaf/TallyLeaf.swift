// SPDX-License-Identifier: Apache-2.0
/// The CPUID leaves by which a guest reads its tally: what each one asks, and how an answer is laid out.
///
/// One codec for both ends: the VMM encodes with it, the guest probe decodes with it. Counts are exits, cycles are
/// TSC cycles, both 64 bits wide and split over 32-bit registers. The leaves live in the range that CPUs leave to
/// hypervisors' guests, next to 0x40000000 (kvm/cpuid.rst).
public enum TallyLeaf {
    /// Signature, and the highest leaf of the class.
    public static let signature: UInt32 = 0x4FFF_FF00
    /// ABI version, feature bits, TSC frequency, reason vocabulary.
    public static let features: UInt32 = 0x4FFF_FF01
    /// Count and cycles of all exits of the vCPU that asks.
    public static let vcpuTotal: UInt32 = 0x4FFF_FF02
    /// Where the guest finds the counters themselves in its memory.
    public static let page: UInt32 = 0x4FFF_FF03
    /// Count and cycles of the one reason given in ECX, read as a pair.
    public static let reason: UInt32 = 0x4FFF_FFFD
    /// Count of the one reason given in ECX.
    public static let reasonCount: UInt32 = 0x4FFF_FFFE
    /// Count and cycles of all exits of the VM, whatever is in ECX: GCC's own `__cpuid()` leaves it unset.
    public static let total: UInt32 = 0x4FFF_FFFF

    /// Every leaf of the class: the VMM answers all of them, defined or not.
    public static let range: ClosedRange<UInt32> = 0x4FFF_FF00...0x4FFF_FFFF

    /// The version of this ABI, EAX of ``features``.
    public static let version: UInt32 = 2
}

/// Whose exits a total counts.
public enum TallyScope: UInt32, Sendable {
    case machine = 0
    case vcpu = 1

    /// EAX and ECX that ask a host of an ABI version for it: version 1 had the scope in ECX of ``TallyLeaf/total``.
    @inlinable
    public func question(version: UInt32) -> (leaf: UInt32, subleaf: UInt32) {
        guard version > 1 else { return (TallyLeaf.total, rawValue) }
        return (self == .machine ? TallyLeaf.total : TallyLeaf.vcpuTotal, 0)
    }
}

/// Exits, and the TSC cycles spent on those that have ended.
public struct TallyPair: Equatable, Sendable {
    /// Number of exits.
    public var count: UInt64
    /// TSC cycles.
    public var cycles: UInt64

    /// A count and its cycles.
    @inlinable
    public init(count: UInt64 = 0, cycles: UInt64 = 0) {
        self.count = count
        self.cycles = cycles
    }
}

/// What one CPUID with a leaf of ``TallyLeaf/range`` asks for.
public enum TallyQuery: Equatable, Sendable {
    case signature
    case features
    case total(TallyScope)
    case reason(UInt32)
    case reasonCount(UInt32)
    case page
    /// A leaf without a meaning in this version: all zero.
    case reserved(UInt32)

    /// Decodes EAX and ECX of a CPUID; nil when the leaf is not of this class.
    @inlinable
    public init?(leaf: UInt32, subleaf: UInt32) {
        switch leaf {
        case TallyLeaf.signature: self = .signature
        case TallyLeaf.features: self = .features
        case TallyLeaf.total: self = .total(.machine)
        case TallyLeaf.vcpuTotal: self = .total(.vcpu)
        case TallyLeaf.page: self = .page
        case TallyLeaf.reason: self = .reason(subleaf)
        case TallyLeaf.reasonCount: self = .reasonCount(subleaf)
        case TallyLeaf.range: self = .reserved(leaf)
        default: return nil
        }
    }
}

/// Leaf ``TallyLeaf/features``: what the answers of this host are worth.
public struct TallyFeatures: Equatable, Sendable {
    /// EBX: the feature bits.
    public struct Flags: OptionSet, Equatable, Sendable {
        /// EBX of the leaf.
        public let rawValue: UInt32

        /// Out of EBX of the leaf.
        @inlinable
        public init(rawValue: UInt32) {
            self.rawValue = rawValue
        }

        /// The answers are live; clear: a snapshot taken before the vCPU first ran.
        public static let live = Flags(rawValue: 1 << 0)
        /// ``TallyLeaf/reason`` and ``TallyLeaf/reasonCount`` are answered.
        public static let perReason = Flags(rawValue: 1 << 1)
        /// ``TallyScope/vcpu`` is answered.
        public static let perVCPU = Flags(rawValue: 1 << 2)
        /// Counting began while the VM was running already.
        public static let beganLate = Flags(rawValue: 1 << 3)
        /// ``TallyLeaf/page`` tells where the counters are.
        public static let page = Flags(rawValue: 1 << 4)
    }

    /// EDX: how reason codes are to be read.
    public enum Vocabulary: UInt32, Sendable {
        /// KVM_EXIT_* (kvm/api.rst 5): userspace exits.
        case kvm = 0
        /// VMX basic exit reasons (SDM vol. 3D, appendix C): VM exits.
        case vmx = 1
        /// SVM exit codes (APM vol. 2, appendix C): VM exits.
        case svm = 2
    }

    /// EAX.
    public var version: UInt32
    /// EBX.
    public var flags: Flags
    /// ECX: TSC frequency in kHz, 0 if unknown.
    public var tscKHz: UInt32
    /// EDX as it stands; ``vocabulary`` gives its meaning.
    public var vocabularyCode: UInt32

    /// nil for a vocabulary that a later version added.
    @inlinable
    public var vocabulary: Vocabulary? { Vocabulary(rawValue: vocabularyCode) }

    /// Features of this version of the ABI.
    @inlinable
    public init(flags: Flags, tscKHz: UInt32, vocabulary: Vocabulary) {
        self.version = TallyLeaf.version
        self.flags = flags
        self.tscKHz = tscKHz
        self.vocabularyCode = vocabulary.rawValue
    }

    /// Decodes ``TallyLeaf/features``.
    @inlinable
    public init(_ registers: CPUIDRegisters) {
        version = registers.eax
        flags = Flags(rawValue: registers.ebx)
        tscKHz = registers.ecx
        vocabularyCode = registers.edx
    }

    /// The answer to ``TallyLeaf/features``.
    @inlinable
    public var registers: CPUIDRegisters {
        CPUIDRegisters(eax: version, ebx: flags.rawValue, ecx: tscKHz, edx: vocabularyCode)
    }
}

extension CPUIDRegisters {
    /// The answer to ``TallyLeaf/signature``: the highest leaf and the ASCII bytes `VMTallyExits`, little-endian.
    public static let tallySignature = CPUIDRegisters(
        eax: TallyLeaf.total, ebx: 0x6154_4D56, ecx: 0x4579_6C6C, edx: 0x7374_6978)

    /// The answer to a reason that the vocabulary does not define.
    public static let tallyUndefined = CPUIDRegisters(edx: 0xFFFF_FFFF)

    /// Encodes a count and its cycles: ``TallyLeaf/total`` and ``TallyLeaf/reason``.
    @inlinable
    public init(_ pair: TallyPair) {
        self.init(
            eax: UInt32(truncatingIfNeeded: pair.count),
            ebx: UInt32(truncatingIfNeeded: pair.cycles >> 32),
            ecx: UInt32(truncatingIfNeeded: pair.cycles),
            edx: UInt32(truncatingIfNeeded: pair.count >> 32))
    }

    /// Encodes a count alone: ``TallyLeaf/reasonCount``.
    @inlinable
    public init(count: UInt64) {
        self.init(eax: UInt32(truncatingIfNeeded: count), edx: UInt32(truncatingIfNeeded: count >> 32))
    }

    /// True when these are the registers of ``TallyLeaf/signature``.
    @inlinable
    public var isTallySignature: Bool { self == .tallySignature }

    /// Decodes ``TallyLeaf/total`` and ``TallyLeaf/reason``; nil for ``tallyUndefined``.
    @inlinable
    public var tallyPair: TallyPair? {
        guard self != .tallyUndefined else { return nil }
        return TallyPair(count: UInt64(edx) << 32 | UInt64(eax), cycles: UInt64(ebx) << 32 | UInt64(ecx))
    }

    /// Decodes ``TallyLeaf/reasonCount``; nil for ``tallyUndefined``.
    @inlinable
    public var tallyCount: UInt64? {
        guard self != .tallyUndefined else { return nil }
        return UInt64(edx) << 32 | UInt64(eax)
    }
}
