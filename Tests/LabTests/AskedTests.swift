// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

/// What people asked for, with Linux guests on kvm-amd.
@Suite("Asked for, in the lab", .ownThread, .serialized, .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"))
struct AskedTests {
    private static let output = Result { try Lab.boot("svm", script: "asked.sh", [], kernel: "6.12") }

    private static func section(_ name: String) throws -> String {
        let output = try output.get()
        let start = try #require(output.range(of: "=== \(name)\n"), "\(output)")
        let rest = output[start.upperBound...]
        return String(rest[..<(rest.range(of: "\n=== ")?.lowerBound ?? rest.endIndex)])
    }

    @Test("--prefault: KVM maps RAM before the start, and the guest's first touches of it are gone")
    func prefault() throws {
        let output = try Self.output.get()
        let faults = output.matches(of: /"SVM_EXIT_NPF":([0-9]+)/).compactMap { Int($0.1) }
        try #require(faults.count == 2, "\(output)")
        // What is left is devices: I/O APIC, virtio, local APIC.
        #expect(faults[1] < faults[0] - 30, "\(output)")
        #expect(output.contains("prefault\""), "\(output)")
    }

    @Test("run --by tells every port, and a status of 124 that is the guest's own from one of --timeout")
    func places() throws {
        let text = try Self.section("places")
        #expect(text.contains("\nstatus 124\n"), "\(text)")
        // The guest sees what KVM tells of itself.
        #expect(text.contains("KVMKVMKVM") && text.contains(/yes  KVM_FEATURE_CLOCKSOURCE2/), "\(text)")
        let line = try #require(text.split(separator: "\n").last { $0.hasPrefix("{") }, "\(text)")
        let run = try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
        let status = try #require(run["status"] as? [String: Any])
        #expect(status["reason"] as? String == "power-off" && status["code"] as? Int == 124)
        #expect((run["vm"] as? [String: Any])?["prefault"] as? String == "mapped")
        let exits = try #require(run["exits"] as? [String: Any])
        func sum(_ key: String) throws -> Int {
            let places = try #require(exits[key] as? [[String: Any]])
            let others = try #require(exits[key + "_others"] as? [String: Any])
            return places.reduce(others["count"] as? Int ?? 0) { $0 + ($1["count"] as? Int ?? 0) }
        }
        let reasons = try #require(exits["by_reason"] as? [[String: Any]])
        func count(_ name: String) -> Int { reasons.first { $0["name"] as? String == name }?["count"] as? Int ?? 0 }
        #expect(try sum("by_port") == count("KVM_EXIT_IO"))
        #expect(try sum("by_address") == count("KVM_EXIT_MMIO"))
        #expect(try sum("by_msr") == count("KVM_EXIT_X86_RDMSR") + count("KVM_EXIT_X86_WRMSR"))
        let ports = try #require(exits["by_port"] as? [[String: Any]])
        #expect(ports.contains { $0["port"] as? Int == 0x3F8 && $0["device"] as? String == "COM1" }, "\(ports)")
    }

    @Test("docs/one-program.md: its line for hosts that cannot boot Linux, typed as it stands")
    func oneProgram() throws {
        let page = try String(contentsOfFile: Lab.path("docs/one-program.md"), encoding: .utf8)
        let line = try #require(page.split(separator: "\n").first { $0.hasPrefix("    Lab/run svm ") })
        let run = try Lab.run("/bin/bash", ["-c", "cd '\(Lab.path(""))' && \(line)"])
        #expect(run.status == 0, "\(run.output)")
        #expect(run.output.contains("live, by the tally page; userspace exits"), "\(run.output)")
        #expect(run.output.contains(/\nKVM_EXIT_IO +[0-9]/), "\(run.output)")
        #expect(run.output.contains("guest: exit status 0"), "\(run.output)")
    }

    /// Lines of README and docs that boot Linux on the host that they are typed on.
    private static let lines: [String] = {
        let pages = ["README.md", "docs/guests.md", "docs/one-program.md"]
        return pages.flatMap { page in
            ((try? String(contentsOfFile: Lab.path(page), encoding: .utf8)) ?? "").split(separator: "\n")
                .map { $0.drop { $0 == " " || $0 == "$" } }
                .filter {
                    $0.hasPrefix("build/vmtally run --") && !$0.contains("--guest") && !$0.contains("--multiboot")
                }
                .map(String.init)
        }
    }()

    @Test("the lines of the pages that boot Linux, typed as they stand")
    func lines() throws {
        #expect(Self.lines.count >= 4, "\(Self.lines)")
        let folder = try TemporaryFolder()
        let file = try folder.file("lines", Data((Self.lines.joined(separator: "\n") + "\n").utf8))
        let output = try Lab.boot("svm", script: "typed.sh", [], files: ["lines": file])
        #expect(output.matches(of: /\nend: power-off, status 0\n/).count == Self.lines.count, "\(output)")
        #expect(output.matches(of: /\nstatus 0\n/).count == Self.lines.count, "\(output)")
    }
}
