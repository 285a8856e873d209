// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import Linux
import Rendering
import Synchronization

/// A run that failed: told on standard error, exit status 1.
struct Failure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}

/// How long whoever reads our output is waited for.
enum Patience {
    private static let moment = Atomic<UInt64>(.max)

    /// A moment of the monotonic clock, ns; `.max`: as long as it takes.
    static var end: UInt64 { moment.load(ordering: .relaxed) }

    /// From now on at most so long.
    static func limit(nanoseconds: UInt64) {
        moment.store(now() + nanoseconds, ordering: .relaxed)
    }

    static func now() -> UInt64 {
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
    }
}

/// Standard error, opened before a sandbox closes the way to it.
enum StandardError {
    static let writer = PatientWriter(STDERR_FILENO)

    static func prepare() {
        _ = writer.descriptor
    }
}

/// Writes a line to standard error.
///
/// - Parameter patience: how long to wait for its reader, ns; nil: see ``Patience``.
func warn(_ text: String, patience: UInt64? = nil) {
    let deadline = patience.map { Patience.now() + $0 } ?? Patience.end
    _ = StandardError.writer.writeAll((printable(text) + "\n").utf8, until: deadline)
}

/// Writes lines to standard output that may quote a file or a guest.
func say(_ text: String) {
    print(printable(text))
}

/// Occupies those of the descriptors 0 to 2 that are closed, so that no file of ours gets their numbers and the guest's
/// output or our messages with them. What is written there still fails.
func occupyStandardDescriptors() {
    while true {
        let descriptor = open("/dev/null", O_RDONLY)
        guard (0...2).contains(descriptor) else {
            _ = FileDescriptor(owning: descriptor)
            return
        }
    }
}
