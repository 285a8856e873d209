import Glibc
import Synchronization

/// Where the bytes go that a guest sends to its serial port.
///
/// Bytes are written at each newline, when the buffer is full and at the end of the run; to a terminal, at once.
/// A reader that went away costs the guest its output, not its life: the bytes are dropped, the exits still counted.
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
    private let bytes = Mutex<[UInt8]>([])

    public init(_ target: Target) {
        self.target = target
        if case .descriptor(let descriptor) = target {
            immediate = isatty(descriptor) == 1
        } else {
            immediate = false
        }
    }

    /// Takes one byte from the guest.
    func send(_ byte: UInt8) {
        switch target {
        case .none: break
        case .capture:
            bytes.withLock { if $0.count < Self.captureLimit { $0.append(byte) } }
        case .descriptor(let descriptor):
            bytes.withLock { buffer in
                buffer.append(byte)
                if immediate || byte == 0x0A || buffer.count >= Self.bufferSize {
                    Self.write(&buffer, to: descriptor)
                }
            }
        }
    }

    /// Takes bytes from the guest.
    func send(_ bytes: UnsafeRawBufferPointer) {
        switch target {
        case .none: break
        case .capture:
            self.bytes.withLock { $0.append(contentsOf: bytes.prefix(max(0, Self.captureLimit - $0.count))) }
        case .descriptor(let descriptor):
            self.bytes.withLock { buffer in
                for start in stride(from: 0, to: bytes.count, by: Self.bufferSize) {
                    buffer.append(contentsOf: bytes[start..<min(bytes.count, start + Self.bufferSize)])
                    Self.write(&buffer, to: descriptor)
                }
            }
        }
    }

    /// Writes what is buffered.
    func flush() {
        if case .descriptor(let descriptor) = target {
            bytes.withLock { Self.write(&$0, to: descriptor) }
        }
    }

    /// What a ``Target/capture`` has received.
    public var captured: [UInt8] { bytes.withLock { $0 } }

    /// Empties the buffer. A signal that stops the run also ends a write that blocks.
    private static func write(_ buffer: inout [UInt8], to descriptor: Int32) {
        var start = 0
        while start < buffer.count {
            let written = buffer.withUnsafeBytes {
                Glibc.write(descriptor, $0.baseAddress.map { $0 + start }, buffer.count - start)
            }
            guard written > 0 else { break }
            start += written
        }
        buffer.removeAll(keepingCapacity: true)
    }
}
