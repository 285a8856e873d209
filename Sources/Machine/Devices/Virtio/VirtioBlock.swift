// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc
import Linux
import Synchronization

/// A disk in a file (virtio 1.2, 5.2).
final class VirtioBlock: VirtioBackend {
    static let deviceID: UInt32 = 2
    static let name = "virtio-blk"

    private enum Feature {
        static let maximumSegments: UInt64 = 1 << 2
        static let readOnly: UInt64 = 1 << 5
        static let blockSize: UInt64 = 1 << 6
        static let flush: UInt64 = 1 << 9
        static let discard: UInt64 = 1 << 13
        static let writeZeroes: UInt64 = 1 << 14
    }

    private enum Request: UInt32 {
        case read = 0
        case write = 1
        case flush = 4
        case identify = 8
        case discard = 11
        case writeZeroes = 13
    }

    private enum Status: UInt8 {
        case ok = 0
        case ioError = 1
        case unsupported = 2
    }

    private struct Header: BitwiseCopyable {
        var type: UInt32 = 0
        var reserved: UInt32 = 0
        var sector: UInt64 = 0
    }

    /// A range of a discard or write-zeroes request.
    private struct Range: BitwiseCopyable {
        var sector: UInt64 = 0
        var count: UInt32 = 0
        var flags: UInt32 = 0
    }

    private static let sectorSize: UInt64 = 512
    private static let queueSize: UInt16 = 128
    private static let rangeLimit = 64
    /// Requests worked off before others get their turn.
    private static let burst = 32
    /// A longer transfer is made in pieces, between which the end of the run is looked for.
    private static let pieceLimit = 1 << 20

    let features: UInt64
    let queueSizes: [UInt16] = [queueSize]
    let configuration: [UInt8]

    private let file: FileDescriptor
    private let isReadOnly: Bool
    /// Size in sectors.
    private let capacity: UInt64
    private let chain = Mutex(DescriptorChain())
    /// Requests that the driver made.
    private let requests = Atomic<UInt64>(0)

    var mayBlock: Bool { true }
    private let isOver: @Sendable () -> Bool
    /// Bytes at the file's end that are no whole sector: the guest does not see them.
    let excess: UInt64

    /// - Parameter isOver: the run has ended: what is left of a request fails.
    /// - Throws: ``MachineError/system(_:)`` when the file cannot be opened, ``MachineError/refused(_:)`` when it cannot be
    ///   a disk.
    init(
        path: String, isReadOnly: Bool, isOver: @escaping @Sendable () -> Bool = { false }
    ) throws(MachineError) {
        // Not waiting for the other end of a FIFO.
        file = try lifted { () throws(SystemError) in
            try FileDescriptor(opening: path, (isReadOnly ? O_RDONLY : O_RDWR) | O_NONBLOCK)
        }
        var status = stat()
        let size = fstat(file.rawValue, &status) == 0 ? lseek(file.rawValue, 0, SEEK_END) : -1
        let kind = status.st_mode & S_IFMT
        guard kind == S_IFREG || kind == S_IFBLK else {
            throw .refused(.devices, "disk \(path): neither a file nor a block device", "give one of them")
        }
        guard size >= 0 else { throw .system(SystemError(path, errno: errno)) }
        guard size >= Self.sectorSize else {
            throw .refused(
                .devices, "disk \(path): \(size) bytes are less than a sector of 512", "truncate -s 1M makes a disk")
        }
        self.isOver = isOver
        excess = UInt64(size) % Self.sectorSize
        self.isReadOnly = isReadOnly
        capacity = UInt64(size) / Self.sectorSize
        var features = Feature.maximumSegments | Feature.blockSize | Feature.flush
        features |= isReadOnly ? Feature.readOnly : Feature.discard | Feature.writeZeroes
        self.features = features
        var bytes: [UInt8] = []
        bytes.add(capacity)
        bytes.add(0 as UInt32)  // size_max
        bytes.add(UInt32(Self.queueSize) - 2)  // seg_max
        bytes.add(0 as UInt32)  // geometry
        bytes.add(UInt32(Self.sectorSize))
        bytes += [UInt8](repeating: 0, count: 36 - bytes.count)  // topology, writeback, queues
        bytes.add(UInt32(1) << 22)  // max_discard_sectors: 2 GiB
        bytes.add(UInt32(Self.rangeLimit))
        bytes.add(1 as UInt32)  // discard_sector_alignment
        bytes.add(UInt32(1) << 22)  // max_write_zeroes_sectors
        bytes.add(UInt32(Self.rangeLimit))
        bytes.add(1 as UInt32)  // write_zeroes_may_unmap
        configuration = bytes
    }

    /// Requests so far.
    var requestCount: UInt64 { requests.load(ordering: .relaxed) }

