// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

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

    /// The guest of Scripts/storm.S.
    private static func storm(_ folder: borrowing TemporaryFolder, cpuids: Int, outs: Int) throws -> String {
        let path = folder.path + "/storm"
        let build = try Lab.run(
            "/usr/bin/gcc",
            [
                "-nostdlib", "-static", "-no-pie", "-DCPUIDS=\(cpuids)", "-DOUTS=\(outs)", "-Wl,-Ttext=0x100000",
                "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096",
                Lab.path("Tests/LabTests/Scripts/storm.S"), "-o", path,
            ])
        try #require(build.status == 0, "\(build.output)")
        return path
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
        let storm = try Self.storm(folder, cpuids: 3000, outs: 2000)
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

    private static let noTracing: String? =
        geteuid() == 0 && access("/dev/kvm", R_OK | W_OK) == 0 ? Lab.missing : "needs root and /dev/kvm"

    @Test(
        "here: userspace exits by reason are our own VMM's, and compare reads the recording",
        .enabled(if: noTracing == nil, "\(noTracing ?? "")"))
    func here() throws {
        let folder = try TemporaryFolder()
        let storm = try Self.storm(folder, cpuids: 10, outs: 20_000)
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
}
