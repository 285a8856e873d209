// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Testing

@testable import HostView

struct TraceHistogramTests {
    /// As Linux 6.1 prints two histograms of one event.
    static let text = """
        # event histogram
        #
        # trigger info: hist:keys=exit_reason,common_timestamp.buckets=1000000:vals=hitcount:sort=hitcount:size=32768:clock=mono [active]
        #

        { exit_reason:         96, common_timestamp: ~ 2550000000-2550999999 } hitcount:          1
        { exit_reason:       1024, common_timestamp: ~ 2410000000-2410999999 } hitcount:         12

        Totals:
            Hits: 13
            Entries: 2
            Dropped: 7

        # event histogram
        #
        # trigger info: hist:keys=guest_rip:vals=hitcount:sort=hitcount:size=16384:clock=mono [paused]
        #

        { guest_rip: 18446744071579009048 } hitcount:          3
        { guest_rip: 0x1000200 } hitcount:          4

        Totals:
            Hits: 7
            Entries: 2
            Dropped: 0

        """

    @Test func twoOfOneEvent() {
        let histograms = TraceHistogram.parse(Self.text)
        #expect(
            histograms == [
                TraceHistogram(
                    keys: ["exit_reason", "common_timestamp"],
                    entries: [
                        .init(keys: [96, 2_550_000_000], count: 1), .init(keys: [1024, 2_410_000_000], count: 12),
                    ],
                    dropped: 7),
                TraceHistogram(
                    keys: ["guest_rip"],
                    entries: [
                        .init(keys: [18_446_744_071_579_009_048], count: 3), .init(keys: [0x100_0200], count: 4),
                    ],
                    dropped: 0),
            ])
    }

    @Test(arguments: ["", "{", "{ a: } hitcount: x\nDropped: 1", "# trigger info: hist:\nDropped:", "}{}{"])
    func damaged(text: String) {
        #expect(TraceHistogram.parse(text).allSatisfy { $0.entries.isEmpty })
    }

    @Test(
        arguments: [
            ("           vcpu0-121     [000] .....     6.234261: kvm_pio: pio_write at 0xf5 size 1", 6_234_261_000),
            (" a b-1 [001] d..1. 12345.000001: kvm_pio: x", 12_345_000_001_000),
            (" vcpu0-121 [000] d..1. 3.911828: kvm_entry: vcpu 0, rip 0x1000200", nil),
            ("kvm_pio:", nil), ("3.9: kvm_pio:", nil), ("", nil),
        ] as [(String, UInt64?)])
    func times(line: String, time: UInt64?) {
        #expect(BootTrace.time(of: "kvm_pio", in: line[...]) == time)
    }

    @Test(
        "the tracepoint itself tells the vocabulary, or that there is none",
        arguments: [(1, .vmx), (2, .svm), (3, nil)] as [(Int, TallyFeatures.Vocabulary?)])
    func vocabulary(isa: Int, vocabulary: TallyFeatures.Vocabulary?) throws {
        let exits = TracedExits(
            .vmExitTracepoint,
            TraceHistogram.parse(
                """
                # trigger info: hist:keys=exit_reason,isa:vals=hitcount
                { exit_reason:         12, isa:          \(isa) } hitcount:          5
                { exit_reason:         30, isa:          \(isa) } hitcount:          2
                    Dropped: 0
                # trigger info: hist:keys=exit_reason,common_timestamp.buckets=1000000:vals=hitcount
                { exit_reason:         12, common_timestamp: ~ 2550000000-2550999999 } hitcount:          5
                    Dropped: 7
                """))
        #expect(exits.counts.vocabulary == vocabulary && exits.counts.total == 7)
        #expect(exits.counts[12]?.count == (vocabulary == nil ? nil : 5))
        #expect(exits.series.map(\.time) == [2_550_000_000] && exits.droppedFromSeries == 7)
    }
}
