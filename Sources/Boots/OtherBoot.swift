// SPDX-License-Identifier: Apache-2.0
import BootRecords
import ExitStats
import Glibc
import HostView
import KVM
import Synchronization

/// One boot in another VMM, seen by KVM's tracepoints.
struct OtherBoot {
    let setup: BootSetup
    let command: String

    /// - Parameters:
    ///   - name: tells apart the traces of this process.
    ///   - stoppable: gets what calls the boot off.
    func run(
        _ name: String, _ stoppable: (@escaping @Sendable (Int32) -> Void) -> Void
    ) throws -> BootOutcome {
        let trace = try BootTrace(name)
        guard let console = tmpfile() else {
            throw BootError("a file for the console: \(String(cString: strerror(errno)))")
        }
        defer { fclose(console) }
        let interruption = Interruption()
        // The shell joins the trace, then becomes the VMM.
        let script = "echo $$ >'\(trace.processFile)' && exec \(filledIn)"
        let process = try ChildProcess(script, output: fileno(console), trace: trace.path)
        defer { process.end() }
        stoppable { interruption.set($0) }
        let start = Self.now()
        let deadline = start + UInt64(setup.timeout * 1e9)
        while !trace.wait(milliseconds: 100) {
            try interruption.check()
            guard !process.hasEnded, Self.now() < deadline else {
                let last = Self.contents(console).split(whereSeparator: \.isNewline).suffix(5)
                throw BootError(
                    "the VMM \(process.hasEnded ? "ended" : "ran out of time") before the guest wrote to port 0xF5"
                        + last.map { "\n  | \($0)" }.joined())
            }
        }
        while setup.wantsLog, !process.hasEnded, Self.now() < deadline {
            try interruption.check()
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

/// The signal that calls a boot off, from another thread.
private final class Interruption: Sendable {
    private let signal = Atomic<Int32>(0)

    func set(_ number: Int32) { signal.store(number, ordering: .relaxed) }

    func check() throws {
        let number = signal.load(ordering: .relaxed)
        if number != 0 { throw BootInterrupted(signal: number) }
    }
}

/// A shell line in a process group of its own, ended with this object at the latest.
///
/// A keeper, a second shell in a group of its own, holds the reading end of a pipe that we keep open. When we end without
/// having ended the VMM, by SIGKILL even, it reads the pipe's end, kills the group and removes the trace.
private final class ChildProcess {
    private let process: pid_t
    private let keeper: pid_t
    private let life: Int32
    private var isReaped = false

    init(_ script: String, output: Int32, trace: String) throws {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw BootError("pipe: \(String(cString: strerror(errno)))") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        defer {
            close(ends[0])
            close(null)
        }
        life = ends[1]
        do {
            process = try Self.start(["sh", "-c", script], null, output, output)
            // The line never comes; removing the trace takes a moment after the last of its processes has gone.
            let guardian = """
                read -r line
                kill -TERM -- "-$1"; sleep 1; kill -KILL -- "-$1"
                for i in 1 2 3 4 5; do rmdir "$2" && break; sleep 1; done
                """
            do {
                keeper = try Self.start(
                    ["sh", "-c", guardian, "sh", "\(process)", trace], ends[0], null, null)
            } catch {
                kill(-process, SIGKILL)
                waitpid(process, nil, 0)
                throw error
            }
        } catch {
            close(life)
            throw error
        }
    }

    /// Starts /bin/sh in a group of its own, with no signal blocked and none ignored.
    private static func start(
        _ words: [String], _ input: Int32, _ output: Int32, _ error: Int32
    ) throws -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (number, descriptor) in [input, output, error].enumerated() {
            posix_spawn_file_actions_adddup2(&actions, descriptor, Int32(number))
        }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var (none, usual) = (sigset_t(), sigset_t())
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        sigemptyset(&usual)
        for signal in [SIGPIPE, SIGXFSZ] { sigaddset(&usual, signal) }
        posix_spawnattr_setsigdefault(&attributes, &usual)
        posix_spawnattr_setflags(
            &attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var process = pid_t()
        let result = posix_spawn(&process, "/bin/sh", &actions, &attributes, &arguments, environ)
        guard result == 0 else { throw BootError("/bin/sh: \(String(cString: strerror(result)))") }
        return process
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

    private var isOver = false

    /// Asks it to end, and two seconds later makes it.
    func end() {
        guard !isOver else { return }
        isOver = true
        if !hasEnded {
            kill(-process, SIGTERM)
            for _ in 0..<40 where !hasEnded { usleep(50_000) }
        }
        // What is left of the group: the VMM itself, or what it started.
        kill(-process, SIGKILL)
        if !isReaped {
            waitpid(process, nil, 0)
            isReaped = true
        }
        kill(-keeper, SIGKILL)
        waitpid(keeper, nil, 0)
        close(life)
    }
}
