// SPDX-License-Identifier: Apache-2.0
import CLinux
import Linux

/// A split virtqueue, the device's side (virtio 1.2, 2.7).
///
/// All of it lies in guest memory and may change under us: every index, address and length is read once and checked
/// before use. A queue that breaks the rules stops its device.
struct SplitQueue {
    /// Most entries that the device offers.
    let maximum: UInt16
    private(set) var index: Int

    /// What the driver sets through the transport.
    var size: UInt16 = 0
    var isReady = false
    var descriptors: UInt64 = 0
    var available: UInt64 = 0
    var used: UInt64 = 0
    /// VIRTIO_F_EVENT_IDX was agreed on: both sides say by an index when they want to be told, instead of by a flag.
    var usesEventIndex = false

    /// Entries of the available ring taken so far, and of the used ring given back.
    private var taken: UInt16 = 0
    private var returned: UInt16 = 0
    /// `returned` when the driver was last asked whether it wants an interrupt.
    private var signalled: UInt16 = 0

    init(index: Int, maximum: UInt16) {
        self.index = index
        self.maximum = maximum
    }

    /// Back to the state after a reset of the device.
    mutating func reset() {
        self = SplitQueue(index: index, maximum: maximum)
    }

    /// Checks what the driver has set, as it declares the queue ready.
    func check(_ memory: GuestMemory) throws(QueueError) {
        guard size > 0, size <= maximum, size & (size - 1) == 0 else {
            throw error("size \(size) is not a power of 2 up to \(maximum)")
        }
        let parts: [(String, UInt64, Int, UInt64)] = [
            ("descriptor table", descriptors, Int(size) * 16, 16),
            ("available ring", available, 6 + Int(size) * 2, 2),
            ("used ring", used, 6 + Int(size) * 8, 4),
        ]
        for (name, address, count, alignment) in parts {
            guard address % alignment == 0, memory.slice(address, count: count) != nil else {
                throw error("\(name) at \(hex(address)) is misaligned or outside guest RAM")
            }
        }
    }

    /// Takes the next chain that the driver has made available.
    ///
    /// - Returns: false when there is none.
    mutating func pop(_ chain: inout DescriptorChain, _ memory: GuestMemory) throws(QueueError) -> Bool {
        guard isReady, let ring = memory.slice(available, count: 6 + Int(size) * 2), let base = ring.baseAddress else {
            return false
        }
        let waiting = vmtally_load_acquire16(base + 2) &- taken
        guard waiting != 0 else { return false }
        guard waiting <= size else { throw error("available index is \(waiting) ahead, the ring has \(size) entries") }
        let head = ring.loadUnaligned(fromByteOffset: 4 + Int(taken % size) * 2, as: UInt16.self)
        try fill(&chain, head: head, memory)
        taken &+= 1
        return true
    }

    /// Gives a chain back with the number of bytes written to it.
    mutating func push(_ head: UInt16, written: Int, _ memory: GuestMemory) {
        guard let ring = memory.slice(used, count: 6 + Int(size) * 8), let base = ring.baseAddress else { return }
        let entry = 4 + Int(returned % size) * 8
        ring.storeBytes(of: UInt32(head), toByteOffset: entry, as: UInt32.self)
        ring.storeBytes(of: UInt32(clamping: written), toByteOffset: entry + 4, as: UInt32.self)
        returned &+= 1
        vmtally_store_release16(base + 2, returned)
    }

    /// Whether the driver wants to be interrupted for what has been pushed since this was last asked (2.7.7).
    mutating func wantsInterrupt(_ memory: GuestMemory) -> Bool {
        vmtally_fence()
        defer { signalled = returned }
        guard usesEventIndex else {
            return memory.load(UInt16.self, at: available).map { $0 & 1 == 0 } ?? false
        }
        guard let event = memory.load(UInt16.self, at: available + 4 + UInt64(size) * 2) else { return false }
        return returned &- event &- 1 < returned &- signalled
    }

    /// Tells the driver whether to notify us of what it makes available from now on (2.7.10).
    ///
    /// - Returns: whether something has been made available meanwhile, of which no notification may come.
    func request(notification: Bool, _ memory: GuestMemory) -> Bool {
        if usesEventIndex {
            memory.store(notification ? taken : taken &- 1, at: used + 4 + UInt64(size) * 8)
        } else {
            memory.store(notification ? 0 : 1 as UInt16, at: used)
        }
        guard notification else { return false }
        vmtally_fence()
        return memory.load(UInt16.self, at: available + 2).map { $0 != taken } ?? false
    }

    // MARK: Descriptors

    private enum Flag {
        static let next: UInt16 = 1
        static let write: UInt16 = 2
        static let indirect: UInt16 = 4
    }

    private struct Descriptor {
        let address: UInt64
        let length: UInt32
        let flags: UInt16
        let next: UInt16
    }

