// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

private struct TestFailure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}

/// `vmtally attach` beside the kernel's own counts: a storm of CPUIDs and OUTs, from its first exit to its end.
@Suite("attach")
struct AttachTests {
    private struct Document: Decodable {
        struct Exits: Decodable {
            struct Total: Decodable { let count: Int }
            struct Reason: Decodable {
                let code: Int?
                let count: Int
            }
            let total: Total
            let byReason: [Reason]

            var counts: [Int: Int] { Dictionary(uniqueKeysWithValues: byReason.map { ($0.code ?? -1, $0.count) }) }
        }
        struct Machine: Decodable {
            let pid: Int
            let guestResets: Int?
            let vmExits: Exits?
            let userspaceExits: Exits?
        }
        struct Lost: Decodable {
            let skipped: Int
            let withoutRoom: Int
        }
        let collector: String
        let lost: Lost
        let machines: [Machine]
    }

    private struct Run: Decodable {
        struct Exits: Decodable {
            struct Reason: Decodable {
                let code: Int
                let count: Int
            }
            let byReason: [Reason]
        }
        let exits: Exits
        let kernel: [String: Int]
    }

    private static let decoder = {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return decoder
    }()

    private static func line(_ name: String, _ output: String) -> Data? {
        output.split(separator: "\n").first { $0.hasPrefix(name + " ") }.map { Data($0.dropFirst(name.count + 1).utf8) }
    }

    struct Ground: CustomTestStringConvertible, Sendable {
        let name: String
        let collector: String
        var kernel = "6.1"
        var testDescription: String { "\(name) \(kernel) \(collector)" }
    }

