// SPDX-License-Identifier: Apache-2.0
import Glibc
import Linux
import Synchronization

/// A program that waits, before its first instruction, to be let go: what is to watch it can be set up meanwhile.
final class ChildProgram {
    private var shell: ShellProcess
    private var gate: Pipe?

    var process: pid_t { shell.id }

    /// - Parameter words: the program, by its path or to be found in PATH, and its arguments.
    init(_ words: [String]) throws(SystemError) {
        let pipe = try Pipe()
        // The shell waits at the gate and becomes the program; without a word through it, it ends.
        shell = try ShellProcess(
            ["-c", "read -r go <&9 && exec 9<&- && exec \"$@\"", "sh"] + words,
            descriptors: [9: pipe.reading.rawValue])
        gate = pipe
    }

    /// Lets the program begin.
    func go() {
        if let gate { _ = "go\n".withCString { write(gate.writing.rawValue, $0, 3) } }
        gate = nil
    }

    /// Its exit status, 128 + signal for one that a signal ended; nil while it runs.
    var exitStatus: Int32? { shell.exitStatus() }
}

/// Waits for a moment, a signal that would end us, or a child's end.
struct Waiter {
    private var signals = sigset_t()
    private static let hasEnded = Atomic(false)

    /// Holds what ends a program, and SIGCHLD, back from now on, in this thread and those it starts.
    init() {
        sigemptyset(&signals)
        for signal in EndingSignal.all + [SIGCHLD] { sigaddset(&signals, signal) }
        pthread_sigmask(SIG_BLOCK, &signals, nil)
    }

    /// A signal that ends us has come, whether ``wait(nanoseconds:)`` has told it or not.
    static var isToEnd: Bool {
        if hasEnded.load(ordering: .relaxed) { return true }
        var pending = sigset_t()
        sigpending(&pending)
        return EndingSignal.all.contains { sigismember(&pending, $0) == 1 }
    }

    /// - Returns: the signal that ends us; nil when the time was up first, or a child ended.
    mutating func wait(nanoseconds: UInt64) -> Int32? {
        var time = timespec(
            tv_sec: Int(min(nanoseconds / 1_000_000_000, 1 << 30)), tv_nsec: Int(nanoseconds % 1_000_000_000))
        let signal = sigtimedwait(&signals, nil, &time)
        guard signal > 0, signal != SIGCHLD else { return nil }
        Self.hasEnded.store(true, ordering: .relaxed)
        return signal
    }
}
