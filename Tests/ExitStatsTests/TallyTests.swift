// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

@testable import ExitStats

@Suite("Tally")
struct TallyTests {
    /// Records exits with known durations.
    private func record(_ exits: [(code: UInt32, cycles: UInt64)], in tally: Tally) {
        let writer = tally.writer
        for exit in exits {
            writer.end(writer.begin(exit.code), cycles: exit.cycles)
        }
    }

    @Test("count, sum, minimum, maximum and percentiles of known durations", arguments: [0, 2, 255, 256, 0x8000_0001])
    func known(code: UInt32) throws {
        let tally = try Tally()
        record((1...1000).map { (code, $0 * 10) }, in: tally)
        let reason = try #require(tally.snapshot()[code])
        let times = try #require(reason.times)
        #expect(reason.count == 1000 && times.ended == 1000)
        #expect(times.cycles == 5_005_000)
        #expect(times.range == 10...10_000)
        for (share, exact) in [(0, 10), (0.5, 5000), (0.9, 9000), (0.99, 9900), (1, 10_000)] as [(Double, Double)] {
            let found = Double(try #require(times.percentile(share)))
            #expect(abs(found - exact) <= exact * 0.02, "p\(share * 100): \(found) against \(exact)")
        }
        #expect(tally.total == TallyPair(count: 1000, cycles: 5_005_000))
        #expect(tally.pair(reason: code) == tally.total)
    }

    @Test("percentiles agree with a sorted list on random durations")
    func percentilesAgainstSorting() throws {
        for _ in 0..<20 {
            let durations = (0..<5000).map { _ in UInt64.random(in: 16...1 << 40) >> UInt64.random(in: 0..<36) }
            let tally = try Tally()
            record(durations.map { (2, $0) }, in: tally)
            let sorted = durations.sorted()
            let times = try #require(tally.snapshot()[2]?.times)
            for share in [0.5, 0.9, 0.99, 0.999] {
                let exact = Double(sorted[Int((share * 5000).rounded(.up)) - 1])
                #expect(abs(Double(times.percentile(share) ?? 0) - exact) <= max(1, exact * 0.02))
            }
        }
    }

    @Test("shares outside 0 to 1 are taken as 0 and 1", arguments: [-1, 2, .nan, .infinity] as [Double])
    func wildShares(share: Double) throws {
        let tally = try Tally()
        record([(2, 100), (2, 200)], in: tally)
        #expect([100, 200].contains(try #require(tally.snapshot()[2]?.times?.percentile(share))))
    }

    @Test("an exit under way is in the count, not in the cycles")
    func underWay() throws {
        let tally = try Tally()
        let slot = tally.writer.begin(7)
        #expect(tally.total == TallyPair(count: 1, cycles: 0))
        let reason = try #require(tally.snapshot()[7])
        #expect(reason.count == 1 && reason.times?.ended == 0)
        #expect(reason.times?.range == nil && reason.times?.percentile(0.5) == nil)
        tally.writer.end(slot, cycles: 500)
        #expect(tally.pair(reason: 7) == TallyPair(count: 1, cycles: 500))
    }

    @Test("codes beyond every slot are still counted")
    func moreCodesThanSlots() throws {
        let tally = try Tally()
        let codes = (0..<200).map { UInt32(1000 + $0) }
        record(codes.map { ($0, 10) }, in: tally)
        #expect(tally.total.count == 200)
        #expect(tally.snapshot().total == 200)
        #expect(tally.pair(reason: 1000).count == 1)
    }

    @Test("a reason that never happened costs no memory")
    func memory() throws {
        func residentPages() throws -> Int {
            let statm = try String(contentsOfFile: "/proc/self/statm", encoding: .utf8)
            return Int(statm.split(separator: " ")[1]) ?? 0
        }
        let before = try residentPages()
        let tallies = try (0..<64).map { _ in try Tally() }
        for tally in tallies {
            record([(2, 9700)], in: tally)
        }
        // Counters and one histogram page each, of 3 MiB reserved each; the tests beside this one touch some too.
        #expect(try residentPages() - before < 64 * 16)
        #expect(tallies.allSatisfy { $0.total.count == 1 })
    }

    @Test("a reader never sees counts or cycles go backwards, nor cycles without their count")
    func concurrentReader() async throws {
        let tally = try Tally()
        let rounds: UInt64 = 300_000
        let writing = Thread {
            for _ in 0..<rounds {
                tally.writer.end(tally.writer.begin(2), cycles: 7)
            }
        }
        writing.start()
        var last = TallyPair()
        while last.count < rounds {
            let now = tally.total
            #expect(now.count >= last.count && now.cycles >= last.cycles)
            #expect(now.cycles == now.count * 7 || now.cycles == (now.count - 1) * 7)
            last = now
        }
    }

    @Test("sums add vCPUs; difference gives back what was added")
    func mergeAndDifference() throws {
        let first = try Tally()
        let second = try Tally()
        record([(2, 100), (6, 50)], in: first)
        let before = first.snapshot()
        record([(2, 1000), (2, 3000)], in: first)
        record([(2, 10), (8, 20)], in: second)

        let merged = first.snapshot().adding(second.snapshot())
        #expect(merged.reasons.map(\.code) == [2, 6, 8])
        #expect(merged[2]?.count == 4 && merged[2]?.times?.range == 10...3000)
        #expect(merged.pair == TallyPair(count: 6, cycles: 4180))

        let difference = first.snapshot().difference(since: before)
        #expect(difference.reasons.map(\.code) == [2])
        let reason = try #require(difference[2])
        let times = try #require(reason.times)
        #expect(reason.count == 2 && times.cycles == 4000 && times.range?.upperBound == 3000)
        #expect((960...1000).contains(try #require(times.range).lowerBound))
    }
}
