import Foundation
import Testing

/// Debian's kernel as a guest on real kvm-amd and kvm-intel: emulated hosts (docs/lab.md), the guest of `make guest`.
@Suite("Linux in the lab", .serialized, .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"))
struct LabBootTests {
    @Test(
        "boots, finds its processors, switches off; every userspace exit is counted",
        arguments: [(1, "serial", 900), (4, "serial", 900), (1, "virtio", 300)])
    func boot(cpus: Int, console: String, exits: Int) throws {
        let output = try Lab.run("svm", script: "boot.sh", ["\(cpus)", console])
        #expect(output.contains("READY \(cpus) CPUs"), "\(output)")
        #expect(output.contains("status 0\nreason power-off"), "\(output)")
        #expect(output.contains("traced the same"), "\(output)")
        let count = output.firstMatch(of: /exits ([0-9]+)/).flatMap { Int($0.1) }
        // The guest of `make guest` loads modules and prints more than the boot of the published totals.
        #expect(try #require(count) <= exits * 2, "\(output)")
    }

    /// A boot with live CPUID.
    struct Live: CustomTestStringConvertible, Sendable {
        let cpus: Int
        let append: String
        /// The kernel's own CPUID is live as well, by its name; else it tells what KVM answers.
        let kernelIsLive: Bool

        var testDescription: String { "\(cpus) vCPU(s) \(append)" }
    }

    @Test(
        "live CPUID disturbs nothing: Debian's cpuid, our probe, and a program that tries",
        arguments: [
            Live(cpus: 1, append: "pti=off", kernelIsLive: true),
            Live(cpus: 4, append: "pti=on nokaslr", kernelIsLive: false),
        ])
    func live(boot: Live) throws {
        let folder = try TemporaryFolder()
        let stress = try folder.compile("stress.c", "-O1 -static")
        // 32-bit, without a C library.
        let compat = try folder.compile("compat.c", "-m32 -O1 -static -nostdlib -fno-pic -no-pie -fno-stack-protector")
        let output = try Lab.run(
            "vmx", script: "live.sh", ["\(boot.cpus)", boot.append, boot.kernelIsLive ? "kernel-live" : "kernel-same"],
            files: ["stress": stress, "compat": compat])
        let readings = output.matches(of: /0x4fffffff 0x00: (eax=.*)/).map { String($0.1) }
        #expect(readings.count == 3 && Set(readings).count == 3, "\(output)")
        #expect(output.contains("\n0 failed") && !output.contains("FAILED"), "\(output)")
        #expect(output.contains("status 0"), "\(output)")
        // The probe: exit status of CMD, one that is not there, its two formats, one vCPU's own total.
        #expect(output.contains("probe 7") && output.contains("probe without a command 127"), "\(output)")
        #expect(output.contains("live; userspace exits (KVM_EXIT_*"), "\(output)")
        #expect(output.matches(of: /"scope":"vcpu","total":{"count":[0-9]+/).count == 2, "\(output)")
        #expect(output.contains("total of this vCPU"), "\(output)")
        // An interrupt is two MMIO exits, a request one more where no ioeventfd takes it.
        let dd = try #require(
            output.firstMatch(of: /dd: ([0-9]+) requests, ([0-9]+) interrupts, ([0-9]+) MMIO exits/), "\(output)")
        let (requests, interrupts, exits) = (Int(dd.1) ?? 0, Int(dd.2) ?? 0, Int(dd.3) ?? 0)
        #expect(requests > 0 && interrupts > 0, "\(output)")
        #expect(exits == interrupts * 2 + (boot.kernelIsLive ? requests : 0), "\(output)")
    }
}

/// A folder for programs that tests compile.
private struct TemporaryFolder: ~Copyable {
    private let path = NSTemporaryDirectory() + "vmtally-\(UUID().uuidString)"

    init() throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path)
    }

    /// Compiles a program of Scripts; its path.
    func compile(_ source: String, _ options: String) throws -> String {
        let program = path + "/" + source.split(separator: ".")[0]
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments =
            ["cc", Lab.path("Tests/LinuxGuestTests/Scripts/" + source), "-o", program]
            + options.split(separator: " ").map(String.init)
        try process.run()
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "cc \(source)")
        return program
    }
}

private enum Lab {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    static func path(_ name: String) -> String { root.appending(path: name).path }

    /// Why there is no lab here; nil when there is one. CI must have it.
    static let missing: String? = {
        if ProcessInfo.processInfo.environment["CI"] != nil {
            return nil
        }
        let absent =
            ["build/vmtally", "build/guest/vmlinuz", "build/guest/initrd"].map(path)
            + ["/usr/bin/qemu-system-x86_64", "/usr/bin/bochs", "/usr/bin/genisoimage"]
        return absent.first { !FileManager.default.fileExists(atPath: $0) }.map { "\($0) is missing: type make test" }
    }()

    /// - Parameter files: names in the host's root, and where they are here.
    static func run(
        _ ground: String, script: String, _ arguments: [String], files: [String: String] = [:]
    ) throws -> String {
        let process = Process()
        let pipe = Pipe()
        process.executableURL = URL(filePath: path("Tests/Lab/run"))
        process.arguments =
            [
                ground, "--memory", "1500", "--timeout", "300",
                // Linux takes its clock from the TSC: see Tests/Lab/init. Bochs has nothing to refine.
                "--append", ground == "svm" ? "vmtally.refined_tsc" : "", "--file",
                path("build/vmtally") + "=/bin/vmtally",
                "--file", path("build/guest/vmlinuz") + "=/guest/vmlinuz",
                "--file", path("build/guest/initrd") + "=/guest/initrd",
            ] + files.flatMap { ["--file", $0.value + "=/" + $0.key] } + [
                "--script", path("Tests/LinuxGuestTests/Scripts/" + script), "--",
            ] + arguments
        process.standardOutput = pipe
        process.standardError = pipe
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return String(decoding: output, as: UTF8.self)
    }
}
