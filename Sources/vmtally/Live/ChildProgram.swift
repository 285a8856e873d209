// SPDX-License-Identifier: Apache-2.0
import Glibc

/// A program that waits, before its first instruction, to be let go: what is to watch it can be set up meanwhile.
final class ChildProgram {
    let process: pid_t
    private var gate: Int32
    private var status: Int32?

    /// - Parameter words: the program, by its path or to be found in PATH, and its arguments.
    init(_ words: [String]) throws {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw Failure("pipe: \(String(cString: strerror(errno)))") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        gate = ends[1]
        defer { close(ends[0]) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[0], 9)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        var usual = sigset_t()
        sigemptyset(&usual)
        sigaddset(&usual, SIGPIPE)
        posix_spawnattr_setsigdefault(&attributes, &usual)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        // The shell waits at the gate and becomes the program; without a word through it, it ends.
        let all = ["sh", "-c", "read -r go <&9 && exec 9<&- && exec \"$@\"", "sh"] + words
        var arguments: [UnsafeMutablePointer<CChar>?] = all.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var process = pid_t()
        let result = posix_spawn(&process, "/bin/sh", &actions, &attributes, &arguments, environ)
        self.process = process
        guard result == 0 else {
            close(gate)
            gate = -1
            throw Failure("/bin/sh: \(String(cString: strerror(result)))")
        }
    }

    deinit {
        if gate >= 0 { close(gate) }
    }

    /// Lets the program begin.
    func go() {
        _ = "go\n".withCString { write(gate, $0, 3) }
        close(gate)
        gate = -1
    }

    /// Its exit status, 128 + signal for one that a signal ended; nil while it runs.
    var exitStatus: Int32? {
        if status == nil {
            var raw: Int32 = 0
            let result = waitpid(process, &raw, WNOHANG)
            if result == process {
                status = raw & 0x7F == 0 ? raw >> 8 & 0xFF : 128 + raw & 0x7F
            } else if result < 0, errno != EINTR {
                status = 1
            }
        }
        return status
    }
}

/// Waits for a moment, a signal that would end us, or a child's end.
struct Waiter {
    private var signals = sigset_t()

    /// Holds SIGINT, SIGTERM, SIGHUP and SIGCHLD back from now on, in this thread and those it starts.
    init() {
        sigemptyset(&signals)
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGCHLD] { sigaddset(&signals, signal) }
        pthread_sigmask(SIG_BLOCK, &signals, nil)
    }

    /// - Returns: the signal that came; nil when the time was up first.
    mutating func wait(nanoseconds: UInt64) -> Int32? {
        var time = timespec(
            tv_sec: Int(min(nanoseconds / 1_000_000_000, 1 << 30)), tv_nsec: Int(nanoseconds % 1_000_000_000))
        let signal = sigtimedwait(&signals, nil, &time)
        return signal > 0 ? signal : nil
    }
}

/// ns of CLOCK_MONOTONIC.
func now() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
