// SPDX-License-Identifier: Apache-2.0
import Glibc

/// An open file that closes when its owner goes away.
public struct FileDescriptor: ~Copyable, Sendable {
    public let rawValue: Int32

    /// Takes over `rawValue`, which must be open and belong to nobody else.
    public init(owning rawValue: Int32) {
        self.rawValue = rawValue
    }

    deinit {
        // Not repeated on EINTR: Linux has released the number by then, and another thread may already hold it.
        close(rawValue)
    }
}
