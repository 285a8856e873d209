import BootRecords
import ExitStats
import Glibc
import HostView
import KVM

/// One boot in another VMM, seen by KVM's tracepoints.
struct OtherBoot {
    let setup: BootSetup
    let command: String

    /// - Parameter name: tells apart the traces of this process.
    func run(_ name: String) throws -> BootOutcome {
        let trace = try BootTrace(name)
        guard let console = tmpfile() else {
            throw BootError("a file for the console: \(String(cString: strerror(errno)))")
        }
        defer { fclose(console) }
        // The shell joins the trace, then becomes the VMM.
        let script = "echo $$ >'\(trace.processFile)' && exec \(filledIn)"
        let process = try ChildProcess(script, output: fileno(console))
        defer { process.end() }
        let start = Self.now()
        let deadline = start + UInt64(setup.timeout * 1e9)
        while !trace.wait(milliseconds: 200) {
            if let signal = process.pendingSignal { throw BootInterrupted(signal: signal) }
            guard !process.hasEnded, Self.now() < deadline else {
                let last = Self.contents(console).split(whereSeparator: \.isNewline).suffix(5)
                throw BootError(
                    "the VMM \(process.hasEnded ? "ended" : "ran out of time") before the guest wrote to port 0xF5"
                        + last.map { "\n  | \($0)" }.joined())
            }
        }
        while setup.wantsLog, !process.hasEnded, Self.now() < deadline {
            if let signal = process.pendingSignal { throw BootInterrupted(signal: signal) }
            usleep(50_000)
        }
        process.end()
        // The marker's own exit had not reached userspace when it stopped the count.
        let marker = ExitCounts(
            source: .userspaceExitTracepoint, vocabulary: .kvm,
            reasons: [ExitCounts.Reason(code: UInt32(KVM_EXIT_IO), count: 1)])
        let userspace = try trace.userspaceExits().counts
        let end = trace.end ?? start
        let begin = trace.begin ?? start
        var outcome = BootOutcome(
            nanoseconds: end > begin ? end - begin : 0,
            userspace: userspace.total == 0 ? marker : userspace.adding(marker))
        outcome.console = Self.contents(console)
        try outcome.add(trace)
        return outcome
    }

    /// The command line with what the placeholders stand for, quoted for the shell.
    private var filledIn: String {
        let values = [
            ("kernel", setup.kernel), ("initrd", setup.initrd ?? ""), ("append", setup.commandLine),
            ("cpus", "\(setup.cpus)"), ("memory", "\(setup.memoryMiB)"), ("console", setup.console.rawValue),
        ]
        return values.reduce(command) { text, value in
            let quoted =
                "'" + value.1.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
            return text.split(separator: "{\(value.0)}", omittingEmptySubsequences: false).joined(separator: quoted)
        }
    }

    private static func now() -> UInt64 {
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
    }

    /// At most 1 MiB.
    private static func contents(_ file: UnsafeMutablePointer<FILE>) -> String {
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        let count = pread(fileno(file), &bytes, bytes.count, 0)
        return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }
}

/// A shell line in a process group of its own, ended with this object at the latest. The signals that would end us are
/// held back meanwhile.
private final class ChildProcess {
    private let process: pid_t
    private var isReaped = false
    private var before = sigset_t()

    init(_ script: String, output: Int32) throws {
        var held = sigset_t()
        sigemptyset(&held)
        sigaddset(&held, SIGINT)
        sigaddset(&held, SIGTERM)
        var before = sigset_t()
        pthread_sigmask(SIG_BLOCK, &held, &before)
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, output, 1)
        posix_spawn_file_actions_adddup2(&actions, output, 2)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK))
        let words = ["sh", "-c", script]
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var process = pid_t()
        let result = posix_spawn(&process, "/bin/sh", &actions, &attributes, &arguments, environ)
        self.process = process
        self.before = before
        guard result == 0 else {
            pthread_sigmask(SIG_SETMASK, &before, nil)
            isReaped = true
            throw BootError("/bin/sh: \(String(cString: strerror(result)))")
        }
    }

    deinit {
        end()
    }

    var hasEnded: Bool {
        if !isReaped, waitpid(process, nil, WNOHANG) != 0 {
            isReaped = true
        }
        return isReaped
    }

    /// One of the signals that are held back.
    var pendingSignal: Int32? {
        var pending = sigset_t()
        sigpending(&pending)
        return [SIGINT, SIGTERM].first { sigismember(&pending, $0) == 1 }
    }

    /// Asks it to end, and two seconds later makes it.
    func end() {
        guard !hasEnded else { return restore() }
        kill(-process, SIGTERM)
        for _ in 0..<40 where !hasEnded { usleep(50_000) }
        if !hasEnded {
            kill(-process, SIGKILL)
            waitpid(process, nil, 0)
            isReaped = true
        }
        restore()
    }

    private func restore() {
        pthread_sigmask(SIG_SETMASK, &before, nil)
    }
}
