// SPDX-License-Identifier: Apache-2.0
import Glibc
import Linux
import Synchronization

/// Where the bytes go that a guest sends to its serial port.
///
/// Bytes are written at each newline, when the buffer is full, about once a second and at the end of the run; to a
/// terminal, at once.
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
    /// How long the end of the run waits for a reader that takes nothing, ns.
    private static let patience: UInt64 = 50_000_000
    /// How often a vCPU that waits for the reader looks whether the run has ended, ns.
    private static let look: UInt64 = 10_000_000

    private let target: Target
    private let writer: PatientWriter
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

    /// - Parameters:
    ///   - marker: sees all bytes.
    ///   - watchesForPanic: the guest is a Linux, which says so.
    init(_ target: Target, marker: BootMarker?, watchesForPanic: Bool = false) {
        self.marker = marker
        self.watchesForPanic = watchesForPanic
        switch target {
        case .descriptor(let descriptor) where descriptor >= 0:
            self.target = target
            immediate = isatty(descriptor) == 1
            writer = PatientWriter(descriptor)
        case .descriptor:
            // poll(2) would wait for it for ever.
            self.target = .none
            immediate = false
            writer = PatientWriter(-1)
        case .none, .capture:
            self.target = target
            immediate = false
            writer = PatientWriter(-1)
        }
    }

    /// What Linux prints, whatever its log level, when it gives up (kernel/panic.c). Its first byte comes only once.
    private static let panic: StaticString = "Kernel panic - not syncing"
    private let watchesForPanic: Bool
    /// Bytes of it that came last.
    private let panicBytes = Atomic(0)

    /// The guest's kernel has said that it panicked.
    var hasPanicked: Bool { panicBytes.load(ordering: .relaxed) == Self.panic.utf8CodeUnitCount }

    private func watch(_ byte: UInt8) {
        let seen = panicBytes.load(ordering: .relaxed)
        guard seen < Self.panic.utf8CodeUnitCount else { return }
        let text = Self.panic.utf8Start
        panicBytes.store(text[seen] == byte ? seen + 1 : text[0] == byte ? 1 : 0, ordering: .relaxed)
    }

    /// Takes one byte from the guest; the caller waits for the reader as long as the run lasts.
    func send(_ byte: UInt8) {
        marker?.watch(CollectionOfOne(byte))
        if watchesForPanic { watch(byte) }
        switch target {
        case .none: break
        case .capture:
            buffer.withLock { if $0.bytes.count < Self.captureLimit { $0.bytes.append(byte) } }
        case .descriptor:
            buffer.withLock { buffer in
                buffer.bytes.append(byte)
                guard immediate || byte == 0x0A || buffer.bytes.count >= Self.bufferSize else { return }
                while !drain(&buffer), !runHasEnded.load(ordering: .relaxed) {
                    _ = writer.wait(until: monotonicNanoseconds() + Self.look)
                }
            }
        }
    }

    /// Takes bytes from the guest, as many as the buffer has room for; nobody waits.
    ///
    /// - Returns: how many were taken. Fewer than there were: ``descriptor`` will have room.
    func offer(_ bytes: UnsafeRawBufferPointer) -> Int {
        let taken: Int
        switch target {
        case .none: taken = bytes.count
        case .capture:
            buffer.withLock { buffer in
                buffer.bytes.append(contentsOf: bytes.prefix(max(0, Self.captureLimit - buffer.bytes.count)))
            }
            taken = bytes.count
        case .descriptor:
            taken = buffer.withLock { buffer in
                var taken = 0
                while taken < bytes.count {
                    let room = Self.bufferSize - buffer.bytes.count
                    guard room > 0 else { return taken }
                    let piece = bytes[taken..<min(bytes.count, taken + room)]
                    buffer.bytes.append(contentsOf: piece)
                    taken += piece.count
                    _ = drain(&buffer)
                }
                return taken
            }
        }
        if taken > 0 {
            marker?.watch(bytes.prefix(taken))
            if watchesForPanic { bytes.prefix(taken).forEach(watch) }
        }
        return taken
    }

    /// What to wait for when there was no room; nil: there always is.
    var descriptor: Int32? {
        if case .descriptor = target { writer.descriptor } else { nil }
    }

    /// From now on no vCPU waits for the reader: what it has not taken stays in the buffer for ``flush()``.
    func endOfRun() {
        runHasEnded.store(true, ordering: .relaxed)
    }

    /// Writes what waits for its newline, such as a prompt, as far as the reader takes it at once.
    func writeWhatWaits() {
        guard case .descriptor = target else { return }
        // A vCPU that waits for the reader has the lock.
        _ = buffer.withLockIfAvailable { drain(&$0) }
    }

    /// Writes what is buffered. False when the reader has not taken all of it after a moment.
    func flush() -> Bool {
        guard case .descriptor = target else { return true }
        return buffer.withLock { buffer in
            let deadline = monotonicNanoseconds() + Self.patience
            while !drain(&buffer) {
                guard writer.wait(until: deadline) else { return false }
            }
            return true
        }
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

    /// Writes from the buffer what the reader has room for. False when something is left.
    private func drain(_ buffer: inout Buffer) -> Bool {
        while !buffer.bytes.isEmpty {
            switch buffer.bytes.withUnsafeBytes({ writer.write($0) }) {
            case .written(let count): buffer.bytes.removeFirst(count)
            case .full: return false
            case .failed(let error):
                buffer.error = buffer.lost == 0 ? error : buffer.error
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
