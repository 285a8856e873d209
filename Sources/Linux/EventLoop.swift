import CLinux
import Glibc
import Synchronization

/// One thread that waits for descriptors on behalf of all devices.
///
/// A descriptor is reported once and then rests until ``rearm(_:)``, so that a device without room can let bytes wait.
/// The loop keeps its handlers, and they the devices; none of them may keep the loop.
package final class EventLoop: Sendable {
    package typealias Handler = @Sendable (EventLoop) -> Void

    private let epoll: FileDescriptor
    private let stopping: EventDescriptor
    private let handlers = Mutex<[Int32: Handler]>([:])

    package init() throws(SystemError) {
        epoll = try FileDescriptor(epoll_create1(Int32(EPOLL_CLOEXEC)), of: "epoll_create1")
        stopping = try EventDescriptor()
        control(EPOLL_CTL_ADD, stopping.rawValue, EPOLLIN.rawValue)
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
            guard epoll_wait(epoll.rawValue, &event, 1, -1) == 1 else { continue }
            guard event.data.fd != stopping.rawValue else { return }
            let handler = handlers.withLock { $0[event.data.fd] }
            handler?(self)
        }
    }

    package func stop() {
        stopping.signal()
    }

    @discardableResult
    private func control(_ operation: Int32, _ descriptor: Int32, _ events: UInt32) -> Bool {
        var event = epoll_event()
        event.events = events
        event.data.fd = descriptor
        return epoll_ctl(epoll.rawValue, operation, descriptor, &event) == 0
    }
}
