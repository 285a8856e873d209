// SPDX-License-Identifier: Apache-2.0
import Glibc
import Linux
import Synchronization

/// How far a machine's process is confined while its guest runs.
public struct SandboxConfiguration: Sendable {
    public enum Scope: Sendable {
        /// Not at all.
        case none
        /// vCPUs and devices. The thread that called ``Machine/run()`` stays as it is, to build other machines.
        case machineThreads
        /// The calling thread as well, for good: a process that runs one guest and then reports to files that are open.
        case process
    }

    public var scope = Scope.none
    /// The last line of the message that a forbidden system call is told with.
    public var advice = "Either the guest has broken into the VMM, or this is a mistake of ours: please report it."
    /// A folder that is to be the process's root; with ``Scope/process``, once the process is in a ``Jail``.
    package var jail: Jail?

    public init() {}
}

/// What a guest's threads were confined to.
public struct SandboxState: Equatable, Sendable {
    /// The kernel's Landlock ABI; 0: it has no Landlock.
    public let landlock: Int
    /// The folder that was the process's root.
    public let jail: String?
}

/// One machine's sandbox, from set-up to the first KVM_RUN.
final class MachineSandbox: Sendable {
    private let configuration: SandboxConfiguration
    private let landlock = Atomic(0)

    init(_ configuration: SandboxConfiguration) {
        self.configuration = configuration
    }

    var state: SandboxState? {
        configuration.scope == .none
            ? nil : SandboxState(landlock: landlock.load(ordering: .relaxed), jail: configuration.jail?.folder)
    }

    /// Before any thread: what they inherit.
    func begin() throws(MachineError) -> Gate {
        do throws(SystemError) {
            guard configuration.scope != .none else { return try Gate(isOpen: true) }
            try Sandbox.prepare(advice: configuration.advice)
            if configuration.scope == .process {
                Sandbox.closeInherited()
                try configuration.jail?.lock()
                landlock.store(try Sandbox.giveUpPrivileges(), ordering: .relaxed)
            }
            return try Gate(isOpen: false)
        } catch {
            throw .sandbox(error)
        }
    }

    /// On a thread of the machine's, before it does anything for the guest. False when it must not go on.
    func enter(_ role: Sandbox.Role, _ filter: @autoclosure () -> SystemCallFilter, _ control: RunControl) -> Bool {
        do throws(SystemError) {
            switch configuration.scope {
            case .none: return true
            case .machineThreads: landlock.store(try Sandbox.giveUpPrivileges(), ordering: .relaxed)
            case .process: break
            }
            try Sandbox.enter(role, filter())
            return true
        } catch {
            control.finish(.failed(GuestFailure(vcpu: 0, cause: "\(MachineError.sandbox(error))", state: "")))
            return false
        }
    }

    /// On the calling thread, when all others have been started: it can start no more.
    func enterMain() throws(MachineError) {
        guard configuration.scope == .process else { return }
        do throws(SystemError) { try Sandbox.enter(.main, .mainThread) } catch { throw .sandbox(error) }
    }
}

/// Where vCPUs wait until everything around them is confined.
struct Gate: Sendable {
    /// Readable once the gate is open; nil: it has always been.
    private let opened: EventDescriptor?

    init(isOpen: Bool) throws(SystemError) {
        opened = isOpen ? nil : try EventDescriptor()
    }

    func open() {
        opened?.signal()
    }

    func wait() {
        guard let opened else { return }
        var waiting = pollfd(fd: opened.rawValue, events: Int16(POLLIN), revents: 0)
        while poll(&waiting, 1, -1) < 0 {}
    }
}
