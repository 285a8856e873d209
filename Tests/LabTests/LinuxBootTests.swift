// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

/// Debian's kernel as a guest on real kvm-amd and kvm-intel: emulated hosts (docs/lab.md), the guest of `make guest`.
@Suite(
    "Linux in the lab", .ownThread, .serialized,
    .enabled(if: Lab.isPatient, "VMTALLY_SLOW_TESTS is not set: it takes half an hour"))
struct LinuxBootTests {
    /// A boot of boot.sh, and what must come of it.
    struct Boot: CustomTestStringConvertible, Sendable {
        let name: String
        var cpus = 1
        var end = "power-off"
        /// Userspace exits at most. The guest of `make guest` loads modules and prints more than the boots of
        /// docs/guests.md.
        var limit = 1800
        var says: [String] = []
        /// The guest waits while the VMM's own memory is looked at.
        var waits = false

        var testDescription: String { name }
    }

    /// The boots of boot.sh, in one emulated host.
    private static let boots = Result {
        let kernel = try Data(contentsOf: URL(filePath: Lab.path("build/guest/vmlinux")))
        // The same kernel without its PVH note (XEN_ELFNOTE_PHYS32_ENTRY, 18): entered by the 64-bit protocol.
        var note = Data([4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0]) + Data("Xen\0".utf8)
        guard let place = kernel.range(of: note) else { throw CocoaError(.fileReadCorruptFile) }
        note[8] = 0xFF
        var copy = kernel
        copy.replaceSubrange(place, with: note)
        let folder = try TemporaryFolder()
        let other = try folder.file("vmlinux-64", copy)
        let output = try Lab.boot(
            "svm", script: "boot.sh", [],
            files: [
                "guest/vmlinux": Lab.path("build/guest/vmlinux"), "guest/vmlinux-64": other,
                "guest/vmlinuz-6.12": "kernel:6.12", "guest/tun.ko": Lab.path("build/guest/host/tun.ko"),
            ])
        return sections(output)
    }

    /// A text for each boot; all of it under "".
    private static func sections(_ output: String) -> [String: String] {
        var sections: [String: String] = [:]
        for section in ("\n" + output).components(separatedBy: "\n=== ").dropFirst() {
            sections[String(section.prefix { $0 != "\n" })] = section
        }
        sections[""] = output
        return sections
    }

    @Test(
        "boots, finds its processors, ends; every exit is counted as the kernel counts it",
        arguments: [
            Boot(name: "serial-1", waits: true), Boot(name: "serial-4", cpus: 4, waits: true),
            Boot(name: "virtio-1", limit: 600, waits: true), Boot(name: "virtio-4", cpus: 4, limit: 900, waits: true),
            // The modules of 6.1 do not fit, and it says so on the console.
            Boot(name: "linux-6.12", cpus: 4, limit: 6000),
            Boot(name: "virtio-split", limit: 700), Boot(name: "split-4", cpus: 4, limit: 2200),
            // The PIT as the only timer, the ACPI timer as the clock.
            Boot(name: "full", limit: 100_000, says: ["\nacpi_pm", "IO-APIC   2-edge      timer"]),
            // What Linux's PVH entry says of itself, and what we do by the 64-bit protocol.
            Boot(name: "pvh", says: ["loader 176"]), Boot(name: "vmlinux", says: ["loader 255"]),
            Boot(
                name: "devices", limit: 2500,
                says: [
                    "flushed", "disk reads what was written", "discarded", "zeroes 0", "read-only 1", "entropy 64",
                    "5 packets transmitted, 5 packets received", "disk of 128 KiB",
                ]),
            Boot(name: "reset-acpi", end: "reset"), Boot(name: "reset-kbd", end: "reset"),
            Boot(name: "reset-triple", end: "reset"), Boot(name: "reset-pci", end: "reset"),
        ])
    func boot(_ boot: Boot) throws {
        try check(boot, try Self.boots.get())
    }

