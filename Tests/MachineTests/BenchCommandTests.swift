// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing
@testable import Bench
@testable import Machine

/// `vmtally bench` from outside.
@Suite(.ownThread, .enabled(if: CommandLineTool.missing == nil, "\(CommandLineTool.missing ?? "")"), .serialized)
struct BenchCommandTests {
    let folder: TemporaryFolder

    init() throws {
        folder = try TemporaryFolder()
    }

    private func bench(_ options: String) throws -> CommandLineTool.Outcome {
        try CommandLineTool.run("exec \"$VMTALLY\" bench \(options)", ["FOLDER": folder.path])
    }

    @Test func aRunIsRecordedReportedAndCompared() throws {
        let run = try bench(
            "--only pio-out --only mmio-read --seconds 0.3 --seed 7 --json --output $FOLDER/a.json --html $FOLDER/a.html"
        )
        #expect(run.status == 0, "\(run.error)")
        #expect(run.json?["schema"] as? String == "vmtally.bench/1")
        #expect((run.json?["method"] as? [String: Any])?["seed"] as? Int == 7)
        #expect(
            (run.json?["kinds"] as? [[String: Any]])?.compactMap { $0["name"] as? String } == ["pio-out", "mmio-read"])
        #expect(run.error.isEmpty, "no progress where standard error is no terminal")
        #expect(folder.text("a.json") == run.output)
        #expect(try #require(folder.text("a.html")).contains("id=\"mmio-read\""))

        let report = try bench("--from $FOLDER/a.json --baseline $FOLDER/a.json")
        #expect(report.status == 0, "\(report.error)")
        #expect(report.output.split(separator: "\n").contains { $0.hasPrefix("pio-out") && $0.hasSuffix("+0.0 %") })
    }

    @Test func theKindsAreListed() throws {
        let lines = try bench("--list").output.split(separator: "\n")
        #expect(lines.count == BenchKind.catalogue.count)
        #expect(zip(lines, BenchKind.catalogue).allSatisfy { $0.hasPrefix($1.name) && $0.hasSuffix($1.summary) })
    }

    @Test(arguments: [
        ("--only pio-out,no-such", Int32(64), "There is no kind 'no-such'"), ("--seconds 0", 64, "--seconds"),
        ("--only ''", 64, "There is no kind ''"), ("--only cpuid --only x", 64, "There is no kind 'x'"),
        ("--cpus 0", 64, "--cpus"), ("--irqchip split", 64, "--irqchip takes none or kernel"),
        ("--only pio-out --from x", 64, "leave out --only"), ("--from x --seconds 1", 64, "leave out --seconds"),
        ("--only pio-out --baseline /nonexistent", 1, "/nonexistent: "),
        ("--from /proc/cpuinfo", 1, "/proc/cpuinfo: "), ("--only pio-out --html /nonexistent/x", 1, "/nonexistent/x: "),
    ])
    func wrongUsageIsExplained(options: String, status: Int32, message: String) throws {
        let outcome = try bench(options)
        #expect(outcome.status == status)
        #expect(outcome.error.contains(message), "\(outcome.error)")
        #expect(outcome.output.isEmpty)
    }
}
