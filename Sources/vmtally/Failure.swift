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
        moment.store(monotonicNanoseconds() + nanoseconds, ordering: .relaxed)
    }
}

/// Standard error, opened before a sandbox closes the way to it.
enum StandardError {
    static let writer = PatientWriter(STDERR_FILENO)

    static func prepare() {
        _ = writer.descriptor
    }

    /// Writes lines to it.
    ///
    /// - Parameter patience: how long to wait for its reader, ns; nil: see ``Patience``.
    static func print(_ text: String, patience: UInt64? = nil) {
        let deadline = patience.map { monotonicNanoseconds() + $0 } ?? Patience.end
        _ = writer.writeAll((printable(text) + "\n").utf8, until: deadline)
    }
}

/// Says on standard error what is not as the user will think it is.
func warn(_ text: String, patience: UInt64? = nil) {
    StandardError.print("vmtally: \(text)", patience: patience)
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
