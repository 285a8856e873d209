// SPDX-License-Identifier: Apache-2.0
import BootRecords
import ExitStats
import Testing
@testable import Rendering
@testable import Reports

@Suite("tables on terminals")
struct TableTests {
    private static let table: TextTable = {
        var table = TextTable(header: ["name", "count", "p50", "p99"], expendable: ["p50", "p99", "absent"])
        table.add(["KVM_EXIT_IO", "1,234", "56", "789"])
        table.add(["total", "1,234"])
        return table
    }()

    @Test("columns go in the order that was given, then the first one is cut")
    func columns() {
        #expect(Self.table.lines() == Self.table.lines(width: 28))
        #expect(Self.table.lines().first == "name         count  p50  p99")
        #expect(Self.table.lines(width: 27).prefix(2) == ["name         count  p99", "KVM_EXIT_IO  1,234  789"])
        #expect(Self.table.lines(width: 27).last == "(left out: p50; a wider terminal has them)")
        #expect(
            Self.table.lines(width: 20).prefix(3) == ["name         count", "KVM_EXIT_IO  1,234", "total        1,234"])
        #expect(Self.table.lines(width: 16)[1] == "KVM_EXIT…  1,234")
    }

    @Test("no table of ours is wider than 80 columns, whatever the figures", arguments: [80, 100, 132])
    func fits(width: Int) throws {
        let huge = UInt64.max / 4
        let times = ExitCounts.Times(cycles: huge, range: 9...huge, halted: huge, userspace: huge)
        let counts = ExitCounts(
            source: .bpf, vocabulary: .svm,
            reasons: [0x72, 0x7B, 0x400].map { ExitCounts.Reason(code: $0, count: 123_456_789, times: times) })
        let lines = ExitCountsTable(counts, title: "VM exits", place: "kernel", tscKHz: 2_000_000).lines(width: width)
        // The last line names columns.
        #expect(lines.dropLast().allSatisfy { $0.count <= width }, "\(lines)")
        #expect(lines.contains { $0.hasPrefix("SVM_EXIT_NPF") && $0.contains("123,456,789") })
        let places = PlaceReport(
            .port,
            PlaceSnapshot([
                .init(
                    place: ExitPlace(0x3F8, code: 2, isWrite: true, size: 1), pair: TallyPair(count: huge, cycles: huge)
                )
            ]),
            top: 5, allExits: huge)
        #expect(places.lines(width: width).allSatisfy { $0.count <= width })
    }

    @Test(
        "cycles as nanoseconds",
        arguments: [
            (0, 2_000_000, 0), (1, 3_000_000, 0), (3, 3_000_000, 1), (21_632, 2_600_000, 8320), (2, 1_000_000, 2),
            (UInt64.max, 1, UInt64.max), (UInt64.max, 1_000_000, UInt64.max), (UInt64.max, .max, 4_294_967_297_000_000),
        ] as [(UInt64, UInt32, UInt64)])
    func time(cycles: UInt64, kHz: UInt32, expected: UInt64) {
        #expect(nanoseconds(cycles, kHz: kHz) == expected)
        #expect(nanoseconds(cycles, kHz: 0) == nil)
    }

    @Test(
        "comma-separated values that a spreadsheet reads as they are",
        arguments: [
            ("a", "a"), ("a,b", "\"a,b\""), ("a\"b", "\"a\"\"b\""), ("a\nb", "\"a\nb\""), ("=1+1", "'=1+1"),
            ("-5", "-5"),
            ("+1.5", "+1.5"), ("-a", "'-a"), ("@x", "'@x"), ("", ""),
        ])
    func values(text: String, expected: String) {
        #expect(CSV.line([text, "1"]) == expected + ",1")
    }

    @Test("sentences break at spaces, under the text that they go on with")
    func folding() {
        let line =
            "  yes      KVM_CAP_IRQCHIP  interrupt controllers in the kernel, without which each interrupt is an exit"
        let lines = folded([line, "short"], width: 60)
        #expect(lines.allSatisfy { $0.count <= 60 }, "\(lines)")
        #expect(lines.count == 4 && lines[3] == "short")
        #expect(
            lines[1].hasPrefix("                            without")
                || lines[1].hasPrefix("                            kernel"), "\(lines)")
        let words = lines.dropLast().joined(separator: " ").split(separator: " ")
        #expect(words == line.split(separator: " "))
        #expect(folded([String(repeating: "x", count: 200)], width: 80) == [String(repeating: "x", count: 200)])
    }
}
