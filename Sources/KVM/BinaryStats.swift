// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc
import Linux

/// KVM's own counters of a machine or a vCPU, by `KVM_GET_STATS_FD` (kvm/api.rst 4.133, Linux 5.14).
///
/// Needs no privilege beyond the machine's descriptor. What a kernel counts, and under which name, is its own business:
/// the descriptors tell, and are read once. A read copies counters that other processors may be changing, so that two
/// of them need not belong to the same instant.
///
/// ```swift
/// let exits = try vcpu.statistics().read().first { $0.name == "exits" }?.value
/// ```
public struct BinaryStats: ~Copyable, Sendable {
    /// One counter, or one histogram, as a read found it.
    public struct Counter: Equatable, Sendable {
        /// The kernel's name, as `exits`.
        public let name: String
        /// One value, or a histogram's buckets in order.
        public let values: [UInt64]
        /// How the values change.
        public let kind: Kind
        /// What the values are of.
        public let unit: Unit
        /// A value times `base` to the power of `exponent` is in units of `unit`: seconds, 10 and -9 are nanoseconds.
        public let base: Base
        /// Of ``base``; negative for fractions.
        public let exponent: Int16
        /// Width of a linear histogram's buckets, 0 for other kinds. The last bucket takes the rest.
        public let bucketSize: UInt32

        /// The value of anything but a histogram.
        public var value: UInt64? { values.count == 1 ? values.first : nil }
    }

    /// `KVM_STATS_TYPE_*`.
    public enum Kind: Equatable, Sendable {
        /// Only grows.
        case cumulative
        /// Goes up and down.
        case instant
        /// The highest that there was.
        case peak
        /// Bucket n counts values from n times `bucketSize`.
        case linearHistogram
        /// Bucket 0 counts zeros, bucket n values from 2 to the n - 1.
        case logHistogram
        case unknown(UInt32)
    }

    /// `KVM_STATS_UNIT_*`.
    public enum Unit: Equatable, Sendable {
        case none, bytes, seconds, cycles, boolean
        case unknown(UInt32)
    }

    /// `KVM_STATS_BASE_*`.
    public enum Base: Equatable, Sendable {
        case ten, two
        case unknown(UInt32)
    }

    /// What `KVM_GET_STATS_FD` gave.
    public let fd: FileDescriptor
    private let layout: BinaryStatsLayout

    /// `kvm-N` for a machine, `kvm-N/vcpu-ID` for a vCPU; N is the thread that created the machine, as gettid(2) says.
    public var id: String { layout.id }
    /// How many counters a read returns.
    public var count: Int { layout.descriptors.count }

    /// Asks a machine or a vCPU for its counters and reads their descriptors.
    init(of owner: borrowing FileDescriptor) throws(KVMError) {
        try self.init(fd: FileDescriptor(owning: owner.control("KVM_GET_STATS_FD", VMTALLY_KVM_GET_STATS_FD)))
    }

    /// Takes over a statistics descriptor, which may come from another process.
    public init(fd: consuming FileDescriptor) throws(KVMError) {
        let header = try BinaryStatsLayout.Header(Self.bytes(fd, at: 0, count: BinaryStatsLayout.Header.byteCount))
        self.layout = try BinaryStatsLayout(
            header: header,
            id: Self.bytes(fd, at: UInt64(header.idOffset), count: header.nameSize),
            descriptors: Self.bytes(fd, at: UInt64(header.descriptorsOffset), count: header.descriptorsByteCount))
        self.fd = fd
    }

    /// Reads every counter now, in the kernel's order.
    public func read() throws(KVMError) -> [Counter] {
        try counters(in: data())
    }

    /// What a read finds, as the kernel lays it out: to be looked through later.
    package func data() throws(KVMError) -> [UInt8] {
        try Self.bytes(fd, at: UInt64(layout.header.dataOffset), count: layout.dataByteCount)
    }

    package func counters(in data: [UInt8]) throws(KVMError) -> [Counter] {
        try layout.counters(in: data)
    }

    /// All of `count` bytes; a file that ends earlier is an error.
    private static func bytes(
        _ fd: borrowing FileDescriptor, at offset: UInt64, count: Int
    ) throws(KVMError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var done = 0
        while done < count {
            let result = bytes.withUnsafeMutableBytes { room in
                pread(fd.rawValue, room.baseAddress.map { $0 + done }, count - done, off_t(offset) + off_t(done))
            }
            if result > 0 {
                done += result
            } else if result == 0 {
                throw KVMError(statistics: "it ends after \(done) of \(count) bytes at \(offset)")
            } else if errno != EINTR {
                throw KVMError(call: "read of KVM statistics", errno: errno)
            }
        }
        return bytes
    }
}
