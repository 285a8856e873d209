import CLinux
import Glibc
import Synchronization

/// One thread that waits for descriptors on behalf of all devices.
///
/// A descriptor is reported once and then rests until ``rearm(_:)``, so that a device without room can let bytes wait.
/// The loop keeps its handlers, and they the devices; none of them may keep the loop.
package final class EventLoop: Sendable {
    package typealias Handler = @Sendable (EventLoop) -> Void

    private let epoll: Int32
    private let stopping: Int32
    private let handlers = Mutex<[Int32: Handler]>([:])

    package init() throws(SystemError) {
        epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard epoll >= 0 else { throw SystemError("epoll_create1", errno: errno) }
        stopping = eventfd(0, Int32(EFD_CLOEXEC))
        guard stopping >= 0 else {
            let error = errno
            close(epoll)
            throw SystemError("eventfd", errno: error)
        }
        control(EPOLL_CTL_ADD, stopping, EPOLLIN.rawValue)
    }

    deinit {
        close(epoll)
        close(stopping)
    }

    /// Calls `handler` when the descriptor becomes readable. False for what cannot be waited for: a regular file.
    @discardableResult
    package func add(_ descriptor: Int32, _ handler: @escaping Handler) -> Bool {
        handlers.withLock { $0[descriptor] = handler }
        return control(EPOLL_CTL_ADD, descriptor, EPOLLIN.rawValue | EPOLLONESHOT.rawValue)
    }

    /// Waits for the descriptor again.
    package func rearm(_ descriptor: Int32) {
        control(EPOLL_CTL_MOD, descriptor, EPOLLIN.rawValue | EPOLLONESHOT.rawValue)
    }

    /// Runs until ``stop()``.
    package func run() {
        var event = epoll_event()
        while true {
            guard epoll_wait(epoll, &event, 1, -1) == 1 else { continue }
            guard event.data.fd != stopping else { return }
            let handler = handlers.withLock { $0[event.data.fd] }
            handler?(self)
        }
    }

    package func stop() {
        eventfd_write(stopping, 1)
    }

    @discardableResult
    private func control(_ operation: Int32, _ descriptor: Int32, _ events: UInt32) -> Bool {
        var event = epoll_event()
        event.events = events
        event.data.fd = descriptor
        return epoll_ctl(epoll, operation, descriptor, &event) == 0
    }
}
