// SPDX-License-Identifier: Apache-2.0

/// How the tally page lies in memory: a header that says where everything is, and a block a vCPU, which is that vCPU's
/// ``Tally`` itself (docs/tally-page.md).
///
/// All numbers are little-endian. A reader goes by the header; the constants are what this version's writer puts there.
public enum TallyPageLayout {
    /// EDX of ``TallyLeaf/page``, and the header's own word of it.
    public static let version: UInt32 = 1
    /// The first 8 bytes: `VMTALLY1`.
    public static let magic: UInt64 = 0x3159_4C4C_4154_4D56

    /// Bytes before the first block: a page, of which only the beginning is in use.
    public static let headerSize = 4096
    /// Bytes from one vCPU's block to the next one's.
    public static let stride = 3 * 4096

    /// Offsets in a block.
    public enum Block {
        /// Counters of all reasons.
        public static let total = 0
        /// Counters of the reasons below ``directSlots``, by code, then those of ``claimedSlots`` other reasons.
        public static let slots = 64
        /// How many of the latter are in use, 8 bytes.
        public static let claims = slots + (directSlots + claimedSlots) * Counters.size
        /// Their codes, 4 bytes each.
        public static let codes = claims + 8
    }

    /// Reason codes with a slot of their own, from 0 on.
    public static let directSlots = 256
    /// Slots for codes above those, each claimed by the first exit of its code.
    public static let claimedSlots = 64

    /// Offsets among the counters of one reason, or of all, 8 bytes each.
    public enum Counters {
        /// Exits.
        public static let count = 0
        /// TSC cycles of those that have ended.
        public static let cycles = 8
        /// The shortest exit, TSC cycles, all bits inverted: 0 as long as none has ended.
        public static let invertedMinimum = 16
        /// The longest.
        public static let maximum = 24
        /// Bytes of a reason's counters.
        public static let size = 32
    }

    /// Bytes for this many vCPUs.
    public static func size(vcpus: Int) -> Int { headerSize + vcpus * stride }
}

/// What the header of a tally page says.
public struct TallyPageHeader: Equatable, Sendable {
    /// How many blocks of counters follow.
    public var vcpus: UInt32
    /// TSC frequency in kHz, 0 if unknown.
    public var tscKHz: UInt32
    /// What the reason codes mean.
    public var vocabulary: TallyFeatures.Vocabulary
    /// One more with each start of the guest whose counters go on from the last.
    public var boot: UInt64

    /// A header of layout version 1.
    public init(vcpus: UInt32, tscKHz: UInt32, vocabulary: TallyFeatures.Vocabulary, boot: UInt64) {
        self.vcpus = vcpus
        self.tscKHz = tscKHz
        self.vocabulary = vocabulary
        self.boot = boot
    }

    /// The header's bytes, 64 of them.
    public var bytes: [UInt8] {
        var bytes: [UInt8] = []
        func add(_ value: some FixedWidthInteger) {
            for shift in stride(from: 0, to: value.bitWidth, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: value >> shift))
            }
        }
        add(TallyPageLayout.magic)
        add(TallyPageLayout.version)
        add(UInt32(TallyPageLayout.size(vcpus: Int(vcpus))))
        add(tscKHz)
        add(vocabulary.rawValue)
        add(vcpus)
        add(UInt32(TallyPageLayout.headerSize))
        add(UInt32(TallyPageLayout.stride))
        add(UInt32(TallyPageLayout.Block.slots))
        add(UInt32(TallyPageLayout.directSlots))
        add(UInt32(TallyPageLayout.claimedSlots))
        add(UInt32(TallyPageLayout.Block.claims))
        add(UInt32(TallyPageLayout.Block.codes))
        add(boot)
        return bytes
    }
}

extension CPUIDRegisters {
    /// The answer to ``TallyLeaf/page``.
    ///
    /// - Parameters:
    ///   - address: guest physical.
    ///   - size: bytes.
    public init(pageAt address: UInt64, size: Int) {
        self.init(
            eax: UInt32(truncatingIfNeeded: address), ebx: UInt32(truncatingIfNeeded: address >> 32),
            ecx: UInt32(truncatingIfNeeded: size), edx: TallyPageLayout.version)
    }
}
