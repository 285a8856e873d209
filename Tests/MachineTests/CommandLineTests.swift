// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVM
import TestSupport
import Testing
@testable import Machine

/// `vmtally run` from outside: exit status, what is written where, and that nothing makes it hang.
@Suite(.ownThread, .enabled(if: CommandLineTool.missing == nil, "\(CommandLineTool.missing ?? "")"))
struct CommandLineTests {
    /// mov edx, 0x3F8; mov al, 'g'; out dx, al; mov al, 10; out dx, al; 1: jmp 1b
    static let spinner = TinyGuest(
        Assembly.edx(0x3F8) + Assembly.eax(0x67) + [0xEE] + Assembly.eax(0x0A) + [0xEE, 0xEB, 0xFE])

    /// 20,000 bytes and 20,000 more, to the serial port, with newlines; mov al, 21; out 0xF4, al
    static let flooder = TinyGuest(
        Assembly.edx(0x3F8) + Assembly.eax(0x66) + Assembly.loop(20_000, [0xEE]) + Assembly.eax(0x0A)
            + Assembly.loop(20_000, [0xEE]) + Assembly.eax(21) + [0xE6, 0xF4])

    /// Three kinds of exits, then status 7: mov al, 3; out 0xF4, al
    static let worker = TinyGuest(
        Assembly.loop(100, Assembly.outByte) + Assembly.edi(TinyGuest.deviceAddress)
            + Assembly.loop(50, [0x89, 0x07]) + Assembly.eax(3) + [0xE6, 0xF4])

    let folder: TemporaryFolder

    init() throws {
        folder = try TemporaryFolder()
    }

    private func run(
        _ guest: TinyGuest?, _ options: String, seconds: Int = CommandLineTool.hang, signal: Int32? = nil
    ) throws -> CommandLineTool.Outcome {
        let file = try guest.map { try folder.file("guest.elf", $0.elf) }
        let outcome = try CommandLineTool.run(
            "exec \"$VMTALLY\" run --live-cpuid off \(options)",
            ["GUEST": file ?? "", "FOLDER": folder.path], seconds: seconds, signal: signal)
        #expect(outcome.status != 137, "killed after \(seconds) s")
        return outcome
    }

    private func statistics() throws -> [String: Any] {
        let text = try #require(folder.text("stats.json"))
        return try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
    }

    /// `status.reason` and `status.code`.
    private func ending() throws -> String {
        let status = try #require(try statistics()["status"] as? [String: Any])
        return try "\(#require(status["reason"] as? String)) \(#require(status["code"] as? Int))"
    }

    // MARK: the host says no

