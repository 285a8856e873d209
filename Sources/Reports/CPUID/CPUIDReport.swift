// SPDX-License-Identifier: Apache-2.0
import BootRecords
import ExitStats

/// A CPUID table, raw and decoded as far as it concerns KVM and its guests: `vmtally cpuid`.
///
/// Made from plain values, so that any table can be described in a test.
public struct CPUIDReport: Equatable, Encodable, Sendable {
    /// Where a table comes from.
    public enum Source: String, CaseIterable, Codable, Sendable {
        /// KVM_GET_SUPPORTED_CPUID: what KVM can give a guest on this host.
        case supported
        /// KVM_GET_EMULATED_CPUID: what KVM emulates though the processor lacks it.
        case emulated
        /// KVM_GET_CPUID2 of a vCPU that was given the supported table.
        case vcpu

        var title: String {
            switch self {
            case .supported: "KVM_GET_SUPPORTED_CPUID: what KVM can give a guest on this host"
            case .emulated: "KVM_GET_EMULATED_CPUID: what KVM emulates though the processor lacks it"
            case .vcpu: "KVM_GET_CPUID2 of a vCPU that was given all that KVM supports"
            }
        }
    }

    /// One line of the table.
    public struct Leaf: Equatable, Encodable, Sendable {
        public var leaf: UInt32
        /// nil when the leaf answers the same for every ECX.
        public var subleaf: UInt32?
        public var eax: UInt32
        public var ebx: UInt32
        public var ecx: UInt32
        public var edx: UInt32
        public let title: String?

        public init(leaf: UInt32, subleaf: UInt32?, eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32) {
            self.leaf = leaf
            self.subleaf = subleaf
            self.eax = eax
            self.ebx = ebx
            self.ecx = ecx
            self.edx = edx
            title = CPUIDLeafGuide.title(leaf)
        }

        var registers: CPUIDRegisters { CPUIDRegisters(eax: eax, ebx: ebx, ecx: ecx, edx: edx) }
    }

    public struct Bit: Equatable, Encodable, Sendable {
        public var bit: Int
        public var name: String
        public var present: Bool
        public var meaning: String
        public var cost: String?
    }

    /// The leaves from 0x40000000 on.
    public struct KVM: Equatable, Encodable, Sendable {
        public var signature: String
        public var highestLeaf: UInt32
        public var features: [Bit]
        public var hints: [Bit]
        /// Bits that are set and that this version has no name for.
        public var unknownFeatures: [Int]
    }

    public struct Group: Equatable, Encodable, Sendable {
        public var leaf: UInt32
        public var subleaf: UInt32
        public var register: String
        public var bits: [Bit]
    }

    /// vmtally's own leaves, where the table has them.
    public struct Tally: Equatable, Encodable, Sendable {
        public var signed: Bool
        public var version: UInt32?
        public var live: Bool?
        public var perReason: Bool?
        public var perVCPU: Bool?
        public var tscKhz: UInt32?
        public var vocabulary: String?
        public var exits: UInt64?
        public var cycles: UInt64?
    }

    public let schema = "vmtally.cpuid/1"
    /// Who wrote it; set by whoever prints it.
    public var tool: BootRecording.Tool?
    public var source: Source
    /// From leaf 0, such as `GenuineIntel`.
    public var vendor: String?
    public var highestLeaf: UInt32?
    public var highestExtendedLeaf: UInt32?
    public var physicalAddressBits: UInt32?
    public var linearAddressBits: UInt32?
    public var leaves: [Leaf]
    /// nil when the table has no such leaf.
    public var kvm: KVM?
    public var features: [Group]
    public var tally: Tally?

    public init(source: Source, leaves: [Leaf]) {
        func find(_ leaf: UInt32, _ subleaf: UInt32 = 0) -> Leaf? {
            leaves.first { $0.leaf == leaf && ($0.subleaf ?? subleaf) == subleaf }
        }
        self.source = source
        self.leaves = leaves
        if let basic = find(0) {
            highestLeaf = basic.eax
            let name = ascii([basic.ebx, basic.edx, basic.ecx])
            // The table of emulated features has none.
            vendor = name.isEmpty ? nil : name
        }
        highestExtendedLeaf = find(0x8000_0000)?.eax
        if let sizes = find(0x8000_0008) {
            physicalAddressBits = sizes.eax & 0xFF
            linearAddressBits = sizes.eax >> 8 & 0xFF
        }
        kvm = find(0x4000_0000).map { Self.kvm(signature: $0, features: find(0x4000_0001)) }
        features = CPUIDLeafGuide.all.compactMap { guide in
            guard let leaf = find(guide.leaf, guide.subleaf) else { return nil }
            let value =
                switch guide.register {
                case .eax: leaf.eax
                case .ebx: leaf.ebx
                case .ecx: leaf.ecx
                case .edx: leaf.edx
                }
            return Group(
                leaf: guide.leaf, subleaf: guide.subleaf, register: guide.register.rawValue,
                bits: guide.bits.map {
                    Bit(bit: $0.bit, name: $0.name, present: value >> UInt32($0.bit) & 1 == 1, meaning: $0.meaning)
                })
        }
        tally = find(TallyLeaf.signature).map { signature in
            Self.tally(signature: signature, features: find(TallyLeaf.features), total: find(TallyLeaf.total))
        }
    }

    private static func kvm(signature: Leaf, features: Leaf?) -> KVM {
        func bits(_ guides: [CPUIDBitGuide], _ value: UInt32) -> [Bit] {
            guides.map {
                Bit(
                    bit: $0.bit, name: $0.name, present: value >> UInt32($0.bit) & 1 == 1, meaning: $0.meaning,
                    cost: $0.cost)
            }
        }
        let value = features?.eax ?? 0
        let known = Set(CPUIDBitGuide.kvmFeatures.map(\.bit))
        return KVM(
            signature: ascii([signature.ebx, signature.ecx, signature.edx]),
            // Old hosts say 0 and mean 0x40000001 (kvm/x86/cpuid.rst).
            highestLeaf: signature.eax == 0 ? 0x4000_0001 : signature.eax,
            features: bits(CPUIDBitGuide.kvmFeatures, value), hints: bits(CPUIDBitGuide.kvmHints, features?.edx ?? 0),
            unknownFeatures: (0..<32).filter { value >> UInt32($0) & 1 == 1 && !known.contains($0) })
    }

    private static func tally(signature: Leaf, features: Leaf?, total: Leaf?) -> Tally {
        var tally = Tally(signed: signature.registers.isTallySignature)
        if let features = features.map({ TallyFeatures($0.registers) }) {
            tally.version = features.version
            tally.live = features.flags.contains(.live)
            tally.perReason = features.flags.contains(.perReason)
            tally.perVCPU = features.flags.contains(.perVCPU)
            tally.tscKhz = features.tscKHz
            tally.vocabulary =
                features.vocabulary?.key
                ?? "unknown (\(features.vocabularyCode))"
        }
        if let pair = total?.registers.tallyPair {
            tally.exits = pair.count
            tally.cycles = pair.cycles
        }
        return tally
    }
}

/// Registers as text, lowest byte first, without the zeros at the end; what does not print becomes a dot.
private func ascii(_ registers: [UInt32]) -> String {
    var bytes = registers.flatMap { register in (0..<4).map { UInt8(truncatingIfNeeded: register >> ($0 * 8)) } }
    while bytes.last == 0 { bytes.removeLast() }
    return String(decoding: bytes.map { (0x20...0x7E).contains($0) ? $0 : UInt8(ascii: ".") }, as: UTF8.self)
}
