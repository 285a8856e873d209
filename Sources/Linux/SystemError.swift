// SPDX-License-Identifier: Apache-2.0

/// A system call that failed.
public struct SystemError: Error, Equatable, CustomStringConvertible, Sendable {
    /// What was called, or the file that it was about: `epoll_create1`, `/dev/net/tun`.
    public let what: String
    /// The kernel's error number, positive.
    public let errno: Int32

    public init(_ what: String, errno: Int32) {
        self.what = what
        self.errno = errno
    }

    public var description: String { "\(what): \(describe(errno: errno))" }
}
