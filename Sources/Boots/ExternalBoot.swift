// SPDX-License-Identifier: Apache-2.0
import BootRecords
import ExitStats
import Glibc
import HostView
import KVM
import Linux
import Synchronization

/// One boot in another VMM, seen by KVM's tracepoints.
struct ExternalBoot {
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
        let start = monotonicNanoseconds()
        let deadline = start + UInt64(setup.timeout * 1e9)
        while !trace.wait(milliseconds: 100) {
            try interruption.check()
            guard !process.hasEnded, monotonicNanoseconds() < deadline else {
                let last = Self.contents(console).split(whereSeparator: \.isNewline).suffix(5)
                throw BootError(
                    "the VMM \(process.hasEnded ? "ended" : "ran out of time") before the guest wrote to port 0xF5"
                        + last.map { "\n  | \($0)" }.joined())
            }
        }
        while setup.wantsLog, !process.hasEnded, monotonicNanoseconds() < deadline {
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
    private var process: ShellProcess
    private var keeper: ShellProcess
    private let life: Pipe

    init(_ script: String, output: Int32, trace: String) throws(SystemError) {
        let null = try FileDescriptor(opening: "/dev/null", O_RDWR)
        life = try Pipe()
        process = try ShellProcess(
            ["-c", script], descriptors: [0: null.rawValue, 1: output, 2: output], ownGroup: true)
        // The line never comes; removing the trace takes a moment after the last of its processes has gone.
        let guardian = """
            read -r line
            kill -TERM -- "-$1"; sleep 1; kill -KILL -- "-$1"
            for i in 1 2 3 4 5; do rmdir "$2" && break; sleep 1; done
            """
        do {
            keeper = try ShellProcess(
                ["-c", guardian, "sh", "\(process.id)", trace],
                descriptors: [0: life.reading.rawValue, 1: null.rawValue, 2: null.rawValue], ownGroup: true)
        } catch {
            kill(-process.id, SIGKILL)
            process.wait()
            throw error
        }
    }

    deinit {
        end()
    }

    var hasEnded: Bool { process.exitStatus() != nil }

    private var isOver = false

    /// Asks it to end, and two seconds later makes it.
    func end() {
        guard !isOver else { return }
        isOver = true
        if !hasEnded {
            kill(-process.id, SIGTERM)
            for _ in 0..<40 where !hasEnded { usleep(50_000) }
        }
        // What is left of the group: the VMM itself, or what it started.
        kill(-process.id, SIGKILL)
        process.wait()
        kill(-keeper.id, SIGKILL)
        keeper.wait()
    }
}
