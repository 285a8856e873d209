// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVM
import TestSupport
import Testing
@testable import Machine

/// What a machine takes it gives back. In processes of their own, where nothing else opens or allocates.
@Suite(.ownThread, .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"))
struct SoakTests {
    /// Open files, threads, memory mappings and resident KiB of this process.
    private struct Footprint: Equatable {
        let descriptors: Int
        let threads: Int
        let mappings: Int
        let residentKiB: Int

        init() {
            descriptors = Self.entries("/proc/self/fd")
            threads = Self.entries("/proc/self/task")
            mappings = Self.lines("/proc/self/maps").count
            let status = Self.lines("/proc/self/status").first { $0.hasPrefix("VmRSS:") }
            residentKiB =
                status.flatMap { Int($0.dropFirst(6).drop { $0 == " " || $0 == "\t" }.prefix { $0 != " " }) } ?? 0
        }

        private static func entries(_ path: String) -> Int {
            guard let directory = opendir(path) else { return -1 }
            defer { closedir(directory) }
            var count = 0
            while readdir(directory) != nil {
                count += 1
            }
            return count
        }

        private static func lines(_ path: String) -> [Substring] {
            guard let file = fopen(path, "re") else { return [] }
            defer { fclose(file) }
            var bytes: [UInt8] = []
            var chunk = [UInt8](repeating: 0, count: 1 << 16)
            while case let count = fread(&chunk, 1, chunk.count, file), count > 0 {
                bytes += chunk.prefix(count)
            }
            return String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        }
    }

    /// Machines and processes to make. VMTALLY_SOAK=1000 is for a long look.
    private static let count = getenv("VMTALLY_SOAK").flatMap { Int(String(cString: $0)) } ?? 200

    /// Runs guests of several kinds, with and without live CPUID, bare or on a PC with devices, after a warm-up.
    private static func soak() throws {
        let worker = TinyGuest(Assembly.loop(10, Assembly.outByte) + Assembly.sendAndHalt(100))
        let failing = TinyGuest([0x0F, 0x0B])
        let spinner = TinyGuest([0xEB, 0xFE])
        let reader = TinyGuest(Assembly.eax(0x4FFF_FFFF) + [0x31, 0xC9, 0x0F, 0xA2, 0xF4], sites: [7])
        func machines(_ count: Int) throws {
            for index in 0..<count {
                switch index % 7 {
                case 0: _ = try worker.run { $0.cpus = 4 }
                case 1: _ = try failing.run()
                case 2: _ = try spinner.run { $0.timeoutMilliseconds = 1 }
                case 3:
                    // Not run at all, and one that cannot be built.
                    _ = try worker.machine()
                    _ = try? worker.machine { $0.cpus = 0 }
                case 4, 5:
                    // A PC: chips in the kernel or split, virtio devices with a thread and event descriptors.
                    let image = Self.multiboot
                    try image.withUnsafeBytes { bytes in
                        var configuration = MachineConfiguration()
                        configuration.irqchip = index % 7 == 4 ? .kernel : .split
                        configuration.devices.console = .virtio
                        configuration.devices.entropy = true
                        configuration.timeoutMilliseconds = 3_600_000
                        let machine = try Machine(configuration, .multiboot(bytes, commandLine: ""))
                        guard try machine.run().end == .exited(status: 7) else { exit(2) }
                    }
                default:
                    let machine = try reader.elf.withUnsafeBytes { bytes in
                        var configuration = MachineConfiguration()
                        configuration.endingSignals = [SIGUSR1]
                        return try Machine(configuration, elf: bytes)
                    }
                    _ = try machine.run()
                }
            }
        }
        try machines(40)
        let before = Footprint()
        try machines(count)
        // KVM ends a machine's worker thread a moment after the machine.
        var after = Footprint()
        for _ in 0..<100 where after.threads > before.threads || after.descriptors > before.descriptors {
            usleep(20_000)
            after = Footprint()
        }
        guard after.descriptors <= before.descriptors, after.threads <= before.threads,
            after.mappings <= before.mappings + 20, after.residentKiB <= before.residentKiB + 4096
        else {
            print("before: \(before)\nafter:  \(after)")
            fflush(nil)
            return
        }
    }

    /// Writes 3 to port 0xF4: mov $3, %eax; out %eax, $0xF4.
    private static let multiboot = multibootImage([0xB8, 0x03, 0x00, 0x00, 0x00, 0xE7, 0xF4])

    /// A process a boot: whatever one left behind in the kernel would make a later one fail.
    @Test(.enabled(if: CommandLineTool.missing == nil, "\(CommandLineTool.missing ?? "")"))
    func aProcessABoot() throws {
        let folder = try TemporaryFolder()
        let image = try folder.file("guest", Self.multiboot)
        let outcome = try CommandLineTool.run(
            """
            for i in $(seq $COUNT); do
                $VMTALLY run --multiboot "$IMAGE" --quiet --rng --timeout 20 --live-cpuid off </dev/null
                [ $? = 7 ] || { echo "boot $i: $?"; exit 1; }
            done
            """, ["COUNT": "\(max(20, Self.count / 10))", "IMAGE": image])
        #expect(outcome.status == 0, "\(outcome.output) \(outcome.error)")
    }

    @Test(.timeLimit(.minutes(60))) func machinesLeaveNothingBehind() async throws {
        let result = try #require(
            await #expect(processExitsWith: .success, observing: [\.standardOutputContent]) {
                try SoakTests.soak()
            })
        let text = String(decoding: result.standardOutputContent, as: UTF8.self)
        #expect(!text.contains("before:"), "\(text)")
    }

    /// Building fails for want of a descriptor, at each place in turn.
    @Test(.timeLimit(.minutes(60))) func whatCannotBeBuiltLeavesNothingBehind() async {
        await #expect(processExitsWith: .success) {
            let image = SoakTests.multiboot
            func build() throws {
                var configuration = MachineConfiguration()
                configuration.cpus = 2
                configuration.liveCPUID = .off
                configuration.devices.console = .virtio
                configuration.devices.entropy = true
                try image.withUnsafeBytes { _ = try Machine(configuration, .multiboot($0, commandLine: "")) }
            }
            try build()
            // What the process has inherited may have gaps in its numbers: they are filled.
            var first = open("/dev/null", O_RDONLY)
            var adjacent = 0
            while adjacent < 64 {
                let next = open("/dev/null", O_RDONLY)
                adjacent = next == first + 1 ? adjacent + 1 : 0
                first = next
            }
            let before = Footprint().descriptors
            var limit = rlimit()
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            let usual = limit
            var failures = 0
            for descriptors in first + 1..<first + 65 {
                limit.rlim_cur = rlim_t(descriptors)
                setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
                failures += (try? build()) == nil ? 1 : 0
            }
            var again = usual
            setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &again)
            // A dozen descriptors, so as many places; and in the end it works.
            let after = Footprint().descriptors
            print("failures \(failures), descriptors before \(before), after \(after)")
            exit(failures > 8 && failures < 64 && after <= before ? 0 : 1)
        }
    }

    /// A thread inherits its creator's blocked signals; a spinning guest must end all the same.
    @Test(.timeLimit(.minutes(60))) func blockedSignalsDoNotKeepAGuestRunning() async {
        await #expect(processExitsWith: .success) {
            var all = sigset_t()
            sigfillset(&all)
            sigdelset(&all, SIGALRM)
            pthread_sigmask(SIG_BLOCK, &all, nil)
            alarm(3600)
            let outcome = try TinyGuest([0xEB, 0xFE]).run { $0.timeoutMilliseconds = 50 }
            exit(outcome.result.end == .timeout ? 0 : 1)
        }
    }
}
