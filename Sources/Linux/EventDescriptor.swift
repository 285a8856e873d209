import CLinux
import Glibc

/// An eventfd(2), as KVM's ioeventfd and irqfd use them.
package final class EventDescriptor: Sendable {
    private let file: FileDescriptor

    package var rawValue: Int32 { file.rawValue }

    package init() throws(SystemError) {
        file = try FileDescriptor(eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK)), of: "eventfd")
    }

    package func signal() {
        eventfd_write(rawValue, 1)
    }

    /// Waits for a signal and takes it; false when none came in time.
    package func wait(milliseconds: Int) -> Bool {
        let deadline = deadline(milliseconds: milliseconds)
        while true {
            var waiting = pollfd(fd: rawValue, events: Int16(POLLIN), revents: 0)
            let now = monotonicNanoseconds()
            guard now < deadline else { return false }
            let left = deadline == .max ? -1 : Int32(clamping: (deadline - now + 999_999) / 1_000_000)
            if poll(&waiting, 1, left) > 0 {
                clear()
                return true
            }
        }
    }

    /// Takes the signals that have come.
    package func clear() {
        var count: eventfd_t = 0
        eventfd_read(rawValue, &count)
    }
}
