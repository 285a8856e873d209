// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc

/// The binary statistics format, apart from where the bytes come from. Nothing in the bytes is trusted: every size,
/// offset and count is checked before it is used, so that a wrong one is an error and never a trap.
struct BinaryStatsLayout: Equatable, Sendable {
    /// `struct kvm_stats_header`.
    struct Header: Equatable, Sendable {
        static let byteCount = 24
        /// Far above any kernel's (48 bytes, about 60 counters), far below what would hurt us.
        static let maximumNameSize = 4096
        static let maximumCount = 1 << 16

        let flags: UInt32
        /// Bytes of a name, the padding included.
        let nameSize: Int
        let count: Int
        let idOffset: UInt32
        let descriptorsOffset: UInt32
        let dataOffset: UInt32

        var descriptorsByteCount: Int { count * (Descriptor.fixedByteCount + nameSize) }

        init(_ bytes: [UInt8]) throws(KVMError) {
            guard bytes.count >= Self.byteCount else { throw KVMError(statistics: "a header of \(bytes.count) bytes") }
            let words = (0..<6).map { bytes.word(at: $0 * 4) }
            guard (1...UInt32(Self.maximumNameSize)).contains(words[1]) else {
                throw KVMError(statistics: "names of \(words[1]) bytes")
            }
            guard words[2] <= UInt32(Self.maximumCount) else { throw KVMError(statistics: "\(words[2]) counters") }
            flags = words[0]
            nameSize = Int(words[1])
            count = Int(words[2])
            idOffset = words[3]
            descriptorsOffset = words[4]
            dataOffset = words[5]
        }
    }

    /// `struct kvm_stats_desc`.
    struct Descriptor: Equatable, Sendable {
        static let fixedByteCount = 16

        let name: String
        let flags: UInt32
        let exponent: Int16
        /// How many values.
        let count: Int
        /// Bytes from the start of the data block.
        let offset: Int
        let bucketSize: UInt32
    }

    /// A machine has a few KiB of data.
    static let maximumDataByteCount = 16 << 20

    let header: Header
    let id: String
    let descriptors: [Descriptor]
    /// From the data block's start to the end of the last value.
    let dataByteCount: Int

    /// - Parameters:
    ///   - id: `header.nameSize` bytes from the file at `header.idOffset`.
    ///   - descriptors: `header.descriptorsByteCount` bytes from the file at `header.descriptorsOffset`.
    init(header: Header, id: [UInt8], descriptors bytes: [UInt8]) throws(KVMError) {
        guard bytes.count >= header.descriptorsByteCount else {
            throw KVMError(statistics: "its descriptors end after \(bytes.count) bytes")
        }
        let stride = Descriptor.fixedByteCount + header.nameSize
        var descriptors: [Descriptor] = []
        var dataByteCount = 0
        for start in Swift.stride(from: 0, to: header.count * stride, by: stride) {
            let sizes = bytes.word(at: start + 4)
            let descriptor = Descriptor(
                name: Self.string(bytes[(start + Descriptor.fixedByteCount)..<(start + stride)]),
                flags: bytes.word(at: start),
                exponent: Int16(truncatingIfNeeded: sizes), count: Int(sizes >> 16),
                offset: Int(bytes.word(at: start + 8)), bucketSize: bytes.word(at: start + 12))
            let end = descriptor.offset + descriptor.count * 8
            guard end <= Self.maximumDataByteCount else {
                throw KVMError(statistics: "\(descriptor.name) ends at \(end)")
            }
            dataByteCount = max(dataByteCount, end)
            descriptors.append(descriptor)
        }
        self.header = header
        self.id = Self.string(id[...])
        self.descriptors = descriptors
        self.dataByteCount = dataByteCount
    }

    /// - Parameter data: `dataByteCount` bytes from the file at `header.dataOffset`.
    func counters(in data: [UInt8]) throws(KVMError) -> [BinaryStats.Counter] {
        guard data.count >= dataByteCount else { throw KVMError(statistics: "its data ends after \(data.count) bytes") }
        return descriptors.map { descriptor in
            let type = descriptor.flags & UInt32(KVM_STATS_TYPE_MASK)
            let unit = descriptor.flags >> UInt32(KVM_STATS_UNIT_SHIFT) & 0xF
            let base = descriptor.flags >> UInt32(KVM_STATS_BASE_SHIFT) & 0xF
            return BinaryStats.Counter(
                name: descriptor.name,
                values: (0..<descriptor.count).map { data.doubleWord(at: descriptor.offset + $0 * 8) },
                kind: type < Self.kinds.count ? Self.kinds[Int(type)] : .unknown(type),
                unit: unit < Self.units.count ? Self.units[Int(unit)] : .unknown(unit),
                base: base < Self.bases.count ? Self.bases[Int(base)] : .unknown(base),
                exponent: descriptor.exponent, bucketSize: descriptor.bucketSize)
        }
    }

    /// In the order of KVM_STATS_TYPE_*, KVM_STATS_UNIT_* and KVM_STATS_BASE_*.
    private static let kinds: [BinaryStats.Kind] = [.cumulative, .instant, .peak, .linearHistogram, .logHistogram]
    private static let units: [BinaryStats.Unit] = [.none, .bytes, .seconds, .cycles, .boolean]
    private static let bases: [BinaryStats.Base] = [.ten, .two]

    /// Up to the terminating zero, which a hostile name need not have.
    private static func string(_ bytes: ArraySlice<UInt8>) -> String {
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
}

extension KVMError {
    /// A description of counters that makes no sense.
    init(statistics what: String) {
        self.init(
            call: "KVM statistics", errno: EPROTO,
            remedy: "The kernel's description of its counters makes no sense: \(what). Please report it.")
    }
}

/// Little-endian, as the machines that this runs on.
extension [UInt8] {
    fileprivate func word(at offset: Int) -> UInt32 {
        withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: UInt32.self) }
    }

    fileprivate func doubleWord(at offset: Int) -> UInt64 {
        withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self) }
    }
}
