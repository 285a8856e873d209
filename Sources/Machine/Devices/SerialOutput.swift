import Glibc
import Linux
import Synchronization

/// Where the bytes go that a guest sends to its serial port.
///
/// Bytes are written at each newline, when the buffer is full and at the end of the run; to a terminal, at once.
/// A reader that went away costs the guest its output, not its life: the bytes are dropped, the exits still counted, and
/// ``loss`` tells. For one that is slow the vCPU waits, as long as the run lasts.
public final class SerialOutput: Sendable {
    /// Destination of the bytes.
    public enum Target: Sendable {
        case none
        /// A file descriptor that stays open as long as the machine lives.
        case descriptor(Int32)
        /// Kept in memory, at most ``captureLimit`` bytes.
        case capture
    }

    /// A guest that floods a capture is cut off here.
    public static let captureLimit = 1 << 20
    private static let bufferSize = 4096

    private let target: Target
    private let immediate: Bool
    private struct Buffer {
        var bytes: [UInt8] = []
        /// Bytes that could not be written, and why the first of them could not.
        var lost: UInt64 = 0
        var error: Int32 = 0
    }

    private let buffer = Mutex(Buffer())
    private let runHasEnded = Atomic(false)
    /// Looks for the text that ends a boot.
    private let marker: BootMarker?

    public convenience init(_ target: Target) {
        self.init(target, marker: nil)
    }

    /// - Parameter marker: sees all bytes.
    init(_ target: Target, marker: BootMarker?) {
        self.marker = marker
        switch target {
        case .descriptor(let descriptor) where descriptor >= 0:
            self.target = target
            immediate = isatty(descriptor) == 1
        case .descriptor:
            // poll(2) would wait for it for ever.
            self.target = .none
            immediate = false
        case .none, .capture:
            self.target = target
            immediate = false
        }
    }

    /// Takes one byte from the guest.
    func send(_ byte: UInt8) {
        marker?.watch(CollectionOfOne(byte))
        switch target {
        case .none: break
        case .capture:
            buffer.withLock { if $0.bytes.count < Self.captureLimit { $0.bytes.append(byte) } }
        case .descriptor(let descriptor):
            buffer.withLock { buffer in
                buffer.bytes.append(byte)
                if immediate || byte == 0x0A || buffer.bytes.count >= Self.bufferSize {
                    drain(&buffer, to: descriptor)
                }
            }
        }
    }

    /// Takes bytes from the guest.
    func send(_ bytes: UnsafeRawBufferPointer) {
        marker?.watch(bytes)
        switch target {
        case .none: break
        case .capture:
            buffer.withLock { buffer in
                buffer.bytes.append(contentsOf: bytes.prefix(max(0, Self.captureLimit - buffer.bytes.count)))
            }
        case .descriptor(let descriptor):
            buffer.withLock { buffer in
                for start in stride(from: 0, to: bytes.count, by: Self.bufferSize) {
                    buffer.bytes.append(contentsOf: bytes[start..<min(bytes.count, start + Self.bufferSize)])
                    drain(&buffer, to: descriptor)
                }
            }
        }
    }

    /// Writes all of the buffer, waiting for the reader as long as the run lasts.
    private func drain(_ buffer: inout Buffer, to descriptor: Int32) {
        while !Self.write(&buffer, to: descriptor), !runHasEnded.load(ordering: .relaxed) {}
    }

    /// From now on no vCPU waits for the reader: what it has not taken stays in the buffer for ``flush()``.
    func endOfRun() {
        runHasEnded.store(true, ordering: .relaxed)
    }

    /// Writes what is buffered. False when the reader has not taken all of it within a tenth of a second.
    func flush() -> Bool {
        guard case .descriptor(let descriptor) = target else { return true }
        return buffer.withLock { Self.write(&$0, to: descriptor) }
    }

    /// What a ``Target/capture`` has received.
    public var captured: [UInt8] { buffer.withLock { $0.bytes } }

    /// What the guest sent and nobody got, after the run; nil when all of it arrived.
    public var loss: SerialLoss? {
        guard case .descriptor = target else { return nil }
        return buffer.withLock { buffer in
            let bytes = buffer.lost + UInt64(buffer.bytes.count)
            return bytes == 0 ? nil : SerialLoss(bytes: bytes, error: buffer.lost == 0 ? nil : buffer.error)
        }
    }

    /// Empties the buffer, or waits a little for room at the reader's.
    ///
    /// Waits in poll(2): a write that blocks could not be called off but by a signal at the right moment. Where poll
    /// finds room, a pipe takes up to PIPE_BUF at once.
    private static func write(_ buffer: inout Buffer, to descriptor: Int32) -> Bool {
        var room = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        while !buffer.bytes.isEmpty {
            guard poll(&room, 1, 100) > 0 else { return false }
            let written = buffer.bytes.withUnsafeBytes {
                Glibc.write(descriptor, $0.baseAddress, min($0.count, 4096))
            }
            if written > 0 {
                buffer.bytes.removeFirst(written)
            } else if errno == EAGAIN || errno == EINTR {
                return false
            } else {
                buffer.error = buffer.lost == 0 ? errno : buffer.error
                buffer.lost += UInt64(buffer.bytes.count)
                buffer.bytes.removeAll(keepingCapacity: true)
            }
        }
        return true
    }
}

/// Serial output of a guest that did not get where it was to go.
public struct SerialLoss: Equatable, Sendable, CustomStringConvertible {
    public let bytes: UInt64
    /// errno of the first write that failed; nil when the reader was too slow for a run that was called off.
    public let error: Int32?

    /// How much, why, and what to do about it.
    public var description: String {
        let cause = error.map { describe(errno: $0) } ?? "not read before the run was called off"
        return "\(bytes) bytes of the guest's serial output are lost: \(cause): \(remedy)"
    }

    private var remedy: String {
        switch error {
        case nil: "send it to a file, or give the run more time"
        case ENOSPC, EDQUOT, EFBIG: "make room there, or send it elsewhere"
        case EPIPE: "let the reader read to the end, or have no output"
        case EBADF: "standard output is closed: send it to a file, or have none"
        default: "send it to a file, or have none"
        }
    }
}
