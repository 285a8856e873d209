// SPDX-License-Identifier: Apache-2.0
import Glibc

/// An open file that closes when its owner goes away.
public struct FileDescriptor: ~Copyable, Sendable {
    public let rawValue: Int32

    /// Takes over `rawValue`, which must be open and belong to nobody else; -1: none.
    public init(owning rawValue: Int32) {
        self.rawValue = rawValue
    }

    /// Opens a file, not to be inherited by other programs (`O_CLOEXEC`).
    public init(opening path: String, _ flags: Int32, mode: mode_t = 0o644) throws(SystemError) {
        try self.init(open(path, flags | O_CLOEXEC, mode), of: path)
    }

    /// Takes over what a system call has returned.
    ///
    /// - Throws: `errno` when that is negative.
    public init(_ result: Int32, of call: String) throws(SystemError) {
        guard result >= 0 else { throw SystemError(call, errno: errno) }
        self.init(owning: result)
    }

    deinit {
        // Not repeated on EINTR: Linux has released the number by then, and another thread may already hold it.
        if rawValue >= 0 {
            close(rawValue)
        }
    }
}
