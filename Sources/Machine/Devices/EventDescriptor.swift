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

    /// Takes the signals that have come.
    func clear() {
        var count: eventfd_t = 0
        eventfd_read(rawValue, &count)
    }
}
