import CLinux
import Glibc
import Synchronization

/// One thread that waits for descriptors on behalf of devices.
///
/// A descriptor is reported once and then rests until ``rearm(_:)``, so that a device without room can let bytes wait.
<<<<<<< HEAD:Sources/Machine/Devices/EventLoop.swift
/// The loop keeps its handlers, and they the devices; none of them may keep the loop. A handler does a bounded piece of
/// work and returns: between two of them the loop looks whether it is to stop.
final class EventLoop: Sendable {
    typealias Handler = @Sendable (EventLoop) -> Void
=======
/// The loop keeps its handlers, and they the devices; none of them may keep the loop.
package final class EventLoop: Sendable {
    package typealias Handler = @Sendable (EventLoop) -> Void
>>>>>>> main:Sources/Linux/EventLoop.swift

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

    private let epoll: Int32
    private let stopping: EventDescriptor
    private let finished: EventDescriptor
    private let isStopping = Atomic(false)
    private let handlers = Mutex<[Int32: Handler]>([:])

<<<<<<< HEAD:Sources/Machine/Devices/EventLoop.swift
    init() throws(MachineError) {
        stopping = try EventDescriptor()
        finished = try EventDescriptor()
        epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard epoll >= 0 else { throw .system(call: "epoll_create1", errno: errno) }
        guard control(EPOLL_CTL_ADD, stopping.rawValue, EPOLLIN.rawValue) else {
            throw .system(call: "epoll_ctl", errno: errno)
=======
    package init() throws(SystemError) {
        epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard epoll >= 0 else { throw SystemError("epoll_create1", errno: errno) }
        stopping = eventfd(0, Int32(EFD_CLOEXEC))
        guard stopping >= 0 else {
            let error = errno
            close(epoll)
            throw SystemError("eventfd", errno: error)
>>>>>>> main:Sources/Linux/EventLoop.swift
        }
    }

    deinit {
        close(epoll)
    }

    /// Calls `handler` when the descriptor becomes readable.
    ///
    /// - Returns: false for what cannot be waited for: a regular file.
    /// - Throws: ``MachineError/system(call:errno:)``.
    @discardableResult
<<<<<<< HEAD:Sources/Machine/Devices/EventLoop.swift
    func add(_ descriptor: Int32, _ handler: @escaping Handler) throws(MachineError) -> Bool {
=======
    package func add(_ descriptor: Int32, _ handler: @escaping Handler) -> Bool {
>>>>>>> main:Sources/Linux/EventLoop.swift
        handlers.withLock { $0[descriptor] = handler }
        if control(EPOLL_CTL_ADD, descriptor, Readiness.readable.events) {
            return true
        }
        guard errno == EPERM else { throw .system(call: "epoll_ctl", errno: errno) }
        return false
    }

    /// Waits for the descriptor again.
<<<<<<< HEAD:Sources/Machine/Devices/EventLoop.swift
    func rearm(_ descriptor: Int32) {
        control(EPOLL_CTL_MOD, descriptor, Readiness.readable.events)
    }

    /// Calls `handler` once when the descriptor becomes writable. False for what always is.
    func whenWritable(_ descriptor: Int32, _ handler: @escaping Handler) -> Bool {
        handlers.withLock { $0[descriptor] = handler }
        return control(EPOLL_CTL_MOD, descriptor, Readiness.writable.events)
            || control(EPOLL_CTL_ADD, descriptor, Readiness.writable.events)
=======
    package func rearm(_ descriptor: Int32) {
        control(EPOLL_CTL_MOD, descriptor, EPOLLIN.rawValue | EPOLLONESHOT.rawValue)
>>>>>>> main:Sources/Linux/EventLoop.swift
    }

    /// Runs until ``stop()``.
    package func run() {
        var event = epoll_event()
        while !isStopping.load(ordering: .acquiring) {
            guard epoll_wait(epoll, &event, 1, Self.look) == 1 else { continue }
            let handler = handlers.withLock { $0[event.data.fd] }
            handler?(self)
        }
        finished.signal()
    }

<<<<<<< HEAD:Sources/Machine/Devices/EventLoop.swift
    func stop() {
        isStopping.store(true, ordering: .releasing)
        stopping.signal()
    }

    /// Whether ``run()`` has returned, or does by then (monotonic, ns).
    func hasStopped(by deadline: UInt64) -> Bool {
        finished.wait(until: deadline)
=======
    package func stop() {
        eventfd_write(stopping, 1)
>>>>>>> main:Sources/Linux/EventLoop.swift
    }

    @discardableResult
    private func control(_ operation: Int32, _ descriptor: Int32, _ events: UInt32) -> Bool {
        var event = epoll_event()
        event.events = events
        event.data.fd = descriptor
        while epoll_ctl(epoll, operation, descriptor, &event) != 0 {
            guard errno == EINTR else { return false }
        }
        return true
    }
}
