// SPDX-License-Identifier: Apache-2.0
import Glibc

/// A descriptor that is written to without ever blocking in write(2), whoever reads the other end and whether anyone
/// does.
///
/// A terminal, a pipe or a FIFO is opened once more, so that O_NONBLOCK is ours alone: the description that we were given
/// is shared with the shell and with other programs.
package struct PatientWriter: ~Copyable {
    /// The descriptor that was given, which stays its owner's.
    package let original: Int32
    /// Ours; none where the original cannot be opened again: then what poll(2) finds room for is written.
    private let own: FileDescriptor
    /// At most so many bytes a write: all of what may block is told by poll(2), a page for a pipe, little for a terminal.
    private let chunk: Int

    package init(_ original: Int32) {
        self.original = original
        var status = stat()
        guard fstat(original, &status) == 0 else {
            own = FileDescriptor(owning: -1)
            chunk = 4096
            return
        }
        let kind = status.st_mode & S_IFMT
        let isTerminal = isatty(original) == 1
        let again =
            kind == S_IFIFO || isTerminal
            ? open("/proc/self/fd/\(original)", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1
        own = FileDescriptor(owning: again)
        chunk = isTerminal && again < 0 ? 1 : 4096
    }

    /// Where the bytes go.
    package var descriptor: Int32 { own.rawValue >= 0 ? own.rawValue : original }

    /// What a write came to.
    package enum Outcome: Equatable {
        case written(Int)
        /// The reader has no room now.
        case full
        /// errno.
        case failed(Int32)
    }

    /// Writes what there is room for at once, at most a page.
    package func write(_ bytes: UnsafeRawBufferPointer) -> Outcome {
        while true {
            if own.rawValue < 0, !wait(until: 0) {
                return .full
            }
            let count = Glibc.write(descriptor, bytes.baseAddress, min(bytes.count, chunk))
            if count >= 0 {
                return .written(count)
            }
            switch errno {
            case EINTR: continue
            case EAGAIN: return .full
            case let error: return .failed(error)
            }
        }
    }

    /// Waits for room, until a moment of the monotonic clock in ns; one that is past does not wait.
    ///
    /// - Returns: whether a write will do something, be it fail.
    package func wait(until deadline: UInt64) -> Bool {
        var room = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        while true {
            let now = deadline == 0 ? 0 : monotonicNanoseconds()
            let left = deadline == .max ? -1 : Int32(clamping: (max(deadline, now) - now + 999_999) / 1_000_000)
            let ready = poll(&room, 1, left)
            if ready > 0 {
                return true
            }
            // An error other than EINTR: better to write and be told than to wait for ever.
            guard ready < 0 else { return false }
            guard errno == EINTR else { return true }
        }
    }

    /// Writes all of it, waiting for the reader until a moment of the monotonic clock, ns.
    ///
    /// - Returns: nil, or the errno of what kept some of it back; EAGAIN: the reader.
    package func writeAll(_ bytes: some Collection<UInt8>, until deadline: UInt64 = .max) -> Int32? {
        let bytes = Array(bytes)
        return bytes.withUnsafeBytes { bytes -> Int32? in
            var done = 0
            while done < bytes.count {
                switch write(UnsafeRawBufferPointer(rebasing: bytes[done...])) {
                case .written(let count): done += count
                case .full: if !wait(until: deadline) { return EAGAIN }
                case .failed(let error): return error
                }
            }
            return nil
        }
    }
}