    private func fill(_ chain: inout DescriptorChain, head: UInt16, _ memory: GuestMemory) throws(QueueError) {
        chain.start(head)
        var table = descriptors
        var count = size
        var index = head
        var isIndirect = false
        var steps = 0
        while true {
            guard index < count else { throw error("descriptor \(index) of a table of \(count)") }
            // A chain is no longer than the queue (2.7.5.3.1), so a longer one is a loop.
            guard steps < Int(maximum) else { throw error("descriptor \(index): the chain from \(head) has a loop") }
            steps += 1
            let descriptor = try load(index, of: table, memory)
            if descriptor.flags & Flag.indirect != 0 {
                guard !isIndirect, steps == 1 || descriptor.flags & Flag.next == 0 else {
                    throw error("descriptor \(index): indirect inside an indirect table or with a successor")
                }
                guard descriptor.flags & Flag.next == 0, descriptor.length > 0, descriptor.length % 16 == 0,
                    descriptor.length / 16 <= UInt32(maximum)
                else {
                    throw error("descriptor \(index): indirect table of \(descriptor.length) bytes")
                }
                (table, count, index) = (descriptor.address, UInt16(descriptor.length / 16), 0)
                isIndirect = true
                continue
            }
            let length = Int(descriptor.length)
            guard let slice = memory.slice(descriptor.address, count: length) else {
                throw error("descriptor \(index): \(hex(descriptor.address)) + \(length) is outside guest RAM")
            }
            let isWritable = descriptor.flags & Flag.write != 0
            guard chain.add(slice, isWritable: isWritable) else {
                throw error("descriptor \(index): readable after writable, or over 4 GiB in a chain")
            }
            guard descriptor.flags & Flag.next != 0 else { return }
            index = descriptor.next
        }
    }

    private func load(_ index: UInt16, of table: UInt64, _ memory: GuestMemory) throws(QueueError) -> Descriptor {
        let (address, overflow) = table.addingReportingOverflow(UInt64(index) * 16)
        guard !overflow, let bytes = memory.slice(address, count: 16) else {
            throw error("descriptor \(index): its table at \(hex(table)) is outside guest RAM")
        }
        return Descriptor(
            address: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self),
            length: bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self),
            flags: bytes.loadUnaligned(fromByteOffset: 12, as: UInt16.self),
            next: bytes.loadUnaligned(fromByteOffset: 14, as: UInt16.self))
    }

    func error(_ problem: String) -> QueueError {
        QueueError(queue: index, problem: problem)
    }
}

/// A driver that breaks the rules of its rings.
struct QueueError: Error, Equatable, CustomStringConvertible {
    let queue: Int
    let problem: String

    var description: String { "queue \(queue): \(problem)" }
}

/// Buffers of one request: first those that the device reads, then those that it writes.
///
/// Made once and filled again and again, so that a request allocates nothing. Its pointers lead into guest memory,
/// which any thread may use.
struct DescriptorChain: @unchecked Sendable {
    private(set) var head: UInt16 = 0
    private(set) var readable: [iovec] = []
    private(set) var writable: [iovec] = []
    private(set) var readableCount = 0
    private(set) var writableCount = 0

    fileprivate mutating func start(_ head: UInt16) {
        self.head = head
        readable.removeAll(keepingCapacity: true)
        writable.removeAll(keepingCapacity: true)
        readableCount = 0
        writableCount = 0
    }

    fileprivate mutating func add(_ slice: UnsafeMutableRawBufferPointer, isWritable: Bool) -> Bool {
        guard isWritable || writable.isEmpty, readableCount + writableCount + slice.count <= UInt32.max else {
            return false
        }
        let vector = iovec(iov_base: slice.baseAddress, iov_len: slice.count)
        if isWritable {
            writable.append(vector)
            writableCount += slice.count
        } else {
            readable.append(vector)
            readableCount += slice.count
        }
        return true
    }

    /// Takes bytes off the front of the readable part; false when there are fewer.
    mutating func read(into target: UnsafeMutableRawBufferPointer) -> Bool {
        guard target.count <= readableCount else { return false }
        var filled = 0
        while filled < target.count {
            let piece = min(readable[0].iov_len, target.count - filled)
            if piece > 0, let source = readable[0].iov_base {
                UnsafeMutableRawBufferPointer(rebasing: target[filled..<filled + piece])
                    .copyMemory(from: UnsafeRawBufferPointer(start: source, count: piece))
            }
            filled += piece
            readable[0].iov_len -= piece
            readable[0].iov_base = readable[0].iov_base.map { $0 + piece }
            if readable[0].iov_len == 0 {
                readable.removeFirst()
            }
        }
        readableCount -= target.count
        return true
    }

    /// Reads a structure off the front.
    mutating func read<T: BitwiseCopyable>(_ type: T.Type, zero: T) -> T? {
        var value = zero
        let complete = withUnsafeMutableBytes(of: &value) { read(into: $0) }
        return complete ? value : nil
    }

    /// Takes the last byte off the writable part: where block requests want their status.
    mutating func takeLastByte() -> UnsafeMutableRawPointer? {
        while let last = writable.last, last.iov_len == 0 {
            writable.removeLast()
        }
        guard let last = writable.last, let base = last.iov_base else { return nil }
        writable[writable.count - 1].iov_len -= 1
        writableCount -= 1
        return base + last.iov_len - 1
    }

    /// Writes bytes from the front of the writable part on; as many as fit.
    func write(_ bytes: UnsafeRawBufferPointer) -> Int {
        var written = 0
        for vector in writable {
            guard written < bytes.count else { break }
            let piece = min(vector.iov_len, bytes.count - written)
            UnsafeMutableRawBufferPointer(start: vector.iov_base, count: piece)
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[written..<written + piece]))
            written += piece
        }
        return written
    }
}
