// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc

/// An eventfd(2), as KVM's ioeventfd and irqfd use them.
package final class EventDescriptor: Sendable {
    private let file: FileDescriptor

    package var rawValue: Int32 { file.rawValue }

    package init() throws(SystemError) {
        file = try FileDescriptor(eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK)), of: "eventfd")
    }

    /// Wakes up whoever waits, now or later.
    package func signal() {
        var attempts = 0
        // Where the counter is full (EAGAIN), that is a signal as well.
        while eventfd_write(rawValue, 1) != 0, attempts < 16 {
            attempts += 1
        }
    }

    /// Waits for a signal and takes it; false when none came in time. 0: as long as it takes.
    package func wait(milliseconds: Int) -> Bool {
        wait(until: deadline(milliseconds: milliseconds))
    }

    /// Waits for a signal and takes it; false when none came by then (monotonic, ns).
    package func wait(until deadline: UInt64) -> Bool {
        while true {
            var waiting = pollfd(fd: rawValue, events: Int16(POLLIN), revents: 0)
            let now = monotonicNanoseconds()
            let left = deadline == .max ? -1 : Int32(clamping: (max(deadline, now) - now + 999_999) / 1_000_000)
            if poll(&waiting, 1, left) > 0 {
                clear()
                return true
            }
            guard now < deadline else { return false }
        }
    }

    /// Takes the signals that have come.
    package func clear() {
        var count: eventfd_t = 0
        var attempts = 0
        // EAGAIN: none is left.
        while eventfd_read(rawValue, &count) != 0, errno != EAGAIN, attempts < 16 {
            attempts += 1
        }
    }
}