    @Test(.enabled(if: getuid() == 0 && access("/usr/bin/setpriv", X_OK) == 0, "needs root and setpriv"))
    func withoutPermissionItSaysWhatToDo() throws {
        let guest = try folder.file("guest.elf", Self.worker.elf)
        let script = """
            nobody='setpriv --reuid=65534 --regid=65534 --clear-groups'
            $nobody test -x "$VMTALLY" || exit 77
            $nobody test ! -w /dev/kvm || exit 78
            exec $nobody "$VMTALLY" run --guest "$GUEST"
            """
        let outcome = try CommandLineTool.run(script, ["GUEST": guest])
        if outcome.status == 77 || outcome.status == 78 {
            try Test.cancel("user 65534 cannot reach the executable, or may use /dev/kvm")
        }
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("/dev/kvm") && outcome.error.contains("usermod -aG kvm"), "\(outcome.error)")
    }

    @Test(arguments: ["0", "-1", "99999999", "9223372036854775807"]) func impossibleMemory(mebibytes: String) throws {
        let outcome = try run(Self.worker, "--guest $GUEST --memory=\(mebibytes)")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("--memory"), "\(outcome.error)")
    }

    @Test(arguments: ["0", "-1", "10000", "9223372036854775807"]) func impossibleCPUs(cpus: String) throws {
        let outcome = try run(Self.worker, "--guest $GUEST --cpus=\(cpus)")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("--cpus"), "\(outcome.error)")
    }

    // MARK: the guest file

    @Test func noFile() throws {
        let outcome = try run(nil, "--guest $FOLDER/none")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("none: No such file or directory"), "\(outcome.error)")
    }

    @Test func aFolder() throws {
        let outcome = try run(nil, "--guest $FOLDER")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("Is a directory"), "\(outcome.error)")
    }

    @Test func aFIFODoesNotHang() throws {
        try #require(mkfifo(folder.path + "/fifo", 0o600) == 0)
        let outcome = try run(nil, "--guest $FOLDER/fifo")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("a FIFO that nothing came out of"), "\(outcome.error)")
    }

    @Test("a document may come out of a pipe, as <(xz -dc FILE) makes them")
    func documentsFromPipes() throws {
        let results = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../Benchmarks/results").standardizedFileURL.path
        func compare(_ files: String) throws -> CommandLineTool.Outcome {
            try CommandLineTool.run(
                "exec bash -c '$VMTALLY compare \(files) --seed 1'",
                ["A": results + "/boot-svm-6.1.json", "B": results + "/boot-svm-6.1-b.json"])
        }
        let piped = try compare("<(cat $A) <(sleep 0.2; cat $B)")
        let files = try compare("$A $B")
        #expect(piped.status == 0 && files.status == 0, "\(piped.error)")
        #expect(piped.output.contains("medians") && files.output.contains("medians"))
    }

    @Test(arguments: ["/dev/zero", "/dev/tty", "/proc/self/mem"]) func aDevice(path: String) throws {
        let outcome = try run(nil, "--guest \(path)")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains(path) || outcome.error.contains("guest image"), "\(outcome.error)")
    }

    @Test func aHugeSparseFileIsNotRead() throws {
        let path = try folder.file("sparse", [])
        try #require(truncate(path, 1 << 40) == 0)
        let outcome = try run(nil, "--guest $FOLDER/sparse")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("File too large"), "\(outcome.error)")
    }

    @Test func anEmptyFile() throws {
        _ = try folder.file("empty", [])
        let outcome = try run(nil, "--guest $FOLDER/empty")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("not an ELF file"), "\(outcome.error)")
    }

    // MARK: ends of a run

    @Test func statusIsTheGuests() throws {
        let outcome = try run(Self.worker, "--guest $GUEST --stats-json -")
        #expect(outcome.status == 7)
        #expect(outcome.error.contains("KVM_EXIT_IO") && outcome.error.contains("KVM_EXIT_MMIO"), "\(outcome.error)")
    }

    @Test func aFailureIsReported() throws {
        let outcome = try run(TinyGuest([0x0F, 0x0B]), "--guest $GUEST --stats-json $FOLDER/stats.json")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("vmtally: vCPU 0: KVM_EXIT_SHUTDOWN: triple fault"), "\(outcome.error)")
        #expect(outcome.error.contains("bytes at rip: 0f 0b"))
        #expect(try ending() == "failed 1")
    }

    @Test(arguments: [(SIGINT, 130), (SIGTERM, 143)] as [(Int32, Int32)])
    func aSignalEndsTheRunAndTheTallyIsWritten(signal: Int32, status: Int32) throws {
        let outcome = try run(Self.spinner, "--guest $GUEST --stats-json $FOLDER/stats.json", signal: signal)
        #expect(outcome.status == status)
        #expect(outcome.output == "g\n")
        #expect(outcome.error.contains("KVM_EXIT_IO"), "\(outcome.error)")
        #expect(try ending() == "interrupted \(status)")
    }

    @Test func theTimeoutEndsTheRun() throws {
        let start = Date()
        let outcome = try run(Self.spinner, "--guest $GUEST --timeout 0.3 --stats-json $FOLDER/stats.json")
        #expect(outcome.status == 124)
        #expect(Date().timeIntervalSince(start) >= 0.3)
        #expect(try ending() == "timeout 124")
        #expect(try #require(try statistics()["wall_ns"] as? Int) >= 300_000_000)
    }

    /// One vCPU waits for the reader, the others for the output's lock.
    @Test func aReaderThatSleepsDoesNotOutlastTheTimeout() throws {
        // mov edx, 0x3F8; mov eax, 10; 1: out dx, al; jmp 1b
        let newlines = TinyGuest(Assembly.edx(0x3F8) + Assembly.eax(10) + [0xEE, 0xEB, 0xFD])
        let guest = try folder.file("guest.elf", newlines.elf)
        let outcome = try CommandLineTool.run(
            """
            mkfifo "$FOLDER/fifo"; sleep 7200 <"$FOLDER/fifo" & sleeper=$!
            "$VMTALLY" run --live-cpuid off --quiet --cpus 8 --guest "$GUEST" --timeout 2 >"$FOLDER/fifo"
            status=$?; kill $sleeper; exit $status
            """, ["GUEST": guest, "FOLDER": folder.path])
        #expect(outcome.status == 124)
    }

    // MARK: standard output and error

    @Test(arguments: [
        ">&-", ">/dev/full", ">/dev/null", "2>&-", "<&-", "<&- >&- 2>&-", ">&- 2>/dev/full", ">/dev/full 2>&1",
    ])
    func whereverTheOutputGoesEveryExitIsCounted(redirection: String) throws {
        let outcome = try run(Self.flooder, "--guest $GUEST --stats-json $FOLDER/stats.json \(redirection)")
        #expect(outcome.status == 43)
        let exits = try #require(try statistics()["exits"] as? [String: Any])
        #expect((exits["total"] as? [String: Any])?["count"] as? Int == 40_001)
    }

    /// Lost bytes are told of at the end, with the reason, however quiet the run.
    @Test(
        arguments: [
            (">&-", "Bad file descriptor"), (">/dev/full", "No space left on device"),
            ("--serial file=/dev/full", "No space"),
            (">$FOLDER/out", nil), ("--serial none", nil), (">/dev/null", nil),
        ] as [(String, String?)])
    func lostOutputIsReported(redirection: String, cause: String?) throws {
        let outcome = try run(Self.flooder, "--guest $GUEST --quiet \(redirection)")
        #expect(outcome.status == 43)
        let report = cause.map { "vmtally: 40000 bytes of the guest's serial output are lost: \($0)" }
        #expect(report.map(outcome.error.hasPrefix) ?? outcome.error.isEmpty, "\(outcome.error)")
    }

    @Test func aReaderThatGoesAwayStopsNothing() throws {
        let guest = try folder.file("guest.elf", Self.flooder.elf)
        let outcome = try CommandLineTool.run(
            """
            { "$VMTALLY" run --live-cpuid off --guest "$GUEST" --stats-json "$FOLDER/stats.json"; echo $? >"$FOLDER/status"; } \
            | head -c1
            """, ["GUEST": guest, "FOLDER": folder.path])
        #expect(outcome.output == "f")
        #expect(folder.text("status") == "43\n")
        let exits = try #require(try statistics()["exits"] as? [String: Any])
        #expect((exits["total"] as? [String: Any])?["count"] as? Int == 40_001)
    }

    /// What the run keeps open must not be taken for standard output.
    @Test func closedDescriptorsAreNotReused() throws {
        let outcome = try run(Self.flooder, "--guest $GUEST --serial file=$FOLDER/serial --stats-json - >&-")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("-: Bad file descriptor"), "\(outcome.error)")
        let serial = try #require(folder.text("serial"))
        #expect(serial == String(repeating: "f", count: 20_000) + String(repeating: "\n", count: 20_000))
    }

    // MARK: --stats-json

    @Test func statisticsThatCannotBeWrittenAreKnownBeforeTheRun() throws {
        let outcome = try run(Self.spinner, "--guest $GUEST --timeout 20 --stats-json $FOLDER/none/stats.json")
        #expect(outcome.status == 1)
        #expect(outcome.output.isEmpty)
        #expect(outcome.error.contains("none/stats.json: No such file or directory"), "\(outcome.error)")
    }

    @Test func statisticsToAFullDeviceFail() throws {
        let outcome = try run(Self.worker, "--guest $GUEST --stats-json /dev/full")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("/dev/full: No space left on device"), "\(outcome.error)")
    }

    @Test func statisticsReplaceAnOlderFile() throws {
        _ = try folder.file("stats.json", [UInt8](repeating: 0x20, count: 100_000))
        #expect(try run(Self.worker, "--guest $GUEST --stats-json $FOLDER/stats.json").status == 7)
        #expect(try #require(folder.text("stats.json")).hasPrefix("{\""))
        #expect(try statistics()["schema"] as? String == "vmtally.run/1")
    }

    // MARK: sandbox

    private func sandbox(_ outcome: CommandLineTool.Outcome) throws -> [String: Any] {
        let document = try #require(outcome.json, "\(outcome.error)")
        return try #require(document["sandbox"] as? [String: Any])
    }

    /// A thread's status as /proc has it, while the guest runs; and whether a descriptor of the shell's is still there.
    @Test func everyThreadIsConfinedWhileTheGuestRuns() throws {
        let script = """
            exec 9</etc/passwd
            "$VMTALLY" run --live-cpuid off --guest "$GUEST" --serial file="$FOLDER/serial" --quiet &
            until grep -q g "$FOLDER/serial" 2>/dev/null; do kill -0 $! || exit 3; sleep 0.05; done
            grep -hE '^(Seccomp|NoNewPrivs|CapPrm|CapEff):' /proc/$!/task/*/status | sort -u | tr '\t' ' '
            readlink /proc/$!/fd/* | grep passwd
            kill $!
            wait $!
            """
        let guest = try folder.file("guest.elf", Self.spinner.elf)
        let outcome = try CommandLineTool.run(script, ["GUEST": guest, "FOLDER": folder.path], seconds: 120)
        #expect(outcome.status == 143)
        #expect(
            outcome.output == "CapEff: 0000000000000000\nCapPrm: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\n")
    }

    @Test func withoutASandboxItSaysSo() throws {
        let on = try sandbox(run(Self.worker, "--guest $GUEST --serial none --quiet --stats-json -"))
        #expect(on["on"] as? Bool == true)
        let off = try sandbox(run(Self.worker, "--guest $GUEST --serial none --quiet --no-sandbox --stats-json -"))
        #expect(off["on"] as? Bool == false)
        #expect(off["landlock_abi"] == nil)
    }

    private static let hasNamespaces = (try? CommandLineTool.run("unshare -Ur true", seconds: 60))?.status == 0

    @Test(.enabled(if: hasNamespaces, "no user namespaces here"))
    func aJailIsToldAndGivesTheGuestsStatus() throws {
        let outcome = try run(Self.worker, "--guest $GUEST --serial none --quiet --jail $FOLDER --stats-json -")
        #expect(outcome.status == 7)
        #expect(try sandbox(outcome)["jail"] as? String == folder.path)
    }

    @Test(.enabled(if: hasNamespaces, "no user namespaces here"))
    func withoutNamespacesAJailSaysWhatIsMissingAndRunsNothing() throws {
        let guest = try folder.file("guest.elf", Self.worker.elf)
        let script = """
            unshare -Ur sh -c 'echo 0 >/proc/sys/user/max_user_namespaces
                exec "$VMTALLY" run --guest "$GUEST" --jail "$FOLDER"'
            """
        let outcome = try CommandLineTool.run(script, ["GUEST": guest, "FOLDER": folder.path], seconds: 60)
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("as root, sysctl user.max_user_namespaces"), "\(outcome.error)")
        #expect(outcome.output.isEmpty)
    }

    @Test("a jail is the folder that the path leads to", .enabled(if: hasNamespaces, "no user namespaces here"))
    func jailsByOtherNames() throws {
        let guest = try folder.file("guest.elf", Self.worker.elf)
        let here = try CommandLineTool.run(
            "mkdir $FOLDER/jail; cd $FOLDER/jail; exec $VMTALLY run --guest $GUEST --quiet --serial none --jail . --json -",
            ["GUEST": guest, "FOLDER": folder.path])
        #expect(here.status == 7, "\(here.error)")
        #expect(try sandbox(here)["jail"] as? String == folder.path + "/jail")
        let root = try run(Self.worker, "--guest $GUEST --jail /")
        #expect(root.status == 1 && root.error.contains("keeps nobody in"), "\(root.error)")
    }

    // MARK: usage

    @Test(
        "what cannot be done is told as what it is",
        arguments: [
            ("$VMTALLY host --device \"\"", 64, "--device takes the path"),
            ("setsid -w $VMTALLY cpuid --json /dev/tty", 1, "/dev/tty: No such device or address"),
            ("ulimit -f 1; $VMTALLY demo", 1, "a limit of file sizes holds (ulimit -f)"),
            ("head -c 100000 /dev/zero | tr '\\0' [ >deep; ulimit -s 256; $VMTALLY compare deep deep", 1, "too deep"),
            ("head -c 100000 /dev/zero | tr '\\0' [ >deep; ulimit -s 256; $VMTALLY bench --from deep", 1, "too deep"),
        ] as [(String, Int32, String)])
    func told(command: String, status: Int32, message: String) throws {
        let outcome = try CommandLineTool.run("cd $FOLDER; " + command, ["FOLDER": folder.path])
        #expect(outcome.status == status && outcome.error.contains(message), "\(outcome.status) \(outcome.error)")
    }

    @Test(
        "a document's file may be written with =, and standard output be left out, whatever follows",
        arguments: [
            ("demo --json=$FOLDER/file --cpus 1", true), ("cpuid --csv=$FOLDER/file --leaf 1", true),
            ("cpuid --json $FOLDER/file --leaf 1", true), ("cpuid --json --leaf 1", false), ("cpuid --csv", false),
            ("top --batch --csv=$FOLDER/file -n 1 -i 0.01", true), ("top --batch --json -n 1 -i 0.01", false),
        ])
    func documentsFile(command: String, isFile: Bool) throws {
        let outcome = try CommandLineTool.run("exec $VMTALLY \(command)", ["FOLDER": folder.path])
        #expect(outcome.status == 0, "\(outcome.error)")
        let text = try #require(isFile ? folder.text("file") : outcome.output)
        #expect(text.hasPrefix("{") || text.hasPrefix("\"") || text.contains(","), "\(text)")
        if isFile { #expect(!outcome.output.hasPrefix("{")) }
    }

    @Test("a document goes where a link leads, to a file that is not there yet as well") func danglingLink() throws {
        let outcome = try CommandLineTool.run(
            "mkdir $FOLDER/there; ln -s there/file $FOLDER/link; exec $VMTALLY cpuid --json $FOLDER/link",
            ["FOLDER": folder.path])
        #expect(outcome.status == 0, "\(outcome.error)")
        #expect(folder.text("there/file")?.hasPrefix("{") == true)
        #expect(try FileManager.default.destinationOfSymbolicLink(atPath: folder.path + "/link") == "there/file")
    }

    @Test(arguments: [
        "", "--guest a --kernel b", "--guest a --timeout 0", "--guest a --timeout -1", "--guest a --timeout nan",
        "--guest a --timeout inf", "--guest a --timeout 1e300", "--guest a --cpus x", "--guest a --live-cpuid maybe",
        "--guest a --serial tty", "--guest a --serial file=", "--guest a --wrong", "--guest a --no-sandbox --jail /tmp",
    ])
    func wrongUsageIsStatus64(options: String) throws {
        let outcome = try run(nil, options)
        #expect(outcome.status == 64)
        #expect(outcome.error.contains("Usage: vmtally run"), "\(outcome.error)")
    }

    // MARK: schema vmtally.run/1

    /// The exact keys of an object, by their path; numbers are integers.
    private static func shape(_ value: Any, _ path: String = "") -> Set<String> {
        switch value {
        case let object as [String: Any]:
            // Counters have the kernel's names, whatever they are.
            path == ".kernel"
                ? [path + ".*" + shape(object.values.first ?? 0).joined()]
                : object.reduce(into: []) { $0.formUnion(shape($1.value, path + "." + $1.key)) }
        case let array as [Any]: array.reduce(into: []) { $0.formUnion(shape($1, path + "[]")) }
        case is String: [path + ": string"]
        case is Int, is UInt64: [path + ": integer"]
        default: [path + ": \(type(of: value))"]
        }
    }

    @Test func schemaHoldsItsContract() throws {
        let outcome = try run(Self.worker, "--guest $GUEST --cpus 2 --serial none --stats-json -")
        let document = try #require(outcome.json, "\(outcome.output)")
        var shape = Self.shape(document)
        // A patched host kernel adds its own counters.
        shape = shape.filter { !$0.hasPrefix(".hardware") }
        #expect(
            shape == [
                ".schema: string", ".tool.name: string", ".tool.version: string", ".host.cpu: string",
                ".host.backend: string", ".host.kernel: string", ".host.tsc_khz: integer", ".vm.vcpus: integer",
                ".vm.memory_mib: integer", ".wall_ns: integer", ".status.reason: string", ".status.code: integer",
                ".exits.total.count: integer", ".exits.total.cycles: integer", ".exits.by_reason[].vocabulary: string",
                ".exits.by_reason[].code: integer", ".exits.by_reason[].name: string",
                ".exits.by_reason[].count: integer", ".exits.by_reason[].cycles.sum: integer",
                ".exits.by_reason[].cycles.min: integer", ".exits.by_reason[].cycles.max: integer",
                ".exits.by_reason[].cycles.p50: integer", ".exits.by_reason[].cycles.p90: integer",
                ".exits.by_reason[].cycles.p99: integer", ".exits.by_reason[].cycles.p999: integer",
                ".exits.by_vcpu[].vcpu: integer", ".exits.by_vcpu[].count: integer",
                ".exits.by_vcpu[].cycles: integer", ".kernel.*: integer", ".leaf.mode: string",
                ".leaf.answered: integer", ".leaf.meaningless: integer", ".sandbox.on: integer",
                ".sandbox.landlock_abi: integer",
            ])
        // No number has a fraction or an exponent.
        #expect(outcome.output.firstMatch(of: /[:,\[]-?[0-9]+[.eE]/) == nil)
        #expect(document["schema"] as? String == "vmtally.run/1")
        #expect((document["vm"] as? [String: Int]) == ["vcpus": 2, "memory_mib": 16])
        #expect((document["leaf"] as? [String: Any])?["mode"] as? String == "snapshot")
    }

    @Test func schemaAddsUp() throws {
        let outcome = try run(Self.worker, "--guest $GUEST --serial none --stats-json -")
        let document = try #require(outcome.json)
        let exits = try #require(document["exits"] as? [String: Any])
        let total = try #require(exits["total"] as? [String: Int])
        let reasons = try #require(exits["by_reason"] as? [[String: Any]])
        let vcpus = try #require(exits["by_vcpu"] as? [[String: Int]])
        #expect(total["count"] == 151)
        #expect(reasons.map { $0["name"] as? String } == ["KVM_EXIT_IO", "KVM_EXIT_MMIO"])
        #expect(reasons.map { $0["vocabulary"] as? String } == ["kvm", "kvm"])
        #expect(reasons.map { $0["code"] as? Int } == [2, 6])
        #expect(reasons.map { $0["count"] as? Int } == [101, 50])
        let sums = reasons.compactMap { ($0["cycles"] as? [String: Int])?["sum"] }
        #expect(sums.reduce(0, +) == total["cycles"])
        #expect(vcpus == [["vcpu": 0, "count": 151, "cycles": total["cycles"] ?? 0]])
        for reason in reasons {
            let cycles = try #require(reason["cycles"] as? [String: Int])
            let ordered = ["min", "p50", "p90", "p99", "p999", "max"].compactMap { cycles[$0] }
            #expect(ordered.count == 6 && ordered == ordered.sorted())
        }
    }

    @Test(.enabled(if: Host.breakpoints.hardware, "hardware breakpoints do not hit here"))
    func schemaHasTheLastReading() throws {
        // mov eax, 0x4FFFFFFF; xor ecx, ecx; cpuid; hlt
        let code = Assembly.eax(0x4FFF_FFFF) + [0x31, 0xC9]
        let file = try folder.file("guest.elf", TinyGuest(code + [0x0F, 0xA2, 0xF4], sites: [code.count]).elf)
        let outcome = try CommandLineTool.run(
            "exec \"$VMTALLY\" run --guest \"$GUEST\" --serial none --stats-json -", ["GUEST": file])
        let leaf = try #require(outcome.json?["leaf"] as? [String: Any])
        #expect(leaf["answered"] as? Int == 1)
        #expect(leaf["last"] as? [String: Int] == ["eax": 1, "ebx": 0, "ecx": 0, "edx": 0])
        #expect(leaf["meaningless"] as? Int == 0)
    }

    /// A program for another kernel's layout of the leaves gets zeros, and whoever runs it is told why.
    @Test(.enabled(if: Host.breakpoints.hardware, "hardware breakpoints do not hit here"))
    func leavesWithoutAMeaningAreToldOf() throws {
        // mov ebp, 3; 1: mov eax, 0x4FFFFFFC; cpuid; dec ebp; jnz 1b; mov eax, 0x4FFFFF10; cpuid; hlt
        let asks = Assembly.loop(3, Assembly.eax(0x4FFF_FFFC) + [0x0F, 0xA2]) + Assembly.eax(0x4FFF_FF10)
        let guest = TinyGuest(asks + [0x0F, 0xA2, 0xF4], sites: [10, asks.count])
        let file = try folder.file("guest.elf", guest.elf)
        let outcome = try CommandLineTool.run(
            "exec \"$VMTALLY\" run --guest \"$GUEST\" --serial none --stats-json -", ["GUEST": file])
        #expect(outcome.status == 0)
        let leaf = try #require(outcome.json?["leaf"] as? [String: Any])
        #expect(leaf["meaningless"] as? Int == 4)
        #expect(outcome.error.contains("asked 4 times for tally leaves without a meaning"), "\(outcome.error)")
        #expect(outcome.error.contains("0x4FFFFF10, 0x4FFFFFFC") && outcome.error.contains("docs/cpuid-abi.md"))
    }

    // MARK: documents

    @Test(
        "--json and --csv: a file, - for standard output, and that is the word's default where nothing else can follow")
    func documents() throws {
        let guest = try folder.file("guest.elf", Self.worker.elf)
        let outcome = try CommandLineTool.run(
            """
            set -e; cd $FOLDER
            $VMTALLY run --live-cpuid off --guest guest.elf --json run.json --csv run.csv 2>table || test $? = 7
            COLUMNS=200 $VMTALLY run --live-cpuid off --guest guest.elf 2>wide || test $? = 7
            $VMTALLY demo --json demo.json --csv demo.csv >demo.txt
            $VMTALLY demo --json >demo2.json; $VMTALLY demo --json - >demo3.json; $VMTALLY demo --csv >demo2.csv
            $VMTALLY host --json >host.json; $VMTALLY host --csv host.csv | head -1
            $VMTALLY cpuid --json=- >cpuid.json; $VMTALLY cpuid --csv >cpuid.csv
            for f in *.json; do printf '%s ' $(sed 's/.*"schema":"\\([^"]*\\)".*/\\1/' $f); done; echo
            ! $VMTALLY demo --json --csv 2>error; ! $VMTALLY cpuid --json --raw 2>error2
            """, ["FOLDER": folder.path])
        _ = guest
        #expect(outcome.status == 0, "\(outcome.error)")
        #expect(
            outcome.output
                == "Host\nvmtally.cpuid/1 vmtally.run/1 vmtally.run/1 vmtally.run/1 vmtally.host/1 vmtally.run/1 \n",
            "\(outcome.output)")
        let values = try #require(folder.text("run.csv"))
        #expect(
            values.hasPrefix("exits,of,access,count,cycles,ns,min,p50,p90,p99,p999,max\nuserspace,KVM_EXIT_IO,,101,"))
        #expect(values.contains("\nuserspace,total,,151,") && values.contains("\nvcpu,0,,151,"))
        #expect(values.contains("\nkernel,exits,,"))
        for name in ["demo.csv", "demo2.csv"] { #expect(folder.text(name)?.hasPrefix("exits,of,") == true, "\(name)") }
        #expect(folder.text("host.csv")?.contains(",KVM_CAP_USER_MEMORY,1,") == true)
        #expect(folder.text("cpuid.csv")?.contains("\n0x40000000,") == true)
        #expect(folder.text("error")?.contains("--json and --csv cannot both") == true)
        let table = try #require(folder.text("table")).split(separator: "\n")
        #expect(table.allSatisfy { $0.count <= 80 || $0.hasPrefix("(left out") }, "\(table)")
        #expect(table.contains { $0.contains("p50 ns") } && !table.contains { $0.contains(" p99.9 ") })
        #expect(folder.text("wide")?.contains(" p99.9 ") == true)
        #expect(folder.text("demo.txt")?.contains("the guest's own checks") == true)
    }

    @Test(
        "a Linux guest where KVM cannot boot one: said at once, with the lab's name", .enabled(if: Host.emulatesRing0))
    func linuxOnPVM() throws {
        _ = try folder.file("kernel", Self.spinner.elf)
        let run = try CommandLineTool.run(
            "cd $FOLDER; exec $VMTALLY run --kernel kernel --memory 64 --live-cpuid off --timeout 0.2 --quiet",
            ["FOLDER": folder.path])
        #expect(run.status == 124 && run.error.contains("kvm_pvm") && run.error.contains("Lab/run svm"), "\(run.error)")
        let boot = try CommandLineTool.run(
            "cd $FOLDER; exec $VMTALLY boot --kernel kernel --runs 1 --timeout 0.2 --console none",
            ["FOLDER": folder.path])
        #expect(boot.status == 1 && boot.error.hasPrefix("vmtally: KVM on this host is kvm_pvm"), "\(boot.error)")
        #expect(try !self.run(Self.worker, "--guest $GUEST --quiet").error.contains("kvm_pvm"))
    }

    // MARK: completions

    @Test(
        "the shell completes files, kinds, configurations and history",
        arguments: [
            ("run --kernel aa", "aaa.img"), ("bench --only pio-ioev", "pio-ioeventfd"),
            ("bench --only cpuid,pio-ioev", "cpuid,pio-ioeventfd"), ("attach al", "all"),
            ("compare re", "recording.json"),
            ("history tr", "trend"), ("history add re", "recording.json"), ("run --by po", "port"),
            ("run --live-cpuid fa", "fault"),
        ])
    func completes(line: String, expected: String) throws {
        for name in ["aaa.img", "recording.json"] { _ = try folder.file(name, Array("{}".utf8)) }
        let words = line.split(separator: " ").map(String.init)
        let script = """
            cd $FOLDER; PATH=$(dirname $VMTALLY):$PATH
            eval "$($VMTALLY --generate-completion-script bash)"
            COMP_WORDS=(vmtally \(words.joined(separator: " "))); COMP_CWORD=\(words.count)
            COMP_LINE="vmtally \(line)"; COMP_POINT=${#COMP_LINE}
            $(complete -p vmtally | sed "s/.*-F \\([^ ]*\\) .*/\\1/") vmtally "\(words.last ?? "")" "\(words[words.count - 2])"
            printf '%s\\n' "${COMPREPLY[@]}"
            """
        let outcome = try CommandLineTool.run("exec bash -c \"$SCRIPT\"", ["FOLDER": folder.path, "SCRIPT": script])
        let offered = outcome.output.split(separator: "\n").map { $0.trimmingCharacters(in: .whitespaces) }
        #expect(offered.contains(expected), "\(outcome.output) \(outcome.error)")
    }

    @Test("configurations of a recording are offered behind the colon")
    func completesConfigurations() throws {
        let results = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../Benchmarks/results")
        let file = results.standardizedFileURL.appending(path: "boot-svm-6.1.json").path
        let word = file + ":cpus=1,"
        // As the script for bash asks: the word's number, the cursor's place in it, all words.
        let outcome = try CommandLineTool.run(
            "exec $VMTALLY ---completion compare -- positional@0 2 \(word.utf8.count) vmtally compare \"$WORD\"",
            ["WORD": word])
        #expect(outcome.output.contains("\(file):cpus=1,console=virtio"), "\(outcome.output) \(outcome.error)")
        #expect(!outcome.output.contains("cpus=1,cpus=1\n"))
    }

    @Test("vmtally history says what it is and how to get it before it is there")
    func historyBeforeItIsBuilt() throws {
        let script =
            "ln $VMTALLY $FOLDER/vmtally 2>/dev/null || cp $VMTALLY $FOLDER/vmtally; exec $FOLDER/vmtally history "
        for (words, status) in [("", 1), ("help", 0), ("--help", 0)] as [(String, Int32)] {
            let outcome = try CommandLineTool.run(script + words, ["FOLDER": folder.path])
            #expect(outcome.status == status, "\(words): \(outcome.error)")
            #expect(outcome.output.contains("trend") && outcome.output.contains("make history"), "\(outcome.output)")
        }
        let add = try CommandLineTool.run(script + "add x.json", ["FOLDER": folder.path])
        #expect(add.status == 1 && add.error.contains("make history"), "\(add.error)")
    }

    @Test(
        "files that are something else are called what they should be",
        arguments: [
            ("run --kernel text", "it is not a Linux kernel"), ("run --guest text", "not an ELF file"),
            ("bench --from text", "text: not a document of schema vmtally.bench/1"),
            ("bench --baseline none --only cpuid", "Error: none: No such file or directory"),
            ("compare text text", "text: not a recording of boots"),
        ])
    func otherFiles(command: String, message: String) throws {
        _ = try folder.file("text", Array("root:x:0:0\n".utf8))
        let outcome = try CommandLineTool.run("cd $FOLDER; exec $VMTALLY \(command)", ["FOLDER": folder.path])
        #expect(outcome.status == 1 && outcome.error.contains(message), "\(outcome.error)")
        // Not in the compiler's words.
        #expect(!outcome.error.contains("DecodingError"), "\(outcome.error)")
    }
}