    @Test(
        "by reason what a histogram trigger counts, in all what KVM counts",
        .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"),
        arguments: [
            Ground(name: "svm", collector: "bpf"), Ground(name: "svm", collector: "tracefs"),
            Ground(name: "svm", collector: "bpf", kernel: "6.12"), Ground(name: "vmx", collector: "bpf"),
        ])
    func exact(ground: Ground) throws {
        let folder = try TemporaryFolder()
        let storm = try folder.storm(cpuids: 3000, outs: 2000)
        let output = try Lab.run(
            Lab.path("Lab/run"),
            [
                ground.name, "--kernel", ground.kernel, "--timeout", "400", Lab.path("build/vmtally") + "=/bin/vmtally",
                storm + "=/guest/storm", "--script", Lab.path("Tests/LabTests/Scripts/attach.sh"), "--",
                ground.collector,
            ]
        ).output
        let attach = try Self.decoder.decode(
            Document.self, from: try #require(Self.line("attach", output), "\(output)"))
        let run = try Self.decoder.decode(Run.self, from: try #require(Self.line("run", output), "\(output)"))
        #expect(attach.collector == ground.collector)
        #expect(attach.lost.skipped == 0 && attach.lost.withoutRoom == 0)
        #expect(attach.machines.count == 1)
        let machine = try #require(attach.machines.first)
        let traced = output.matches(of: /\ntraced (\d+) (\d+)/).reduce(into: [Int: Int]()) { counts, match in
            counts[Int(match.1) ?? -1] = Int(match.2)
        }
        #expect(machine.vmExits?.counts == traced, "\(output)")
        #expect(machine.vmExits?.total.count == run.kernel["exits"], "\(output)")
        #expect(machine.userspaceExits?.counts == [2: 2001], "\(output)")
    }

    @Test(
        "a guest that its VMM resets twice is told so",
        .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"),
        arguments: [
            Ground(name: "svm", collector: "bpf"), Ground(name: "svm", collector: "bpf", kernel: "newest"),
            Ground(name: "vmx", collector: "bpf"),
        ])
    func resets(ground: Ground) throws {
        let folder = try TemporaryFolder()
        let bios = try folder.compile(
            "reset.S", "-nostdlib -static -no-pie -Wl,--oformat=binary -Wl,-Ttext=0 -Wl,--build-id=none")
        let carried = try Lab.run(Lab.path("scripts/carry-qemu"), [folder.path + "/qemu"])
        try #require(carried.status == 0, "\(carried.output)")
        let output = try Lab.run(
            Lab.path("Lab/run"),
            [
                ground.name, "--kernel", ground.kernel, "--timeout", "900", Lab.path("build/vmtally") + "=/bin/vmtally",
                folder.path + "/qemu=/qemu", bios + "=/guest/reset", "--script",
                Lab.path("Tests/LabTests/Scripts/resets.sh"),
            ]
        ).output
        let attach = try Self.decoder.decode(
            Document.self, from: try #require(Self.line("attach", output), "\(output)"))
        // The guest's own: (0 << 1) | 1.
        #expect(output.contains("\nstatus 1\n"), "\(output)")
        #expect(attach.machines.map(\.guestResets) == [2], "\(output)")
    }

    private static let noTracing: String? =
        geteuid() == 0 && access("/dev/kvm", R_OK | W_OK) == 0 ? Lab.missing : "needs root and /dev/kvm"

    @Test(
        "here: userspace exits by reason are our own VMM's, and compare reads the recording",
        .enabled(if: noTracing == nil, "\(noTracing ?? "")"))
    func here() throws {
        let folder = try TemporaryFolder()
        let storm = try folder.storm(cpuids: 10, outs: 20_000)
        let vmtally = Lab.path("build/vmtally")
        let (document, stats, recording) = (folder.path + "/a.json", folder.path + "/r.json", folder.path + "/rec")
        let attach = try Lab.run(
            vmtally,
            [
                "attach", "--collector", "bpf", "--from-start", "--json", document, "-o", recording, "--", vmtally,
                "run", "--guest", storm, "--live-cpuid", "off", "--quiet", "--stats-json", stats,
            ])
        // The guest's own: (0 << 1) | 1.
        #expect(attach.status == 1, "\(attach.output)")
        let seen = try Self.decoder.decode(Document.self, from: Data(contentsOf: URL(filePath: document)))
        let run = try Self.decoder.decode(Run.self, from: Data(contentsOf: URL(filePath: stats)))
        let own = Dictionary(uniqueKeysWithValues: run.exits.byReason.map { ($0.code, $0.count) })
        #expect(seen.machines.map { $0.userspaceExits?.counts } == [own])
        #expect(seen.lost.skipped == 0 && seen.lost.withoutRoom == 0)
        let compare = try Lab.run(vmtally, ["compare", "--all", recording, recording])
        #expect(compare.status == 0 && compare.output.contains("KVM_EXIT_IO"), "\(compare.output)")
    }

    private func observed(_ script: String) throws -> (status: Int32, output: String) {
        let folder = try TemporaryFolder()
        let storm = try folder.storm(cpuids: 1, outs: 2_000_000_000)
        let prologue = """
            cd \(folder.path); V=\(Lab.path("build/vmtally"))
            $V run --guest \(storm) --live-cpuid off --quiet --timeout 100 </dev/null >/dev/null 2>&1 & P=$!
            trap 'kill $P' EXIT
            until [ -e /proc/$P/task ] && ls -l /proc/$P/fd | grep -q kvm-vcpu; do sleep 0.1; done

            """
        return try Lab.run("/bin/bash", ["-c", prologue + script])
    }

    @Test(
        "whoever reads has stopped: it ends, in its time or by a signal",
        .enabled(if: noTracing == nil, "\(noTracing ?? "")"),
        arguments: [
            "timeout -s KILL 100 $V attach all --duration 1 -i 0.001 >fifo",
            "$V attach all -i 0.001 >fifo & A=$!; sleep 2; kill -TERM $A; wait $A",
            // The signal is told before the reader is waited for; long before the end that was asked for.
            "$V attach -p $P >fifo & A=$!; sleep 2; kill -TERM $A; wait $A",
            "timeout -s KILL 100 $V attach -p $P --duration 1000 -i 0.1 >fifo & A=$!; sleep 2; pkill -TERM -P $A; wait $A",
            "$V top --batch -i 0.01 --json=- >fifo & A=$!; sleep 2; kill -TERM $A; wait $A",
            "$V top --batch -i 0.01 --csv=fifo & A=$!; sleep 2; kill -TERM $A; wait $A",
        ])
    func stoppedReader(command: String) throws {
        let outcome = try observed(
            "mkfifo fifo; exec 3<>fifo; timeout -s KILL 1 dd if=/dev/zero bs=4096 >fifo 2>/dev/null; \(command); echo status $?"
        )
        #expect(outcome.output.contains("its reader takes nothing"), "\(outcome.output)")
        #expect(outcome.output.contains("status 1\n"), "\(outcome.output)")
    }

    @Test(
        "reports that cannot be what they are to be", .enabled(if: noTracing == nil, "\(noTracing ?? "")"),
        arguments: [
            // In a folder of somebody else's, and through a link to what is not there yet.
            ("mkdir other; chown 1000 other; $V attach -p $P --duration 0.2 --quiet --json other/new", "0 .*other/new"),
            ("ln -s new link; $V attach -p $P --duration 0.2 --quiet --json link", "0 .*new"),
            ("mkfifo fifo; $V top --batch -n 1 --json=fifo", "1 .*nobody reads this FIFO"),
            ("$V attach -p $P --duration 0.2 --json new --output ./new", "1 .*the same file"),
            ("$V attach -p $P --duration 0.2 --json - --csv -", "1 .*cannot both have standard output"),
            (
                "$V attach -p $P --duration 2 --quiet --json new & A=$!; sleep 1; echo old >new; wait $A",
                "1 .*another file has come there"
            ),
        ] as [(String, String)])
    func reports(command: String, ending: String) throws {
        let outcome = try observed("{ \(command); } 2>said; echo $? $(cat said; ls -d other/* new* 2>/dev/null)")
        #expect(try outcome.output.contains(Regex("^" + ending)), "\(outcome.output)")
    }

    @Test(
        "in a container with the host's pid namespace: the VM of another pod, or what the container lacks",
        .enabled(if: noTracing == nil, "\(noTracing ?? "")"),
        arguments: [
            ("+bpf,+perfmon,+sys_ptrace", "attach -p $P", 0, #"pod 0a1b2c3d-.*-444455556666\)(?s:.*)counted by bpf"#),
            ("+bpf,+perfmon,+sys_ptrace", "attach all --json -", 0, #""collector":"bpf".*"pod":"0a1b2c3d-"#),
            ("+chown", "attach -p $P", 1, "BPF needs CAP_BPF and CAP_PERFMON: give this container"),
        ])
    func container(capabilities: String, command: String, status: Int, said: String) throws {
        let outcome = try observed(
            """
            VM=$P bash \(Lab.path("Tests/LabTests/Scripts/container.sh")) $PWD \(capabilities) $V \(command) --duration 0.5
            echo status $?; rmdir root.cgroup root
            """)
        #expect(try outcome.output.contains(Regex(said)), "\(outcome.output)")
        #expect(outcome.output.hasSuffix("status \(status)\n"), "\(outcome.output)")
    }

    @Test(
        "guest code is counted in the sandbox, to the end", .enabled(if: noTracing == nil, "\(noTracing ?? "")"))
    func byRIP() throws {
        let outcome = try observed(
            """
            unshare -m sh -c "[ -e /sys/kernel/tracing/events ] || mount -t tracefs none /sys/kernel/tracing
                $V attach -p $P --by rip --duration 0.5"; echo status $?
            """)
        #expect(outcome.output.contains("VM exits by guest code"), "\(outcome.output)")
        #expect(outcome.output.contains("status 0\n"), "\(outcome.output)")
    }

    /// What a started `vmtally attach` has done so far.
    private static func startAttach(_ arguments: [String], ready: (Process) throws -> Bool) throws -> Process {
        let process = Process()
        process.executableURL = URL(filePath: Lab.path("build/vmtally"))
        process.arguments = ["attach"] + arguments
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        for _ in 0..<1200 {
            if try ready(process) { return process }
            usleep(100_000)
        }
        kill(process.processIdentifier, SIGKILL)
        throw TestFailure("vmtally attach \(arguments.joined(separator: " ")) does not begin")
    }

    /// BPF programs that a process holds, by the kernel's numbers; empty until all are attached.
    private static func programs(of process: Process) -> [String] {
        let folder = "/proc/\(process.processIdentifier)/fdinfo/"
        let files = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        let infos = files.compactMap { try? String(contentsOfFile: folder + $0, encoding: .utf8) }
        guard infos.contains(where: { $0.contains("link_id:") }) else { return [] }
        return infos.compactMap { $0.firstMatch(of: /prog_id:\s+(\d+)/).map { String($0.1) } }
    }

    private static func isThere(program id: String) throws -> Bool {
        try Lab.run("/usr/sbin/bpftool", ["prog", "show", "id", id]).status == 0
    }

    @Test(
        "200 VMs that come and go meanwhile are counted to the last exit, in no wrong row",
        .enabled(if: noTracing == nil, "\(noTracing ?? "")"))
    func comingAndGoing() throws {
        let folder = try TemporaryFolder()
        let storm = try folder.storm(cpuids: 1, outs: 1000)
        let document = folder.path + "/a.json"
        // Ten at a time; each writes its pid and its own count.
        let script = """
            for round in $(seq 20); do
                for vm in 1 2 3 4 5 6 7 8 9 10; do
                    \(Lab.path("build/vmtally")) run --guest \(storm) --live-cpuid off --quiet --no-sandbox &
                    echo $! >>\(folder.path)/pids
                done
                wait
            done
            """
        let attach = try Lab.run(
            Lab.path("build/vmtally"),
            [
                "attach", "--collector", "bpf", "--from-start", "-i", "0.2", "--quiet", "--json", document, "--",
                "/bin/bash", "-c", script,
            ])
        #expect(attach.status == 0, "\(attach.output)")
        let seen = try Self.decoder.decode(Document.self, from: Data(contentsOf: URL(filePath: document)))
        #expect(seen.lost.skipped == 0 && seen.lost.withoutRoom == 0)
        #expect(seen.machines.count == 200)
        // 1,000 to a port, and the one that ends the run.
        #expect(seen.machines.allSatisfy { $0.userspaceExits?.counts == [2: 1001] })
        let pids = try String(contentsOfFile: folder.path + "/pids", encoding: .utf8).split(separator: "\n").compactMap
        { Int($0) }
        #expect(Set(seen.machines.map(\.pid)) == Set(pids))
    }

    @Test(
        "killed with -9, a collector leaves nothing in the kernel, or what the next one takes away",
        .enabled(if: noTracing == nil, "\(noTracing ?? "")"))
    func killed() throws {
        let bpf = try Self.startAttach(["all", "--collector", "bpf"]) { !Self.programs(of: $0).isEmpty }
        let programs = Self.programs(of: bpf)
        #expect(try programs.allSatisfy(Self.isThere))
        kill(bpf.processIdentifier, SIGKILL)
        bpf.waitUntilExit()
        // The kernel takes its time with the last reference.
        for _ in 0..<600 where try programs.contains(where: Self.isThere) { usleep(100_000) }
        #expect(try !programs.contains(where: Self.isThere))

        let instances = "/sys/kernel/tracing/instances/"
        let isMounted = FileManager.default.fileExists(atPath: instances)
        if !isMounted { _ = try Lab.run("/bin/mount", ["-t", "tracefs", "none", "/sys/kernel/tracing"]) }
        defer { if !isMounted { _ = try? Lab.run("/bin/umount", ["/sys/kernel/tracing"]) } }
        // What a killed process of ours leaves; the next one takes it away before it makes its own, also where this
        // kernel has no histogram triggers.
        let abandoned = instances + "vmtally-\(bpf.processIdentifier)-collector"
        try FileManager.default.createDirectory(atPath: abandoned, withIntermediateDirectories: false)
        _ = try Lab.run(
            Lab.path("build/vmtally"), ["attach", "all", "--collector", "tracefs", "--duration", "0.1", "--quiet"])
        #expect(!FileManager.default.fileExists(atPath: abandoned))
    }

    @Test(
        "a VMM that forks: the child's exits are the child's", .enabled(if: noTracing == nil, "\(noTracing ?? "")"))
    func forking() throws {
        let folder = try TemporaryFolder()
        let program = try folder.compile("forking.c", "-O2 -Wall -Werror")
        let document = folder.path + "/a.json"
        let attach = try Lab.run(
            Lab.path("build/vmtally"),
            ["attach", "--collector", "bpf", "--from-start", "--quiet", "--json", document, "--", program])
        #expect(attach.status == 0, "\(attach.output)")
        let seen = try Self.decoder.decode(Document.self, from: Data(contentsOf: URL(filePath: document)))
        // The parent's 300 before and after the fork, the child's 200 of a VM of its own.
        #expect(seen.machines.map { $0.userspaceExits?.counts[2] ?? 0 }.sorted() == [200, 300])
        #expect(Set(seen.machines.map(\.pid)).count == 2)
    }
}
