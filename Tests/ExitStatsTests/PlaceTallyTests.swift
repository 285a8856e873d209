// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import ExitStats

@Suite("Tally by place")
struct PlaceTallyTests {
    private func place(_ rip: UInt64, _ code: UInt32, _ count: UInt64, _ cycles: UInt64) -> PlaceSnapshot.Count {
        .init(place: ExitPlace(rip, code: code), pair: TallyPair(count: count, cycles: cycles))
    }

    private func record(_ exits: [(rip: UInt64, code: UInt32, cycles: UInt64)], in tally: PlaceTally) {
        let writer = tally.writer
        for exit in exits {
            writer.begin(ExitPlace(exit.rip, code: exit.code)).end(cycles: exit.cycles)
        }
    }

    @Test("places and reasons are told apart, RIP 0 and reason 0 among them")
    func known() throws {
        let tally = try PlaceTally()
        record([(0, 0, 1), (0, 0, 2), (0, 5, 3), (.max, 0, 4), (.max, .max, 5), (0, 0, 6)], in: tally)
        let snapshot = tally.snapshot()
        #expect(
            snapshot.counts == [place(0, 0, 3, 9), place(0, 5, 1, 3), place(.max, 0, 1, 4), place(.max, .max, 1, 5)])
        #expect(snapshot.withoutRoom == TallyPair())
        #expect(snapshot.total == TallyPair(count: 6, cycles: 21))
    }

    @Test("an exit under way is in the count, not in the cycles")
    func underWay() throws {
        let tally = try PlaceTally()
        _ = tally.writer.begin(ExitPlace(7, code: 2))
        #expect(tally.snapshot().counts == [place(7, 2, 1, 0)])
    }

    @Test("more places than slots: what finds no room is counted, and nothing twice")
    func overflow() throws {
        let tally = try PlaceTally()
        let places = UInt64(PlaceTally.slotCount) * 2
        for _ in 0..<2 {
            record((0..<places).map { (0x1000 + $0 * 2, 2, 10) }, in: tally)
        }
        let snapshot = tally.snapshot()
        #expect(snapshot.total == TallyPair(count: places * 2, cycles: places * 20))
        #expect(snapshot.counts.allSatisfy { $0.pair == TallyPair(count: 2, cycles: 20) })
        #expect(Set(snapshot.counts.map(\.place.value)).count == snapshot.counts.count)
        #expect(snapshot.withoutRoom.count == (places - UInt64(snapshot.counts.count)) * 2)
        // The table is put to use before anything is turned away.
        #expect(snapshot.counts.count > PlaceTally.slotCount * 3 / 4)
    }

    @Test("the top and the rest are everything", arguments: [0, 1, 2, 3, 100])
    func top(count: Int) {
        let snapshot = PlaceSnapshot(
            [place(1, 2, 5, 50), place(2, 2, 7, 10), place(3, 2, 5, 1)], withoutRoom: TallyPair(count: 4, cycles: 9))
        let (places, rest) = snapshot.top(count)
        #expect(places.map(\.place.value) == Array([2, 1, 3].prefix(count)))
        #expect(places.reduce(rest.count) { $0 + $1.pair.count } == 21)
        #expect(places.reduce(rest.cycles) { $0 + $1.pair.cycles } == 70)
    }

    @Test("vCPUs are merged place by place")
    func merge() {
        var snapshot = PlaceSnapshot([place(1, 2, 5, 50), place(2, 2, 7, 10)], withoutRoom: TallyPair(count: 1))
        snapshot.merge(
            PlaceSnapshot([place(2, 2, 1, 5), place(2, 6, 1, 1), place(9, 9, 9, 9)], withoutRoom: TallyPair(count: 2)))
        #expect(
            snapshot
                == PlaceSnapshot(
                    [place(9, 9, 9, 9), place(2, 2, 8, 15), place(1, 2, 5, 50), place(2, 6, 1, 1)],
                    withoutRoom: TallyPair(count: 3)))
    }

    @Test("direction and size tell places apart, and come back", arguments: [0, 0x3F8, UInt64.max])
    func accesses(value: UInt64) throws {
        let tally = try PlaceTally()
        let places = [
            ExitPlace(value, code: 2, isWrite: false, size: 1), ExitPlace(value, code: 2, isWrite: true, size: 1),
            ExitPlace(value, code: 2, isWrite: true, size: 255), ExitPlace(value, code: .max, isWrite: true, size: 8),
            ExitPlace(value, code: 2),
        ]
        for (index, place) in places.enumerated() {
            for _ in 0...index { tally.writer.begin(place).end(cycles: 3) }
        }
        let counts = tally.snapshot().counts
        #expect(counts.map(\.place) == places.reversed())
        #expect(counts.map(\.pair) == (1...5).reversed().map { TallyPair(count: $0, cycles: 3 * $0) })
        #expect(counts.map(\.place.size) == [0, 8, 255, 1, 1])
        #expect(counts.map(\.place.isWrite) == [false, true, true, true, false])
        #expect(counts.map(\.place.code) == [2, .max, 2, 2, 2])
    }

    @Test("an exit without a place costs nothing to end")
    func none() {
        PlaceTallyWriter.Slot.none.end(cycles: 1)
    }
}
