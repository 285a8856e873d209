// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import ExitStats

@Suite("Tally by RIP")
struct RIPTallyTests {
    private func place(_ rip: UInt64, _ code: UInt32, _ count: UInt64, _ cycles: UInt64) -> RIPSnapshot.Place {
        .init(rip: rip, code: code, pair: TallyPair(count: count, cycles: cycles))
    }

    private func record(_ exits: [(rip: UInt64, code: UInt32, cycles: UInt64)], in tally: RIPTally) {
        let writer = tally.writer
        for exit in exits {
            writer.end(writer.begin(exit.rip, exit.code), cycles: exit.cycles)
        }
    }

    @Test("places and reasons are told apart, RIP 0 and reason 0 among them")
    func known() throws {
        let tally = try RIPTally()
        record([(0, 0, 1), (0, 0, 2), (0, 5, 3), (.max, 0, 4), (.max, .max, 5), (0, 0, 6)], in: tally)
        let snapshot = tally.snapshot()
        #expect(
            snapshot.places == [place(0, 0, 3, 9), place(0, 5, 1, 3), place(.max, 0, 1, 4), place(.max, .max, 1, 5)])
        #expect(snapshot.other == TallyPair())
        #expect(snapshot.total == TallyPair(count: 6, cycles: 21))
    }

    @Test("an exit under way is in the count, not in the cycles")
    func underWay() throws {
        let tally = try RIPTally()
        _ = tally.writer.begin(7, 2)
        #expect(tally.snapshot().places == [place(7, 2, 1, 0)])
    }

    @Test("more places than slots: what finds no room is counted, and nothing twice")
    func overflow() throws {
        let tally = try RIPTally()
        let places = UInt64(RIPTally.slotCount) * 2
        for _ in 0..<2 {
            record((0..<places).map { (0x1000 + $0 * 2, 2, 10) }, in: tally)
        }
        let snapshot = tally.snapshot()
        #expect(snapshot.total == TallyPair(count: places * 2, cycles: places * 20))
        #expect(snapshot.places.allSatisfy { $0.pair == TallyPair(count: 2, cycles: 20) })
        #expect(Set(snapshot.places.map(\.rip)).count == snapshot.places.count)
        #expect(snapshot.other.count == (places - UInt64(snapshot.places.count)) * 2)
        // The table is put to use before anything is turned away.
        #expect(snapshot.places.count > RIPTally.slotCount * 3 / 4)
    }

    @Test("the top and the rest are everything", arguments: [0, 1, 2, 3, 100])
    func top(count: Int) {
        let snapshot = RIPSnapshot(
            places: [place(1, 2, 5, 50), place(2, 2, 7, 10), place(3, 2, 5, 1)], other: TallyPair(count: 4, cycles: 9))
        let (places, rest) = snapshot.top(count)
        #expect(places.map(\.rip) == Array([2, 1, 3].prefix(count)))
        #expect(places.reduce(rest.count) { $0 + $1.pair.count } == 21)
        #expect(places.reduce(rest.cycles) { $0 + $1.pair.cycles } == 70)
    }

    @Test("vCPUs are merged place by place")
    func merge() {
        var snapshot = RIPSnapshot(places: [place(1, 2, 5, 50), place(2, 2, 7, 10)], other: TallyPair(count: 1))
        snapshot.merge(
            RIPSnapshot(places: [place(2, 2, 1, 5), place(2, 6, 1, 1), place(9, 9, 9, 9)], other: TallyPair(count: 2)))
        #expect(
            snapshot
                == RIPSnapshot(
                    places: [place(9, 9, 9, 9), place(2, 2, 8, 15), place(1, 2, 5, 50), place(2, 6, 1, 1)],
                    other: TallyPair(count: 3)))
    }
}
