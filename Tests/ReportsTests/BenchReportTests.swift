// SPDX-License-Identifier: Apache-2.0
import BootRecords
import Foundation
import Reports
import Testing

/// A bench run as JSON, as a table, as a page, and beside an earlier one.
@Suite struct BenchReportTests {
    /// One kind measured, one that the host lacks. Every key of the schema is here.
    private static func json(
        schema: String = "vmtally.bench/1", p50: Int = 21_632, low: Int = 21_500, high: Int = 21_700,
        counted: Int = 130, cpu: String = "A <CPU> & more", backend: String = "kvm_x", blocks: Int = 12
    ) -> String {
        """
        {"exact":\(counted == 130),"host":{"backend":"\(backend)","cpu":"\(cpu)","kernel":"6.1","tsc_khz":2600000},"kinds":[\
        {"group":"ports","measured":{"blocks":\(blocks),"cycles":{"max":900000,"mean":23000,"min":20000,"p50":\(p50),\
        "p50_high":\(high),"p50_low":\(low),"p90":\(max(22_000, p50)),"p99":\(max(25_000, p50)),"p999":900000},"distribution":[\
        {"from":20000,"n":40,"to":20099},{"from":21600,"n":59,"to":21699},{"from":884736,"n":1,"to":917503}],\
        "exact":\(counted == 130),"exits":[{"code":2,"counted":\(counted),"expected":130,"name":"KVM_EXIT_IO",\
        "vocabulary":"kvm"}],"iterations":130,"n":100,"outliers":1,"parts":{"kernel":9000,"rest":12423,\
        "userspace":209},"vm_exits":133},"name":"pio-out","summary":"OUT of a byte","vm":"plain"},\
        {"group":"cpuid","name":"live-fault","summary":"by <faulting>","unavailable":"CPUID & co. do not fault",\
        "vm":"fault"}],"method":{"cpus":2,"overhead":1612,"pinned":[1,0],"seed":42,"taken":"2026-11-21T14:00:00Z",\
        "wall_ns":20000000000},"schema":"\(schema)","tool":{"name":"vmtally","version":"0.1.0"}}
        """
    }

    private static func document(_ json: String) throws -> BenchDocument {
        try BenchDocument(json: Array(json.utf8))
    }

    @Test func theSchemaIsStable() throws {
        let text = Self.json()
        #expect(try Self.document(text).json() == text)
    }

    @Test(arguments: ["", "{}", "[1]", Self.json(schema: "vmtally.bench/2"), String(Self.json().dropLast(20))])
    func whatIsNoDocumentIsRefused(text: String) {
        #expect(throws: BenchDocumentError.self) { try Self.document(text) }
    }

    @Test func theTableHasEveryKind() throws {
        let lines = BenchTable(try Self.document(Self.json())).lines()
        #expect(lines.contains { $0.hasPrefix("pio-out") && $0.contains("21,632") && $0.hasSuffix(" 1.02   exact") })
        // 2.6 GHz: 21,632 cycles are 8,320 ns.
        #expect(lines.contains { $0.hasPrefix("pio-out") && $0.contains(" 8,320 ") })
        #expect(BenchTable(try Self.document(Self.json())).csv.text.contains("\npio-out,100,20000,21632,"))
        #expect(lines.contains { $0.contains("live-fault") && $0.hasSuffix("CPUID & co. do not fault") })
        let wrong = BenchTable(try Self.document(Self.json(counted: 129))).lines()
        #expect(wrong.contains { $0.hasSuffix("WRONG: KVM_EXIT_IO 129 for 130") })
    }

    @Test(arguments: [
        (30_000, 29_900, 30_100, "+38.7 % *"), (21_700, 21_600, 21_800, "+0.3 %"), (20_000, 19_900, 20_100, "-7.5 % *"),
    ])
    func aChangeIsToldFromChance(p50: Int, low: Int, high: Int, expected: String) throws {
        let now = try Self.document(Self.json(p50: p50, low: low, high: high))
        let comparison = BenchComparison(now, to: try Self.document(Self.json(cpu: "before")))
        #expect(comparison["pio-out"]?.isSignificant == expected.hasSuffix("*"))
        #expect(comparison["live-fault"] == nil)
        let lines = BenchTable(now, comparison: comparison).lines()
        #expect(lines.contains { $0.hasSuffix("21,632  \(expected)") }, "\(lines)")
        #expect(lines.contains { $0.hasPrefix("baseline: before") })
        #expect(BenchPage(now, comparison: comparison).html().contains(expected))
    }

    @Test(
        arguments: [
            (Self.json(p50: 30_000, low: 29_900, high: 30_100), 0.05, RegressionGate.Verdict.regression),
            (Self.json(p50: 30_000, low: 29_900, high: 30_100), 0.50, .passed), (Self.json(), 0, .passed),
            (Self.json(blocks: 5), 0.05, .notJudged), (Self.json(backend: "kvm_y"), 0.05, .notJudged),
            (Self.json().replacing("\"pio-out\"", with: "\"another\""), 0.05, .notJudged),
        ])
    func aGateSaysWhatItCouldNotSee(now: String, limit: Double, verdict: RegressionGate.Verdict) throws {
        let comparison = BenchComparison(try Self.document(now), to: try Self.document(Self.json()))
        #expect(comparison.gate(above: limit).verdict == verdict)
    }

    @Test func thePageIsWellFormedAndEscaped() throws {
        let html = BenchPage(try Self.document(Self.json())).html()
        let names = try WellFormed.elements(html)
        #expect(names.isSuperset(of: ["svg", "table", "figure"]) && names.isDisjoint(with: ["script", "img", "link"]))
        #expect(html.contains("A &lt;CPU&gt; &amp; more") && !html.contains("<CPU>"))
        #expect(html.contains("CPUID &amp; co. do not fault"))
        #expect(html.contains("Every count is exact"))
        let wrong = BenchPage(try Self.document(Self.json(counted: 1))).html()
        #expect(wrong.contains("1 kinds have a wrong count") && !wrong.contains("Every count is exact"))
    }

    @Test func aPageOfNothingIsAPage() throws {
        let text = Self.json().replacing(/"kinds":\[.*\],"method"/, with: "\"kinds\":[],\"method\"")
        _ = try WellFormed.elements(BenchPage(try Self.document(text)).html())
        #expect(!BenchTable(try Self.document(text)).lines().isEmpty)
    }
}
