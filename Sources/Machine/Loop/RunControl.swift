// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc
import KVM
import Linux
import Synchronization

/// What the vCPU threads and the thread that waits for them share: how the run ends, and how to make it end.
final class RunControl: Sendable {
    private struct State {
        var end: RunEnd?
        var guestStatus: UInt8 = 0
        var running: Int
        /// By vCPU: those inside their loop, to be kicked out of KVM_RUN.
        var kickable: [Kick?]
        let callsOut: Bool
        /// vCPUs whose guest has not yet shown its #GP handler.
        var waitingForHandler: Set<Int>
    }

    /// What it takes to get one thread out of KVM_RUN.
    struct Kick: @unchecked Sendable {
        let runPage: UnsafeMutablePointer<kvm_run>
        let thread: pthread_t
    }

    private let state: Mutex<State>
    private let over = Atomic(false)
    /// Readable once the run has an end.
    private let finished: EventDescriptor

    /// - Parameter callsOut: vCPUs are to be called out of a guest that has not yet shown its #GP handler.
    init(cpus: Int, callsOut: Bool = false) throws(MachineError) {
        finished = try lifted { () throws(SystemError) in try EventDescriptor() }
        state = Mutex(
            State(
                running: cpus, kickable: Array(repeating: nil, count: cpus), callsOut: callsOut,
                waitingForHandler: callsOut ? Set(0..<cpus) : []))
        try lifted { () throws(SystemError) in try KickSignal.install() }
    }

    /// Whether the run has ended, without a lock.
    var isOver: Bool { over.load(ordering: .acquiring) }

    /// How the run ended; nil while it goes on.
    var end: RunEnd? { state.withLock { $0.end } }

    /// The status that the guest wants its power-off to have.
    var guestStatus: UInt8 {
        get { state.withLock { $0.guestStatus } }
        set { state.withLock { $0.guestStatus = newValue } }
    }

    /// Ends the run for all vCPUs. The first end counts.
    func finish(_ end: RunEnd) {
        let first = state.withLock { state in
            guard state.end == nil else { return false }
            state.end = end == .powerOff(status: 0) ? .powerOff(status: state.guestStatus) : end
            over.store(true, ordering: .releasing)
            for kick in state.kickable {
                kick.map(KickSignal.send)
            }
            return true
        }
        if first {
            finished.signal()
        }
    }

    /// A vCPU halted for good; the last one ends the run.
    func halted() {
        let last = state.withLock { state in
            state.running -= 1
            return state.running == 0
        }
        if last {
            finish(.halted)
        }
    }

    /// Whether a vCPU's guest still has to show its #GP handler.
    func setWaitingForHandler(vcpu index: Int, _ isWaiting: Bool) {
        state.withLock { state in
            guard state.callsOut else { return }
            if isWaiting {
                state.waitingForHandler.insert(index)
            } else {
                state.waitingForHandler.remove(index)
            }
        }
    }

    /// Calls all vCPUs but one out of the guest, to look at what that one has changed.
    func callOut(except index: Int) {
        state.withLock { state in
            for (other, kick) in state.kickable.enumerated() where other != index {
                kick.map(KickSignal.send)
            }
        }
    }

    /// Calls out of the guest those vCPUs that still wait, and no other: it costs an exit, which may be counted on.
    private func nudge() {
        state.withLock { state in
            for index in state.waitingForHandler {
                state.kickable[index].map(KickSignal.send)
            }
        }
    }

    /// Waits until the run has ended, and ends it itself at the time given (monotonic, ns) or at a signal.
    ///
    /// While guests have not shown their #GP handlers the vCPUs are called out of the guest at growing intervals, so
    /// that the handler of a guest that makes no exits is found too.
    ///
    /// - Parameters:
    ///   - recorder: ends an interval now and then.
    ///   - idle: called about once a second, or more often.
    func wait(
        until deadline: UInt64, _ signals: borrowing EndingSignals, recorder: RunRecorder? = nil,
        idle: () -> Void = {}
    ) {
        let step = recorder?.configuration.nanoseconds ?? .max
        var tick = recorder == nil ? .max : monotonicNanoseconds() &+ step
        var next = monotonicNanoseconds() + Self.firstNudge
        var interval = Self.firstNudge
        while end == nil {
            let nudging = state.withLock { !$0.waitingForHandler.isEmpty }
            switch sleep(until: min(nudging ? min(deadline, next) : deadline, tick), signals, idle) {
            case .signal(let signal): finish(.interrupted(signal: signal))
            case .timeout where monotonicNanoseconds() >= deadline: finish(.timeout)
            case .timeout where monotonicNanoseconds() >= tick:
                recorder?.tick()
                // Spans that a busy machine has slept through are one longer span.
                while tick <= monotonicNanoseconds() { tick += step }
            case .timeout:
                // Ever rarer, but never the last: a guest that boots slowly is found too, at a dozen exits an hour.
                interval = min(interval * 2, Self.longestNudge)
                next += interval
                nudge()
            case .ended: return
            }
        }
    }

    private static let firstNudge: UInt64 = 2_000_000
    private static let longestNudge: UInt64 = 1 << 40

    private enum Wakeup {
        case ended
        case signal(Int32)
        case timeout
    }

    /// Should a wake-up get lost, it is noticed all the same, ms.
    private static let look: UInt64 = 1000

    private func sleep(until deadline: UInt64, _ signals: borrowing EndingSignals, _ idle: () -> Void) -> Wakeup {
        var waits = [
            pollfd(fd: finished.rawValue, events: Int16(POLLIN), revents: 0),
            pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0),
        ]
        while true {
            let now = monotonicNanoseconds()
            let left = (max(deadline, now) - now) / 1_000_000
            let ready = poll(&waits, 2, Int32(left < Self.look ? left + 1 : Self.look))
            if ready == 0 { idle() }
            if ready > 0, waits[1].revents != 0, let signal = signals.next() {
                return .signal(signal)
            }
            if isOver {
                return .ended
            }
            if monotonicNanoseconds() >= deadline {
                return .timeout
            }
        }
    }

    /// Makes the calling thread's vCPU stoppable. A run that has ended already stops it at once.
    func enter(vcpu index: Int, runPage: UnsafeMutablePointer<kvm_run>) {
        KickSignal.unblock()
        let kick = Kick(runPage: runPage, thread: pthread_self())
        state.withLock { state in
            state.kickable[index] = kick
            if state.end != nil {
                VCPU.requestExit(runPage: runPage)
            }
        }
    }

    /// The vCPU's thread is about to end.
    func leave(vcpu index: Int) {
        state.withLock { state in
            state.kickable[index] = nil
        }
    }
}

/// The signal that interrupts KVM_RUN. `immediate_exit` covers the moment before the ioctl (kvm/api.rst 5).
enum KickSignal {
    /// The first real-time signal that glibc leaves to programs.
    private static let number: Int32 = 34

    static func install() throws(SystemError) {
        var action = sigaction()
        // Not SA_RESTART: the point is EINTR.
        action.__sigaction_handler.sa_handler = { _ in }
        // Without a handler the first kick would end the process.
        guard sigaction(number, &action, nil) == 0 else { throw SystemError("sigaction", errno: errno) }
    }

    /// A thread inherits its creator's mask, and those of Swift's concurrency block every signal.
    static func unblock() {
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, number)
        pthread_sigmask(SIG_UNBLOCK, &set, nil)
    }

    static func send(_ kick: RunControl.Kick) {
        VCPU.requestExit(runPage: kick.runPage)
        pthread_kill(kick.thread, number)
    }
}
