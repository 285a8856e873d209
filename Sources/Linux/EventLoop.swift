// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc
import Synchronization

/// One thread that waits for descriptors on behalf of devices.
///
/// A descriptor is reported once and then rests until ``rearm(_:)``, so that a device without room can let bytes wait.
/// The loop keeps its handlers, and they the devices; none of them may keep the loop. A handler does a bounded piece of
/// work and returns: between two of them the loop looks whether it is to stop.
package final class EventLoop: Sendable {
    package typealias Handler = @Sendable (EventLoop) -> Void

    /// What to wait for.
    enum Readiness {
        case readable
        case writable

        fileprivate var events: UInt32 {
            switch self {
            case .readable: EPOLLIN.rawValue | EPOLLONESHOT.rawValue
            case .writable: EPOLLOUT.rawValue | EPOLLONESHOT.rawValue
            }
        }
    }

    /// Should the wake-up at the end get lost, it is noticed all the same, ms.
    private static let look: Int32 = 1000

    private let epoll: FileDescriptor
    private let stopping: EventDescriptor
    private let finished: EventDescriptor
    private let isStopping = Atomic(false)
    private let handlers = Mutex<[Int32: Handler]>([:])

    package init() throws(SystemError) {
        epoll = try FileDescriptor(epoll_create1(Int32(EPOLL_CLOEXEC)), of: "epoll_create1")
        stopping = try EventDescriptor()
        finished = try EventDescriptor()
        guard control(EPOLL_CTL_ADD, stopping.rawValue, EPOLLIN.rawValue) else {
            throw SystemError("epoll_ctl", errno: errno)
        }
    }

    /// Calls `handler` when the descriptor becomes readable.
    ///
    /// - Returns: false for what cannot be waited for: a regular file.
    @discardableResult
    package func add(_ descriptor: Int32, _ handler: @escaping Handler) throws(SystemError) -> Bool {
        handlers.withLock { $0[descriptor] = handler }
        if control(EPOLL_CTL_ADD, descriptor, Readiness.readable.events) {
            return true
        }
        guard errno == EPERM else { throw SystemError("epoll_ctl", errno: errno) }
        return false
    }

    /// Waits for the descriptor again.
    package func rearm(_ descriptor: Int32) {
        control(EPOLL_CTL_MOD, descriptor, Readiness.readable.events)
    }

    /// Calls `handler` once when the descriptor becomes writable. False for what always is.
    package func whenWritable(_ descriptor: Int32, _ handler: @escaping Handler) -> Bool {
        handlers.withLock { $0[descriptor] = handler }
        return control(EPOLL_CTL_MOD, descriptor, Readiness.writable.events)
            || control(EPOLL_CTL_ADD, descriptor, Readiness.writable.events)
    }

    /// Runs until ``stop()``.
    package func run() {
        var event = epoll_event()
        while !isStopping.load(ordering: .acquiring) {
            guard epoll_wait(epoll.rawValue, &event, 1, Self.look) == 1 else { continue }
            let handler = handlers.withLock { $0[event.data.fd] }
            handler?(self)
        }
        finished.signal()
    }

    package func stop() {
        isStopping.store(true, ordering: .releasing)
        stopping.signal()
    }

    /// Whether ``run()`` has returned, or does by then (monotonic, ns).
    package func hasStopped(by deadline: UInt64) -> Bool {
        finished.wait(until: deadline)
    }

    @discardableResult
    private func control(_ operation: Int32, _ descriptor: Int32, _ events: UInt32) -> Bool {
        var event = epoll_event()
        event.events = events
        event.data.fd = descriptor
        while epoll_ctl(epoll.rawValue, operation, descriptor, &event) != 0 {
            guard errno == EINTR else { return false }
        }
        return true
    }
}
