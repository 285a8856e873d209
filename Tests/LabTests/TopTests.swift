// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

/// What the tests of the screen need.
enum Screen {
    static let missing: String? = {
        guard geteuid() == 0, access("/dev/kvm", R_OK | W_OK) == 0 else { return "needs root and /dev/kvm" }
        return access("/usr/bin/tmux", X_OK) == 0 || Lab.isCI ? Lab.missing : "no tmux: apt-get install tmux"
    }()
}

/// `vmtally top` as a person drives it: in a terminal of tmux, beside VMs that run.
@Suite("top", .serialized, .enabled(if: Screen.missing == nil, "\(Screen.missing ?? "")"))
struct TopTests {
    private static let vmtally = Lab.path("build/vmtally")

    /// A VM that makes exits until it is killed.
    private static func startVM(_ folder: borrowing TemporaryFolder) throws -> Process {
        try start(["run", "--guest", try folder.storm(cpuids: 1, outs: 2_000_000_000)])
    }

    private static func start(_ arguments: [String]) throws -> Process {
        let process = Process()
        process.executableURL = URL(filePath: vmtally)
        // Confined it would close the descriptor by which Foundation sees that it has ended.
        process.arguments = arguments + ["--live-cpuid", "off", "--quiet", "--timeout", "600", "--no-sandbox"]
        process.standardInput = FileHandle.nullDevice
        try process.run()
        return process
    }

    /// A terminal of its own, on a server of its own.
    private final class Terminal {
        /// Its own, so that the socket is there as long as the server.
        private let folder: TemporaryFolder
        private let socket: String

        init(_ command: String, width: Int, height: Int) throws {
            folder = try TemporaryFolder()
            socket = folder.path + "/tmux"
            _ = try tmux(
                "-f", "/dev/null", "new-session", "-d", "-x", "\(width)", "-y", "\(height)",
                "TERM=screen \(command); echo ended $?; cat")
        }

        // Not kill-server: the server sends that to itself by SIGTERM, which a test's children have blocked.
        deinit { _ = try? tmux("kill-session") }

        /// tmux leaves a server behind, which would hold on to the descriptor by which Foundation sees that a program
        /// has ended.
        private static let closing =
            #"for f in /proc/$$/fd/*; do n=${f##*/}; [ "$n" -le 2 ] || eval "exec $n>&-"; done; exec "$@""#

        @discardableResult
        func tmux(_ words: String...) throws -> String {
            try Lab.run("/bin/bash", ["-c", Self.closing, "tmux", "/usr/bin/tmux", "-S", socket] + words).output
        }

        func screen() throws -> [String] {
            try tmux("capture-pane", "-p").split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        }

        /// Waits, minutes at most, for a screen that is as wanted.
        func wait(_ what: String, _ isWanted: ([String]) -> Bool) throws -> [String] {
            var last: [String] = []
            for _ in 0..<1200 {
                last = try screen()
                if isWanted(last) { return last }
                usleep(100_000)
            }
            Issue.record("no screen with \(what):\n\(last.joined(separator: "\n"))")
            return last
        }

        func press(_ keys: String...) throws {
            for key in keys { try tmux("send-keys", key) }
        }
    }

