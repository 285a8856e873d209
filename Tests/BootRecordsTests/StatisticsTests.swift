// SPDX-License-Identifier: Apache-2.0
import SeededRandom
import Testing
@testable import BootRecords

struct StatisticsTests {
    /// Numbers that others have computed from the same seed (the reference code's, by Vigna).
    @Test func generator() {
        var generator = SplitMix64(seed: 1_234_567)
        #expect(generator.next() == 6_457_827_717_110_365_317)
        #expect(generator.next() == 3_203_168_211_198_807_973)
        #expect(generator.next() == 9_817_491_932_198_370_423)
    }

    @Test(
        arguments: [([], .nan), ([3], 3), ([1, 9], 5), ([9, 1, 2], 2), ([4, 1, 3, 2], 2.5)] as [([Double], Double)])
    func median(values: [Double], middle: Double) {
        let median = Statistics.median(values)
        #expect(median == middle || median.isNaN && middle.isNaN)
    }

    @Test(arguments: [(4, 2, 6), (20, 10, 184_756), (5, 0, 1), (5, 5, 1), (200, 100, Int.max)])
    func divisions(count: Int, size: Int, ways: Int) {
        #expect(Statistics.divisions(count, size) == ways)
    }

    /// The 95 % interval holds the true difference of the medians in about 95 of 100 samples.
    @Test(arguments: [8, 10, 25])
    func bootstrapCovers(count: Int) {
        var generator = SplitMix64(seed: 7)
        let samples = 200
        let covered = (0..<samples).count { _ in
            let first = (0..<count).map { _ in Double.random(in: 0..<100, using: &generator) }
            let second = (0..<count).map { _ in 30 + Double.random(in: 0..<100, using: &generator) }
            let (_, interval) = Statistics.difference(first, second, resamples: 200, using: &generator)
            return interval.contains(30)
        }
        let share = Double(covered) / Double(samples)
        #expect((0.90...0.995).contains(share), "\(share)")
    }

    @Test func bootstrapOfWhatNeverVaries() {
        var generator = SplitMix64(seed: 1)
        let (value, interval) = Statistics.difference([5, 5, 5], [7, 7, 7], using: &generator)
        #expect(value == 2 && interval == 2...2)
    }

    @Test func sameSeedSameInterval() {
        let values = [1, 5, 3, 8, 2, 9, 4.0]
        func interval(_ seed: UInt64) -> ClosedRange<Double> {
            var generator = SplitMix64(seed: seed)
            return Statistics.difference(values, values.map { $0 * 2 }, resamples: 50, using: &generator).interval
        }
        #expect(interval(3) == interval(3))
    }

    /// The exact p of two groups that do not overlap: both ways of the one division, of all divisions.
    @Test(arguments: [(3, 20), (5, 252), (8, 12870)])
    func separatedGroups(count: Int, divisions: Int) {
        var generator = SplitMix64(seed: 1)
        let first = (0..<count).map(Double.init)
        let p = Statistics.differing([(first, first.map { $0 + 100 })], using: &generator)
        #expect(p == [2 / Double(divisions)])
    }

    @Test func whatNeverVariesDoesNotDiffer() {
        var generator = SplitMix64(seed: 1)
        let same = [Double](repeating: 4, count: 10)
        #expect(Statistics.differing([(same, same), ([], []), (same, [1])], using: &generator) == [1, 1, 1])
        #expect(Statistics.differing([], using: &generator).isEmpty)
    }

    /// Twelve quantities of equals: the smallest p is below 0.05 in about one sample of twenty, not in one of two.
    @Test func chanceIsHeldDownForAllTogether() {
        var generator = SplitMix64(seed: 11)
        let samples = 200
        let alarms = (0..<samples).count { _ in
            let pairs = (0..<12).map { _ in
                (
                    (0..<8).map { _ in Double(Int.random(in: 0..<20, using: &generator)) },
                    (0..<8).map { _ in Double(Int.random(in: 0..<20, using: &generator)) }
                )
            }
            return Statistics.differing(pairs, permutations: 200, using: &generator).contains { $0 <= 0.05 }
        }
        #expect((2...20).contains(alarms), "\(alarms) of \(samples)")
    }
}
