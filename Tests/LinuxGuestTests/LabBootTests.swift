import Foundation
import Testing

/// Debian's kernel as a guest on real kvm-amd and kvm-intel: emulated hosts (docs/lab.md), the guest of `make guest`.
@Suite("Linux in the lab", .serialized, .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"))
struct LabBootTests {
    /// A boot of boot.sh, and what must come of it.
    struct Boot: CustomTestStringConvertible, Sendable {
        let name: String
        var cpus = 1
        var end = "power-off"
        /// Userspace exits at most. The guest of `make guest` loads modules and prints more than the boots of
        /// docs/guests.md.
        var limit = 1800
        var says: [String] = []

        var testDescription: String { name }
    }

    /// The boots of boot.sh, in one emulated host.
    private static let boots = Result {
        let kernel = try Data(contentsOf: URL(filePath: Lab.path("build/guest/vmlinux")))
        // The same kernel without its PVH note (XEN_ELFNOTE_PHYS32_ENTRY, 18): entered by the 64-bit protocol.
        var note = Data([4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0]) + Data("Xen\0".utf8)
        guard let place = kernel.range(of: note) else { throw CocoaError(.fileReadCorruptFile) }
        note[8] = 0xFF
        let other = URL(filePath: NSTemporaryDirectory() + "/vmlinux-\(UUID().uuidString)")
        var copy = kernel
        copy.replaceSubrange(place, with: note)
        try copy.write(to: other)
        defer { try? FileManager.default.removeItem(at: other) }
        let output = try Lab.run(
            "svm", script: "boot.sh", [],
            files: [Lab.path("build/guest/vmlinux") + "=/guest/vmlinux", other.path + "=/guest/vmlinux-64"])
        var sections: [String: String] = [:]
        for section in output.components(separatedBy: "\n=== ").dropFirst() {
            sections[String(section.prefix { $0 != "\n" })] = section
        }
        sections[""] = output
        return sections
    }

    @Test(
        "boots, finds its processors, ends; every exit is counted as the kernel counts it",
        arguments: [
            Boot(name: "serial-1"), Boot(name: "serial-4", cpus: 4), Boot(name: "virtio-1", limit: 600),
            Boot(name: "virtio-split", limit: 700), Boot(name: "split-4", cpus: 4, limit: 2200),
            // The PIT as the only timer, the ACPI timer as the clock.
            Boot(name: "full", limit: 100_000, says: ["\nacpi_pm", "IO-APIC   2-edge      timer"]),
            Boot(name: "pvh", says: ["PVH"]), Boot(name: "vmlinux"),
            Boot(name: "reset-acpi", end: "reset"), Boot(name: "reset-kbd", end: "reset"),
            Boot(name: "reset-triple", end: "reset"), Boot(name: "reset-pci", end: "reset"),
        ])
    func boot(_ boot: Boot) throws {
        let sections = try Self.boots.get()
        let output = try #require(sections[boot.name], "\(sections[""] ?? "")")
        #expect(output.contains("READY \(boot.cpus) CPUs"), "\(output)")
        for text in boot.says {
            #expect(output.contains(text), "\(output)")
        }
        #expect(output.contains("\nstatus 0"), "\(output)")
        let run = try JSONDecoder().decode(Run.self, from: Data(try #require(Self.line("json", output)).utf8))
        #expect(run.status.reason == boot.end)
        #expect(run.exits.total.count <= boot.limit)

        // Reason by reason what the tracepoint saw; an error of KVM_RUN is KVM_EXIT_INTR to us.
        var traced: [Int: Int] = [:]
        for match in output.matches(of: /\ntraced (\d+) (-?\d+) (\d+)/) {
            let reason = match.2 == "0" ? Int(match.1) ?? -1 : 10
            traced[reason, default: 0] += Int(match.3) ?? 0
        }
        let ours = Dictionary(run.exits.by_reason.map { ($0.code, $0.count) }, uniquingKeysWith: +)
        #expect(ours == traced)
        #expect(run.exits.total.count == traced.values.reduce(0, +))
        // And what the binary statistics say.
        #expect(run.kernel["exits"].map { "\($0)" } == Self.line("kvm_exit", output))
        #expect(run.kernel["mmio_exits"] == ours[6, default: 0])
        // Ports of the PIC and the PIT are handled inside KVM.
        #expect(try #require(run.kernel["io_exits"]) >= ours[2, default: 0])
    }

    private static func line(_ word: String, _ output: String) -> String? {
        output.components(separatedBy: "\n").first { $0.hasPrefix(word + " ") }.map { String($0.dropFirst(word.count + 1)) }
    }

    private struct Run: Decodable {
        struct Status: Decodable { let reason: String }
        struct Total: Decodable { let count: Int }
        struct Reason: Decodable {
            let code: Int
            let count: Int
        }
        struct Exits: Decodable {
            let total: Total
            let by_reason: [Reason]
        }

        let status: Status
        let exits: Exits
        let kernel: [String: Int]
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

    static func path(_ name: String) -> String { root.appending(path: name).path }

    /// Why there is no lab here; nil when there is one. CI must have it.
    static let missing: String? = {
        if ProcessInfo.processInfo.environment["CI"] != nil {
            return nil
        }
        let absent =
            ["build/vmtally", "build/guest/vmlinuz", "build/guest/vmlinux", "build/guest/initrd"].map(path)
            + ["/usr/bin/qemu-system-x86_64", "/usr/bin/bochs", "/usr/bin/genisoimage"]
        return absent.first { !FileManager.default.fileExists(atPath: $0) }.map { "\($0) is missing: type make test" }
    }()

    static func run(_ ground: String, script: String, _ arguments: [String], files: [String] = []) throws -> String {
        let process = Process()
        let pipe = Pipe()
        process.executableURL = URL(filePath: path("Tests/Lab/run"))
        process.arguments =
            [
                ground, "--memory", "1500", "--timeout", "400",
                // Linux takes its clock from the TSC: see Tests/Lab/init. Bochs has nothing to refine.
                "--append", ground == "svm" ? "vmtally.refined_tsc" : "", "--file",
                path("build/vmtally") + "=/bin/vmtally",
                "--file", path("build/guest/vmlinuz") + "=/guest/vmlinuz",
                "--file", path("build/guest/initrd") + "=/guest/initrd",
            ] + files.flatMap { ["--file", $0] }
            + ["--script", path("Tests/LinuxGuestTests/Scripts/" + script), "--"] + arguments
        process.standardOutput = pipe
        process.standardError = pipe
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return String(decoding: output, as: UTF8.self)
    }
}