    @Test("screen by screen", arguments: [(80, 24), (60, 20)])
    func screens(size: (width: Int, height: Int)) throws {
        let folder = try TemporaryFolder()
        let vms = try [Self.startVM(folder), Self.startVM(folder)]
        defer { for vm in vms { vm.terminate() } }
        let terminal = try Terminal("\(Self.vmtally) top -i 0.3", width: size.width, height: size.height)
        let pids = vms.map { "\($0.processIdentifier)" }
        var screen = try terminal.wait("both VMs") { lines in
            pids.allSatisfy { pid in lines.contains { $0.contains(" \(pid) ") && $0.contains("  IO") } }
        }
        // Other tests' VMs may be there as well.
        #expect(screen[0].contains(/^vmtally top: [0-9]+ VMs/))
        #expect(screen.allSatisfy { $0.count <= size.width })
        #expect(screen.contains { $0.hasPrefix("VM ") && $0.contains("exits/s") })
        try terminal.press("?")
        _ = try terminal.wait("help") { $0.contains { $0.contains("choose a VM") } }
        try terminal.press("?", "Enter")
        screen = try terminal.wait("reasons") { $0.contains { $0.hasPrefix("userspace exits ") } }
        #expect(screen.contains { $0.hasPrefix("KVM_EXIT_IO ") })
        #expect(screen.contains { $0.hasPrefix("rate ") })
        try terminal.press("v")
        _ = try terminal.wait("vCPUs") { $0.contains { $0.contains("thread") && $0.contains("vCPU") } }
        try terminal.press("Escape", "p")
        _ = try terminal.wait("a pause") { $0[0].contains("paused") || size.width < 80 && $0[0].contains("VMs") }
        try terminal.press("p", "/", "n", "o", "n", "e", "Enter")
        _ = try terminal.wait("no VM of that name") { $0.contains { $0.contains("no VM has this name") } }
        try terminal.tmux("resize-window", "-x", "100", "-y", "30")
        try terminal.press("/", "Enter")
        screen = try terminal.wait("a larger screen") { $0.count >= 29 && $0.contains { $0.contains("KVM_EXIT_IO") } }
        for vm in vms { vm.terminate() }
        _ = try terminal.wait("no VM") { lines in !lines.contains { $0.contains("KVM_EXIT_IO") } }
        try terminal.press("q")
        _ = try terminal.wait("its end") { $0.contains { $0.contains("ended 0") } }
    }

    @Test("200 VMs: all are there, the chosen one is on the screen, and one is found by its pid")
    func many() throws {
        let folder = try TemporaryFolder()
        let terminal = try Terminal("\(Self.vmtally) top -i 0.5", width: 80, height: 24)
        _ = try terminal.wait("top") { $0[0].hasPrefix("vmtally top:") }
        // Each makes its exits and then sleeps in the kernel.
        let guest = try folder.storm(cpuids: 1, outs: 500, idle: true)
        let vms = try (0..<200).map { _ in
            try Self.start(["run", "--guest", guest, "--irqchip", "kernel", "--memory", "2"])
        }
        defer { for vm in vms { vm.terminate() } }
        func count(_ line: String) -> Int {
            line.firstMatch(of: /^vmtally top: ([0-9]+) VMs/).flatMap { Int($0.1) } ?? 0
        }
        var screen = try terminal.wait("200 VMs") { count($0[0]) >= 200 }
        #expect(screen.allSatisfy { $0.count <= 80 })
        // By pid, and to the last of them.
        try terminal.press("s", "s", "s", "s")
        for _ in 0..<20 {
            try terminal.press("Down", "Down", "Down", "Down", "Down", "Down", "Down", "Down", "Down", "Down")
        }
        let last = try #require(vms.map(\.processIdentifier).max())
        screen = try terminal.wait("the last VM") { lines in lines.contains { $0.contains(" \(last) ") } }
        for vm in vms { vm.terminate() }
        _ = try terminal.wait("none of them") { lines in count(lines[0]) < 200 }
        try terminal.press("q")
        _ = try terminal.wait("its end") { $0.contains { $0.contains("ended 0") } }
    }

    @Test("for scripts: counts in both forms")
    func batch() throws {
        let folder = try TemporaryFolder()
        let vm = try Self.startVM(folder)
        defer { vm.terminate() }
        let csv = try Lab.run(Self.vmtally, ["top", "--batch", "--csv", "-n", "2", "-i", "0.5"])
        #expect(csv.status == 0, "\(csv.output)")
        let lines = csv.output.split(separator: "\n").filter {
            $0.contains(",\(vm.processIdentifier),userspace,KVM_EXIT_IO,")
        }
        #expect(csv.output.hasPrefix("seconds,vm,pid,exits,reason,count,"), "\(csv.output)")
        #expect(lines.count == 2, "\(csv.output)")
        let json = try Lab.run(Self.vmtally, ["top", "--batch", "--json", "-n", "1", "-i", "0.5"])
        #expect(json.output.contains("\"schema\":\"vmtally.top/1\""), "\(json.output)")
        #expect(json.output.contains("\"pid\":\(vm.processIdentifier)"), "\(json.output)")
    }
}
