import CLinuxKVM
import Glibc

/// An eventfd(2), as KVM's ioeventfd and irqfd use them.
final class EventDescriptor: Sendable {
    let rawValue: Int32

    init() throws(MachineError) {
        rawValue = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        guard rawValue >= 0 else { throw .system(call: "eventfd", errno: errno) }
    }

    deinit {
        close(rawValue)
    }

    func signal() {
        eventfd_write(rawValue, 1)
    }

    /// Waits for a signal and takes it; false when none came in time.
    func wait(milliseconds: Int) -> Bool {
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
    func clear() {
        var count: eventfd_t = 0
        eventfd_read(rawValue, &count)
    }
}