    @Test("64 processors", .enabled(if: Lab.isPatient, "VMTALLY_SLOW_TESTS is not set: it takes 5 minutes"))
    func manyProcessors() throws {
        try check(
            Boot(name: "serial-64", cpus: 64, limit: 100_000),
            Self.sections(try Lab.boot("svm", script: "boot.sh", ["64"], seconds: 3 * Lab.hang)))
    }

    private func check(_ boot: Boot, _ sections: [String: String]) throws {
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
        let ours = Dictionary(run.exits.byReason.map { ($0.code, $0.count) }, uniquingKeysWith: +)
        #expect(ours == traced)
        #expect(run.exits.total.count == traced.values.reduce(0, +))
        // Place by place as well, where asked for; the kernel has told its own code's names.
        if boot.name == "serial-4" || boot.name == "linux-6.12" {
            let places = try #require(run.exits.byRIP)
            #expect(places.count == 5)
            #expect(
                places.reduce(try #require(run.exits.byRIPOthers).count) { $0 + $1.count } == run.exits.total.count)
            #expect(places.first?.symbol == "io_serial_out", "\(output)")
        }
        if boot.waits {
            let memory = try #require(output.firstMatch(of: /resident ([0-9]+) KiB/), "\(output)")
            #expect(try #require(Int(memory.1)) <= 10 * 1024, "the VMM's own memory, in KiB")
        }
        // And what the binary statistics say.
        #expect(run.kernel["exits"].map { "\($0)" } == Self.line("kvm_exit", output))
        #expect(run.kernel["mmio_exits"] == ours[6, default: 0])
        // Ports of the PIC and the PIT are handled inside KVM.
        #expect(try #require(run.kernel["io_exits"]) >= ours[2, default: 0])
    }

    @Test("the boot protocol: VM exits by reason up to the marker are KVM's own, and another VMM's are counted alike")
    func bootProtocol() throws {
        let sections = try Self.boots.get()
        let own = try #require(sections["protocol"], "\(sections[""] ?? "")")
        #expect(own.contains("\nstatus 0"), "\(own)")
        #expect(own.contains("\"source\":\"kvm_exit\"") && !own.contains("KVM's statistics"), "\(own)")
        #expect(own.contains("\"SVM_EXIT_CPUID\"") && own.contains("\"name\":\"decompression\""), "\(own)")
        // The VMM's own count of userspace exits, and that of the tracepoint, are the same guest's.
        let other = try #require(sections["other"], "\(sections[""] ?? "")")
        #expect(other.contains("\nstatus 0"), "\(other)")
        let counts = try [own, other].map { output in
            let match = try #require(output.firstMatch(of: #/ ([0-9]+) userspace exits/#), "\(output)")
            return Int(match.1) ?? 0
        }
        #expect(abs(counts[0] - counts[1]) <= 10, "\(counts)")
    }

    private static func line(_ word: String, _ output: String) -> String? {
        let line = output.components(separatedBy: "\n").first { $0.hasPrefix(word + " ") }
        return line.map { String($0.dropFirst(word.count + 1)) }
    }

    private struct Run: Decodable {
        struct Status: Decodable { let reason: String }
        struct Total: Decodable { let count: Int }
        struct Reason: Decodable {
            let code: Int
            let count: Int
        }
        struct Place: Decodable {
            let symbol: String?
            let count: Int
        }
        struct Exits: Decodable {
            let total: Total
            let byReason: [Reason]
            let byRIP: [Place]?
            let byRIPOthers: Total?

            enum CodingKeys: String, CodingKey {
                case total
                case byReason = "by_reason"
                case byRIP = "by_rip"
                case byRIPOthers = "by_rip_others"
            }
        }

        let status: Status
        let exits: Exits
        let kernel: [String: Int]
    }

    /// A boot with live CPUID.
    struct Live: CustomTestStringConvertible, Sendable {
        let ground: String
        let cpus: Int
        let append: String
        /// The kernel's own CPUID is live as well, by its name; else it tells what KVM answers.
        let kernelIsLive: Bool

        var pti: Bool { append.contains("pti=on") }
        var kaslr: Bool { !append.contains("nokaslr") }
        var testDescription: String { "\(ground) \(cpus) vCPU(s) \(append)" }
    }

    @Test(
        "live CPUID disturbs nothing: Debian's cpuid, our probe, and a program that tries",
        arguments: ["svm", "vmx"].flatMap { ground in
            [
                Live(ground: ground, cpus: 1, append: "pti=off", kernelIsLive: true),
                Live(ground: ground, cpus: 4, append: "pti=on nokaslr", kernelIsLive: false),
            ]
        })
    func live(boot: Live) throws {
        try check(boot)
    }

    /// Whether a guest is armed in time must not hang on luck: with `VMTALLY_SLOW_TESTS` 50 boots of each, else two.
    @Test("every boot of Linux under kvm-amd reads the tally live, and dies of nothing", arguments: ["6.1", "6.12"])
    func everyBoot(kernel: String) throws {
        let times = Lab.isPatient ? 50 : 2
        let output = try Lab.boot(
            "svm", script: "boots.sh", ["\(times)", "/vmlinuz", "1", "2", "4"],
            files: ["vmlinuz": "kernel:" + kernel], seconds: Lab.hang * times)
        var boots = 0
        for match in output.matches(of: /boot .* status ([0-9]+) readings (.*) ([0-9]+) answered live (.*)/) {
            let readings = match.2.split(separator: " ").compactMap { UInt64($0.dropFirst(2), radix: 16) }
            #expect(match.1 == "0" && match.4.isEmpty, "\(match.0)")
            #expect(readings.count == 3 && readings.sorted() == readings && Set(readings).count == 3, "\(match.0)")
            #expect(match.3 == "3", "\(match.0)")
            boots += 1
        }
        #expect(boots == 3 * times, "\(output)")
    }

    /// The other half of page-table isolation on and off, KASLR on and off.
    @Test(
        "live CPUID disturbs nothing: the rest of the product",
        .enabled(if: Lab.isPatient, "VMTALLY_SLOW_TESTS is not set: two boots of minutes"),
        arguments: ["svm", "vmx"].flatMap { ground in
            [
                Live(ground: ground, cpus: 4, append: "pti=on", kernelIsLive: true),
                Live(ground: ground, cpus: 4, append: "pti=off nokaslr", kernelIsLive: false),
            ]
        })
    func liveRest(boot: Live) throws {
        try check(boot)
    }

    private func check(_ boot: Live) throws {
        let folder = try TemporaryFolder()
        let stress = try folder.compile("stress.c", "-O1 -static")
        // 32-bit, without a C library.
        let compat = try folder.compile("compat.c", "-m32 -O1 -static -nostdlib -fno-pic -no-pie -fno-stack-protector")
        let output = try Lab.boot(
            boot.ground, script: "live.sh",
            ["\(boot.cpus)", boot.append, boot.kernelIsLive ? "kernel-live" : "kernel-same"],
            files: ["stress": stress, "compat": compat].merging(try folder.tallyPagePrograms()) { $1 })
        let readings = output.matches(of: /0x4fffffff 0x00: (eax=.*)/).map { String($0.1) }
        #expect(readings.count == 3 && Set(readings).count == 3, "\(output)")
        #expect(output.contains("\n0 failed") && !output.contains("FAILED"), "\(output)")
        #expect(output.contains("status 0"), "\(output)")
        // It was what was asked for. KASLR might leave one of the two addresses where it is without it.
        let place = try #require(
            output.firstMatch(of: /pti ([01]), kernel at ([0-9a-f]+)-[0-9a-f]+, ([0-9a-f]+)/), "\(output)")
        #expect(place.1 == (boot.pti ? "1" : "0"))
        #expect((place.2 == "01000000" && place.3 == "ffffffff81000000") == !boot.kaslr, "\(output)")
        // The probe: exit status of CMD, one that is not there, its two formats, one vCPU's own total.
        #expect(output.contains("probe 7") && output.contains("probe killed 143"), "\(output)")
        #expect(output.contains("probe without a command 127"), "\(output)")
        #expect(output.contains("live, by the tally page; userspace exits (KVM_EXIT_*"), "\(output)")
        #expect(output.contains("live, by CPUID; userspace exits (KVM_EXIT_*"), "\(output)")
        try TallyPageLabTests.check(output, live: true)
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
