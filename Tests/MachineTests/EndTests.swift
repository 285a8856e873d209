// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

@testable import Machine

/// How a run ends, and what it leaves.
@Suite("Ends", .enabled(if: CommandLineTool.missing == nil, "\(CommandLineTool.missing ?? "")"))
struct EndTests {
    private let folder: TemporaryFolder

    init() throws {
        folder = try TemporaryFolder()
    }

    private func reason() -> String? {
        // The last: boots have one each before it.
        folder.text("json")?.matches(of: /"status":\{"code":(\d+),"reason":"([^"]+)"/).last.map { "\($0.2) \($0.1)" }
    }

    // MARK: triple fault, reset, power-off

    struct End: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let reason: String
        /// What standard error begins with.
        let message: String
        let code: [UInt8]
    }

    static let ends: [End] = [
        // lidt 0x100027 (six bytes of zeros behind the code); ud2
        End(
            testDescription: "triple fault", reason: "triple-fault 1",
            message: "vmtally: the guest's processor shut down by a triple fault",
            code: [0x0F, 0x01, 0x1D, 0x29, 0x00, 0x10, 0x00, 0x0F, 0x0B, 0, 0, 0, 0, 0, 0]),
        // mov $0xFE, %al; out %al, $0x64
        End(testDescription: "reset", reason: "reset 0", message: "", code: [0xB0, 0xFE, 0xE6, 0x64]),
        // mov $0x604, %edx; mov $0x2000, %eax; out %ax, %dx
        End(
            testDescription: "power-off", reason: "power-off 0", message: "",
            code: [0xBA, 0x04, 0x06, 0, 0, 0xB8, 0, 0x20, 0, 0, 0x66, 0xEF]),
        // mov $5, %al; out %al, $0xF6; then power-off
        End(
            testDescription: "power-off with a status", reason: "power-off 5", message: "",
            code: [0xB0, 0x05, 0xE6, 0xF6, 0xBA, 0x04, 0x06, 0, 0, 0xB8, 0, 0x20, 0, 0, 0x66, 0xEF]),
    ]

    @Test("each end is told from the others in status, message, table and JSON", arguments: ends)
    func tellsApart(end: End) throws {
        let image = try folder.file("guest", multibootImage(end.code))
        let outcome = try CommandLineTool.run(
            "exec $VMTALLY run --multiboot $IMAGE --timeout 20 --live-cpuid off --stats-json $FOLDER/json",
            ["IMAGE": image, "FOLDER": folder.path])
        let status = end.reason.split(separator: " ").last.flatMap { Int32($0) }
        #expect(outcome.status == status)
        #expect(reason() == end.reason)
        #expect(outcome.error.hasPrefix(end.message), "\(outcome.error)")
        #expect(outcome.error.contains("end: \(end.reason.replacing(" ", with: ", status "))"), "\(outcome.error)")
    }

    /// What a PC's guest does to a device ends the guest, not us: power-off with status 5 behind it.
    @Test(
        "devices bear what a guest does to them",
        arguments: [
            // xor %eax, %eax; out %al, $0x70; in $0x71, %al; all registers of the clock: inc and again
            ("the clock's registers", [0x31, 0xDB, 0x88, 0xD8, 0xE6, 0x70, 0xE4, 0x71, 0xFE, 0xC3, 0x75, 0xF6], ""),
            // movl $1, 0xFEC01050: a queue that the disk does not have
            ("a queue that is not there", [0xC7, 0x05, 0x50, 0x10, 0xC0, 0xFE, 1, 0, 0, 0], "--disk $FOLDER/disk"),
        ] as [(String, [UInt8], String)])
    func bears(what: String, code: [UInt8], options: String) throws {
        _ = try folder.file("disk", [UInt8](repeating: 0, count: 4096))
        let end = Self.ends[3]
        let image = try folder.file("guest", multibootImage(code + end.code))
        let outcome = try CommandLineTool.run(
            "exec $VMTALLY run --multiboot $IMAGE --timeout 20 --live-cpuid off --stats-json $FOLDER/json \(options)",
            ["IMAGE": image, "FOLDER": folder.path])
        #expect(outcome.status == 5, "\(outcome.error)")
        #expect(reason() == end.reason)
    }

    @Test func aPanicIsTold() {
        let output = SerialOutput(.none, marker: nil, watchesForPanic: true)
        "[    1.0] KeKernel panic - not sync".utf8.forEach(output.send)
        #expect(!output.hasPanicked)
        Array("ing: Attempted to kill init!\n".utf8).withUnsafeBytes { _ = output.offer($0) }
        #expect(output.hasPanicked)
    }

    // MARK: signals

    /// Prints "g", then spins.
    private static let spinner = CommandLineTests.spinner

    @Test(
        "whatever ends the process from outside, the tally is written",
        arguments: [SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGXCPU, SIGINT, SIGTERM])
    func signals(signal: Int32) throws {
        let guest = try folder.file("guest", Self.spinner.elf)
        let outcome = try CommandLineTool.run(
            "exec $VMTALLY run --guest $GUEST --live-cpuid off --stats-json $FOLDER/json",
            ["GUEST": guest, "FOLDER": folder.path], signal: signal)
        #expect(outcome.status == 128 + signal)
        #expect(reason() == "interrupted \(128 + signal)")
    }

    @Test("a signal at any moment leaves a tally or no file", arguments: ["run --guest $GUEST", "demo"])
    func early(command: String) throws {
        let script = """
            for delay in 0 2 4 6 8 10 12 14 16 18 20 25 30; do
                rm -f $FOLDER/new; $VMTALLY \(command) --json $FOLDER/new >/dev/null 2>&1 & sleep 0.0$(printf %02d $delay)
                kill -TERM $!; wait $!
                [ ! -e $FOLDER/new ] || [ -s $FOLDER/new ] || echo "empty after $delay ms"
            done
            """
        let outcome = try CommandLineTool.run(
            script, ["GUEST": try folder.file("guest", Self.spinner.elf), "FOLDER": folder.path])
        #expect(outcome.output.isEmpty, "\(outcome.output)")
    }

    @Test("a document that is removed meanwhile is told of, a file for a run that does not begin is not left")
    func removed() throws {
        let variables = ["GUEST": try folder.file("guest", Self.spinner.elf), "FOLDER": folder.path]
        let gone = try CommandLineTool.run(
            "(sleep 0.5; rm $FOLDER/new) & exec $VMTALLY run --guest $GUEST --json $FOLDER/new --timeout 2 --quiet",
            variables)
        #expect(gone.status == 1 && gone.error.contains("removed meanwhile"), "\(gone.error)")
        let refused = try CommandLineTool.run(
            "exec $VMTALLY run --guest $GUEST --serial file=$FOLDER/serial --json /nonexistent/x", variables)
        #expect(refused.status == 1 && folder.text("serial") == nil)
    }

    @Test("a prompt without a newline is seen while the guest waits") func prompt() throws {
        let spinner = TinyGuest(Assembly.edx(0x3F8) + Assembly.eax(0x3E) + [0xEE, 0xEB, 0xFE])
        let outcome = try CommandLineTool.run(
            "exec $VMTALLY run --guest $GUEST --live-cpuid off --quiet",
            ["GUEST": try folder.file("guest", spinner.elf)], signal: SIGTERM)
        #expect(outcome.status == 128 + SIGTERM && outcome.output == ">")
    }

    @Test(
        "a signal that comes twice costs no tally",
        arguments: [
            (SIGTERM, "--guest $GUEST"), (SIGHUP, "--guest $GUEST"),
            (SIGTERM, "--multiboot $RESET --on-reset restart --no-sandbox"),
        ])
    func again(signal: Int32, options: String) throws {
        let guest = try folder.file("guest", Self.spinner.elf)
        // mov $0x3F8, %edx; mov $10, %al; out %al, %dx; then a reset
        let reset = try folder.file(
            "reset", multibootImage([0xBA, 0xF8, 0x03, 0, 0, 0xB0, 0x0A, 0xEE] + Self.ends[1].code))
        for _ in 0..<5 {
            let outcome = try CommandLineTool.run(
                "exec $VMTALLY run \(options) --live-cpuid off --stats-json $FOLDER/json",
                ["GUEST": guest, "RESET": reset, "FOLDER": folder.path], signal: signal, isSentAgain: true)
            #expect(outcome.status == 128 + signal)
            #expect(reason() == "interrupted \(128 + signal)")
        }
    }

    private static let hasNamespaces = (try? CommandLineTool.run("unshare -Ur true", seconds: 60))?.status == 0

    @Test(
        "a jail's waiter passes on what ends it", .enabled(if: hasNamespaces, "no user namespaces here"),
        arguments: [SIGUSR1, SIGALRM, SIGXCPU, SIGHUP])
    func jailed(signal: Int32) throws {
        let guest = try folder.file("guest", Self.spinner.elf)
        let outcome = try CommandLineTool.run(
            "mkdir $FOLDER/jail; exec $VMTALLY run --guest $GUEST --jail $FOLDER/jail --stats-json $FOLDER/json",
            ["GUEST": guest, "FOLDER": folder.path], signal: signal)
        #expect(outcome.status == 128 + signal)
        #expect(reason() == "interrupted \(128 + signal)")
    }

    @Test("nohup is obeyed") func ignoredHangUp() throws {
        let guest = try folder.file("guest", Self.spinner.elf)
        let outcome = try CommandLineTool.run(
            "trap '' HUP; exec $VMTALLY run --guest $GUEST --live-cpuid off --timeout 1 --stats-json $FOLDER/json",
            ["GUEST": guest, "FOLDER": folder.path], signal: SIGHUP)
        #expect(outcome.status == 124)
    }

    /// script(1) makes a terminal; raw mode is told by stty(1).
    @Test("the terminal is given back", arguments: ["HUP", "QUIT", "USR1", "TERM"]) func terminal(signal: String) throws
    {
        // mov $0x3F8, %edx; mov $'R', %al; out %al, %dx; 1: jmp 1b
        let image = try folder.file("guest", multibootImage([0xBA, 0xF8, 3, 0, 0, 0xB0, 0x52, 0xEE, 0xEB, 0xFE]))
        let inner = try folder.file(
            "inner",
            """
            stty -a >$FOLDER/before
            (
                for i in $(seq 300); do
                    ! stty -a </dev/tty | grep -q -- -icanon || break
                    sleep 0.1
                done
                kill -\(signal) $(cat $FOLDER/pid)
            ) &
            sh -c 'echo $$ >$FOLDER/pid; exec $VMTALLY run --multiboot $IMAGE --timeout 40 --live-cpuid off --quiet \
                --stats-json $FOLDER/json'
            echo $? >$FOLDER/status
            stty -a >$FOLDER/after

            """.utf8)
        _ = try CommandLineTool.run(
            "timeout 50 script -qec 'sh \(inner)' /dev/null </dev/null >/dev/null 2>&1",
            ["IMAGE": image, "FOLDER": folder.path])
        let before = try #require(folder.text("before"))
        #expect(before == folder.text("after"))
        let number = ["HUP": 1, "QUIT": 3, "USR1": 10, "TERM": 15][signal] ?? 0
        #expect(folder.text("status") == "\(128 + number)\n")
        #expect(reason() == "interrupted \(128 + number)")
    }

    // MARK: output that nobody takes

    @Test("what the guest printed and nobody took is no success", arguments: [">/dev/full", "--serial file=/dev/full"])
    func lostSerialOutput(redirection: String) throws {
        // mov $0x3F8, %dx; mov $'f', %al; out %al, %dx; hlt
        let guest = try folder.file("guest", TinyGuest([0x66, 0xBA, 0xF8, 0x03, 0xB0, 0x66, 0xEE, 0xF4]).elf)
        let outcome = try CommandLineTool.run(
            "exec $VMTALLY run --guest $GUEST --live-cpuid off --quiet \(redirection)", ["GUEST": guest])
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("1 bytes of the guest's serial output are lost"), "\(outcome.error)")
    }

    @Test("a full standard error holds up neither the run nor its end") func standardErrorThatNobodyReads() throws {
        let guest = try folder.file("guest", Self.spinner.elf)
        let outcome = try CommandLineTool.run(
            """
            mkfifo $FOLDER/fifo; sleep 60 <$FOLDER/fifo >/dev/null 2>&1 & exec 3>$FOLDER/fifo
            timeout 0.5 dd if=/dev/zero bs=4096 >&3 2>/dev/null
            $VMTALLY run --guest $GUEST --live-cpuid off --serial none --timeout 1 2>&3 --stats-json $FOLDER/json
            echo $? >$FOLDER/status; kill $!
            """, ["GUEST": guest, "FOLDER": folder.path], seconds: 50)
        #expect(outcome.status == 0 && folder.text("status") == "124\n")
        #expect(reason() == "timeout 124")
    }

    @Test(
        "a full standard output is status 1",
        arguments: ["demo --json", "demo", "host", "cpuid --raw", "--version", "--help"])
    func fullStandardOutput(command: String) throws {
        let outcome = try CommandLineTool.run("exec $VMTALLY \(command) >/dev/full")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("No space left"), "\(outcome.error)")
    }

    // MARK: files

    struct Refusal: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let options: String
        let status: Int32
        let message: String

        init(_ name: String, _ options: String, _ message: String, status: Int32 = 1) {
            (testDescription, self.options, self.status, self.message) = (name, options, status, message)
        }
    }

    static let refusals: [Refusal] = [
        Refusal("a FIFO for the serial port", "--guest $GUEST --serial file=$FOLDER/fifo", "nobody reads this FIFO"),
        Refusal("a FIFO for the tally", "--guest $GUEST --stats-json $FOLDER/fifo", "nobody reads this FIFO"),
        Refusal("a FIFO as disk", "--multiboot $IMAGE --disk $FOLDER/fifo,ro", "neither a file nor a block device"),
        Refusal("a folder as disk", "--multiboot $IMAGE --disk $FOLDER,ro", "neither a file nor a block device"),
        Refusal("a device without an end as disk", "--multiboot $IMAGE --disk /dev/zero,ro", "neither a file"),
        Refusal("an empty disk", "--multiboot $IMAGE --disk $FOLDER/empty", "less than a sector"),
        Refusal("devices of a bare-metal guest", "--guest $GUEST --rng", "--rng goes with", status: 64),
        Refusal("a disk of a bare-metal guest", "--guest $GUEST --disk x", "--disk goes with", status: 64),
        Refusal("a command line of a bare-metal guest", "--guest $GUEST --append x", "--append goes with", status: 64),
        Refusal("the guest as output", "--guest $GUEST --serial file=$GUEST", "the same file"),
        Refusal("the guest's other name as output", "--guest $GUEST --stats-json $FOLDER/link", "the same file"),
        Refusal("two outputs in one", "--guest $GUEST --serial file=$FOLDER/o --stats-json $FOLDER/o", "the same file"),
        Refusal(
            "two new outputs in one", "--guest $GUEST --serial file=$FOLDER/n --stats-json $FOLDER/./n",
            "the same file"),
        Refusal("a disk twice", "--multiboot $IMAGE --disk $GUEST --disk $FOLDER/link", "the same file"),
        Refusal("a FIFO as initrd", "--kernel $IMAGE --initrd $FOLDER/fifo", "a FIFO that nothing came out of"),
        Refusal("two outputs to one stream", "--guest $GUEST --csv - --stats-json -", "cannot both", status: 64),
        Refusal("a word too many", "hello", "Unexpected argument 'hello'", status: 64),
        Refusal("a name that is not UTF-8", "--guest $FOLDER/$(printf '\\377')", "is not UTF-8", status: 64),
    ]

    @Test("files that cannot be what they are to be are refused before the run", arguments: refusals)
    func refuses(refusal: Refusal) throws {
        let elf = CommandLineTests.worker.elf
        let guest = try folder.file("guest", elf)
        _ = try folder.file("empty", [])
        let outcome = try CommandLineTool.run(
            "mkfifo $FOLDER/fifo; ln $GUEST $FOLDER/link; exec $VMTALLY run \(refusal.options) --timeout 20",
            ["GUEST": guest, "IMAGE": try folder.file("image", multibootImage([0xF4])), "FOLDER": folder.path],
            seconds: 15)
        #expect(outcome.status == refusal.status)
        #expect(outcome.error.contains(refusal.message), "\(outcome.error)")
        #expect(folder.text("guest")?.utf8.count ?? 0 > 0 && !outcome.error.contains("userspace exits"))
    }

    @Test("a limit of file sizes is an error, not the end") func fileSizeLimit() throws {
        let guest = try folder.file("guest", CommandLineTests.worker.elf)
        let outcome = try CommandLineTool.run(
            "ulimit -f 0; $VMTALLY run --guest $GUEST --live-cpuid off --quiet --stats-json $FOLDER/json 2>&1",
            ["GUEST": guest, "FOLDER": folder.path])
        #expect(outcome.status == 1)
        #expect(outcome.output.contains("File too large"), "\(outcome.output)")
    }

    @Test("a disk's odd end is told of") func oddDisk() throws {
        let image = try folder.file("image", multibootImage([0xB0, 0x01, 0xE6, 0xF4]))
        let disk = try folder.file("disk", [UInt8](repeating: 0, count: 1005))
        let outcome = try CommandLineTool.run(
            "exec $VMTALLY run --multiboot $IMAGE --disk $DISK --quiet --live-cpuid off </dev/null",
            ["IMAGE": image, "DISK": disk])
        #expect(outcome.status == 3)
        #expect(outcome.error.contains("the last 493 bytes are less than a sector"), "\(outcome.error)")
    }

    /// A tmpfs of 16 KiB, nearly full.
    @Test(
        "old content stays when the new does not fit, and no new file is left",
        .enabled(if: getuid() == 0, "needs root for a small file system")
    )
    func oldContent() throws {
        let guest = try folder.file("guest", CommandLineTests.worker.elf)
        let outcome = try CommandLineTool.run(
            """
            mkdir $FOLDER/t; mount -t tmpfs -o size=16k none $FOLDER/t || exit 77
            echo precious >$FOLDER/t/json; head -c 8192 /dev/zero >$FOLDER/t/fill; dd if=/dev/zero of=$FOLDER/t/rest bs=4096 2>/dev/null
            $VMTALLY run --no-sandbox --guest $GUEST --live-cpuid off --quiet --serial none --stats-json $FOLDER/t/json
            echo "$? $(cat $FOLDER/t/json) $(ls $FOLDER/t | wc -l)"
            $VMTALLY run --guest $GUEST --live-cpuid off --quiet --serial none --stats-json $FOLDER/t/new
            echo "$? $(ls $FOLDER/t | wc -l)"; umount $FOLDER/t
            """, ["GUEST": guest, "FOLDER": folder.path])
        if outcome.status == 77 { try Test.cancel("no tmpfs can be mounted here") }
        #expect(outcome.output == "1 precious 3\n1 3\n", "\(outcome.output)")
        #expect(outcome.error.contains("No space left on device"), "\(outcome.error)")
    }

    @Test("a link stays a link, and the file keeps its mode") func links() throws {
        let guest = try folder.file("guest", CommandLineTests.worker.elf)
        let outcome = try CommandLineTool.run(
            """
            echo old >$FOLDER/real; chmod 640 $FOLDER/real; ln -s real $FOLDER/json
            $VMTALLY run --guest $GUEST --live-cpuid off --quiet --serial none --stats-json $FOLDER/json
            [ -L $FOLDER/json ] && stat -c %a $FOLDER/real; ls $FOLDER | wc -l
            """, ["GUEST": guest, "FOLDER": folder.path])
        #expect(outcome.output == "640\n3\n", "\(outcome.output)")
        #expect(reason() == "exited 7")
    }

    /// A figure of some vCPUs only is none.
    @Test func statisticsOfSomeVCPUsAreNotShown() throws {
        let guest = try folder.file("guest", CommandLineTests.worker.elf)
        let outcome = try CommandLineTool.run(
            "ulimit -n 40; exec $VMTALLY run --guest $GUEST --cpus 20 --live-cpuid off --stats-json $FOLDER/json",
            ["GUEST": guest, "FOLDER": folder.path])
        #expect(
            outcome.error.contains("VM exits by the kernel's count: none: the statistics of vCPU"), "\(outcome.error)")
        #expect(folder.text("json")?.contains("\"kernel\":{},\"kernel_missing\":\"the statistics of vCPU") == true)
    }

    /// In a bare initramfs or a chroot there may be none.
    @Test("without /proc the command line is read all the same", .enabled(if: getuid() == 0, "needs root for a chroot"))
    func withoutProc() throws {
        let outcome = try CommandLineTool.run(
            """
            unshare -m sh -c 'mount -t tmpfs none /proc && exec "$0" compare a b' "$VMTALLY"
            """)
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("a: No such file or directory"), "\(outcome.error)")
    }

    @Test("what was to fill a file and did not begin leaves none", arguments: ["--cpus 100000", "--memory 0"])
    func noEmptyFiles(options: String) throws {
        let outcome = try CommandLineTool.run(
            "exec $VMTALLY run --guest $VMTALLY --quiet --json $FOLDER/json --csv $FOLDER/csv \(options)",
            ["FOLDER": folder.path])
        #expect(outcome.status == 1, "\(outcome.error)")
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).isEmpty)
    }

    @Test("a signal ends the demo as it ends a run, whenever it comes")
    func demo() throws {
        let outcome = try CommandLineTool.run(
            """
            for i in 1 2 3 4 5 6 7 8 9; do
                $VMTALLY demo >/dev/null 2>&1 & p=$!; sleep 0.0$i; kill -TERM $p; wait $p; echo $?
            done
            """)
        let statuses = Set(outcome.output.split(separator: "\n"))
        #expect(statuses.subtracting(["0", "143"]).isEmpty, "\(outcome.output)")
    }

    @Test("inherited descriptors are closed, whatever their numbers are")
    func inherited() throws {
        // mov $'x', %al; mov $0x3F8, %edx; out %al, (%dx); jmp .
        let guest = try folder.file("guest", TinyGuest([0xB0, 0x78] + Assembly.edx(0x3F8) + [0xEE, 0xEB, 0xFE]).elf)
        let outcome = try CommandLineTool.run(
            """
            exec python3 -c '
            import os, subprocess, sys
            files = [os.dup2(0, n) for n in (7, 500, 1023, 1024, 1500)]
            run = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, pass_fds=files)
            run.stdout.read(1)
            left = set(map(int, os.listdir(f"/proc/{run.pid}/fd")))
            run.kill()
            print("left:", sorted(left.intersection(files)))
            ' $VMTALLY run --guest $GUEST --quiet --timeout 60
            """, ["GUEST": guest])
        #expect(outcome.output == "left: []\n", "\(outcome.output) \(outcome.error)")
    }
}