    func process(_ queue: inout SplitQueue, _ memory: GuestMemory) throws(QueueError) -> QueueProgress {
        var chain = chain.withLock { kept in
            var chain = DescriptorChain()
            swap(&chain, &kept)
            return chain
        }
        defer { self.chain.withLock { swap(&chain, &$0) } }
        var progress = QueueProgress()
        for _ in 0..<Self.burst {
            guard try queue.pop(&chain, memory) else { return progress }
            guard let status = chain.takeLastByte() else {
                throw queue.error("descriptor \(chain.head): the request has no room for a status")
            }
            guard let header = chain.read(Header.self, zero: Header()) else {
                throw queue.error("descriptor \(chain.head): the request has no header")
            }
            requests.add(1, ordering: .relaxed)
            let (outcome, written) = perform(header, &chain)
            status.storeBytes(of: outcome.rawValue, as: UInt8.self)
            queue.push(chain.head, written: written + 1, memory)
            progress.gaveBack = true
        }
        progress.rest = .more
        return progress
    }

    private func perform(_ header: Header, _ chain: inout DescriptorChain) -> (Status, Int) {
        switch Request(rawValue: header.type) {
        case .read:
            guard contains(header.sector, bytes: chain.writableCount) else { return (.ioError, 0) }
            let complete = transfer(chain.writable, at: header.sector, preadv)
            return complete ? (.ok, chain.writableCount) : (.ioError, 0)
        case .write:
            guard !isReadOnly, contains(header.sector, bytes: chain.readableCount) else { return (.ioError, 0) }
            return (transfer(chain.readable, at: header.sector, pwritev) ? .ok : .ioError, 0)
        case .flush:
            return (fdatasync(file.rawValue) == 0 ? .ok : .ioError, 0)
        case .identify:
            var name = Array("vmtally".utf8)
            name += [UInt8](repeating: 0, count: 20 - name.count)
            return (.ok, name.withUnsafeBytes { chain.write($0) })
        case .discard where !isReadOnly:
            return (punch(&chain, keepingZeroes: false), 0)
        case .writeZeroes where !isReadOnly:
            return (punch(&chain, keepingZeroes: true), 0)
        default:
            return (.unsupported, 0)
        }
    }

    private func contains(_ sector: UInt64, bytes: Int) -> Bool {
        let count = UInt64(bytes)
        return count % Self.sectorSize == 0 && sector <= capacity && count / Self.sectorSize <= capacity - sector
    }

    /// Reads or writes all of the buffers, piece by piece; a short transfer goes on where it stopped.
    private func transfer(
        _ vectors: [iovec], at sector: UInt64,
        _ call: (Int32, UnsafePointer<iovec>?, Int32, off_t) -> Int
    ) -> Bool {
        var offset = off_t(sector * Self.sectorSize)
        // The first vector that is not done, and how much of it is.
        var first = 0
        var done = 0
        var piece: [iovec] = []
        while true {
            piece.removeAll(keepingCapacity: true)
            var room = Self.pieceLimit
            var skip = done
            for vector in vectors[first...].prefix(1024) where room > 0 {
                let length = min(vector.iov_len - skip, room)
                piece.append(iovec(iov_base: vector.iov_base.map { $0 + skip }, iov_len: length))
                room -= length
                skip = 0
            }
            guard room < Self.pieceLimit else {
                first += piece.count
                done = 0
                guard first < vectors.count else { return true }
                continue
            }
            guard !isOver() else { return false }
            let count = call(file.rawValue, piece, Int32(piece.count), offset)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            offset += off_t(count)
            done += count
            while first < vectors.count, done >= vectors[first].iov_len {
                done -= vectors[first].iov_len
                first += 1
            }
        }
    }

    /// Discards ranges, or makes them zero: both by a hole, where the file system knows holes.
    private func punch(_ chain: inout DescriptorChain, keepingZeroes: Bool) -> Status {
        guard chain.readableCount > 0, chain.readableCount % 16 == 0, chain.readableCount / 16 <= Self.rangeLimit else {
            return .ioError
        }
        while let range = chain.read(Range.self, zero: Range()) {
            guard !isOver() else { return .ioError }
            guard contains(range.sector, bytes: Int(range.count) * Int(Self.sectorSize)) else { return .ioError }
            // Bit 0 is unmap: not allowed in a discard request.
            guard range.flags & ~(keepingZeroes ? 1 : 0) == 0 else { return .unsupported }
            guard range.count > 0 else { continue }
            let offset = off_t(range.sector * Self.sectorSize)
            let count = off_t(UInt64(range.count) * Self.sectorSize)
            let keepSize: Int32 = 1
            let punchHole: Int32 = 2
            let zeroRange: Int32 = 16
            if vmtally_fallocate(file.rawValue, punchHole | keepSize, offset, count) == 0 { continue }
            guard keepingZeroes else {
                // A discard is a hint.
                if errno == EOPNOTSUPP { continue }
                return .ioError
            }
            guard vmtally_fallocate(file.rawValue, zeroRange | keepSize, offset, count) == 0 || overwrite(offset, count)
            else {
                return .ioError
            }
        }
        return .ok
    }

    private func overwrite(_ offset: off_t, _ count: off_t) -> Bool {
        let zeroes = [UInt8](repeating: 0, count: 64 << 10)
        var done: off_t = 0
        while done < count {
            guard !isOver() else { return false }
            let written = zeroes.withUnsafeBytes {
                pwrite(file.rawValue, $0.baseAddress, min($0.count, Int(count - done)), offset + done)
            }
            if written < 0, errno == EINTR { continue }
            guard written > 0 else { return false }
            done += off_t(written)
        }
        return true
    }
}
