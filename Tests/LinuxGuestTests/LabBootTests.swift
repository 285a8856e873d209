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
        if console == "virtio" {
            #expect(output.contains("boot status 0"), "\(output)")
            #expect(output.contains("\"source\":\"kvm_exit\"") && !output.contains("KVM's statistics"), "\(output)")
        }
    }

    @Test("Debian's cpuid gives three different readings, and the probe hands on an exit status", arguments: [1, 4])
    func live(cpus: Int) throws {
        let output = try Lab.run("vmx", script: "live.sh", ["\(cpus)"])
        let readings = output.matches(of: /0x4fffffff 0x00: (eax=.*)/).map { String($0.1) }
        #expect(readings.count == 3 && Set(readings).count == 3, "\(output)")
        #expect(output.contains("probe 7"), "\(output)")
        #expect(output.contains("status 0"), "\(output)")
    }
}

private enum Lab {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    private static func path(_ name: String) -> String { root.appending(path: name).path }

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

    static func run(_ ground: String, script: String, _ arguments: [String]) throws -> String {
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
