// SPDX-License-Identifier: Apache-2.0
import SeededRandom

extension SplitMix64 {
    /// A number below `bound`, which is small: the bias is less than 2^-32.
    @inline(__always)
    mutating func index(below bound: Int) -> Int {
        Int(truncatingIfNeeded: ((next() >> 32) &* UInt64(truncatingIfNeeded: bound)) >> 32)
    }
}

/// Medians, and whether two samples differ.
public enum Statistics {
    /// The middle value, or the mean of the two in the middle; NaN without values.
    public static func median(_ values: [Double]) -> Double {
        var sorted = values
        sorted.sort()
        return median(sorted: sorted)
    }

    private static func median(sorted: [Double]) -> Double {
        guard !sorted.isEmpty else { return .nan }
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }

    /// The difference of the medians, `second` less `first`, and an interval that covers it with the given probability:
    /// percentile bootstrap.
    public static func difference(
        _ first: [Double], _ second: [Double], confidence: Double = 0.95, resamples: Int = 5000,
        using generator: inout SplitMix64
    ) -> (value: Double, interval: ClosedRange<Double>) {
        guard !first.isEmpty, !second.isEmpty else { return (.nan, 0...0) }
        let value = median(second) - median(first)
        var differences: [Double] = []
        differences.reserveCapacity(resamples)
        var drawnFirst = first
        var drawnSecond = second
        for _ in 0..<resamples {
            resample(first, into: &drawnFirst, using: &generator)
            resample(second, into: &drawnSecond, using: &generator)
            differences.append(median(sorted: drawnSecond) - median(sorted: drawnFirst))
        }
        differences.sort()
        let tail = (1 - confidence) / 2
        let lowest = Int(tail * Double(resamples))
        return (value, differences[lowest]...differences[resamples - 1 - lowest])
    }

    /// As many values as there are, drawn with replacement, sorted.
    private static func resample(
        _ values: [Double], into drawn: inout [Double], using generator: inout SplitMix64
    ) {
        for index in drawn.indices {
            drawn[index] = values[generator.index(below: values.count)]
        }
        drawn.sort()
    }

    /// Which of several quantities differ between two groups of runs.
    ///
    /// A permutation test on rank sums, with the largest of all quantities' statistics in each permutation as the yardstick
    /// for each of them (Westfall and Young 1993, single-step maxT): a result below `p` happens by chance, for any of the
    /// quantities together, in at most a share `p` of comparisons between equals, however they hang together. All
    /// divisions of the runs are tried when there are few, else as many at random as `permutations` says.
    ///
    /// - Parameter pairs: both groups' values of each quantity; as many in each as in the others' groups.
    /// - Returns: p for each quantity, corrected for their number.
    public static func differing(
        _ pairs: [(first: [Double], second: [Double])], permutations: Int = 20_000,
        using generator: inout SplitMix64
    ) -> [Double] {
        guard let sizes = pairs.first.map({ ($0.first.count, $0.second.count) }), sizes.0 > 0, sizes.1 > 0 else {
            return pairs.map { _ in 1 }
        }
        let count = sizes.0 + sizes.1
        // A row of standardized ranks for each quantity that varies: its statistic is the sum over one group.
        var rows: [(quantity: Int, ranks: [Double])] = []
        for (index, pair) in pairs.enumerated() where pair.first.count == sizes.0 && pair.second.count == sizes.1 {
            if let ranks = standardizedRanks(pair.first + pair.second) {
                rows.append((index, ranks))
            }
        }
        let table = rows.flatMap { $0.ranks }
        let observed = rows.map { abs($0.ranks.prefix(sizes.0).reduce(0, +)) - 1e-9 }
        var exceeding = [Int](repeating: 0, count: rows.count)
        var tried = 0
        func attempt(_ members: [Int]) {
            var largest = 0.0
            table.withUnsafeBufferPointer { table in
                for row in 0..<rows.count {
                    var sum = 0.0
                    for member in members { sum += table[row &* count &+ member] }
                    largest = max(largest, abs(sum))
                }
            }
            for row in observed.indices where largest >= observed[row] { exceeding[row] += 1 }
            tried += 1
        }
        if divisions(count, sizes.0) <= permutations {
            forEachDivision(count, sizes.0, attempt)
        } else {
            attempt(Array(0..<sizes.0))
            var order = Array(0..<count)
            for _ in 1..<permutations {
                for index in 0..<sizes.0 {
                    order.swapAt(index, index + generator.index(below: count - index))
                }
                attempt(Array(order.prefix(sizes.0)))
            }
        }
        var results = pairs.map { _ in 1.0 }
        for (row, exceeding) in zip(rows, exceeding) {
            results[row.quantity] = Double(exceeding) / Double(tried)
        }
        return results
    }

    /// Ranks, ties shared, less their mean, in units of their standard deviation; nil when all values are the same.
    private static func standardizedRanks(_ values: [Double]) -> [Double]? {
        let order = values.indices.sorted { values[$0] < values[$1] }
        var ranks = [Double](repeating: 0, count: values.count)
        var start = 0
        while start < order.count {
            var end = start
            while end + 1 < order.count, values[order[end + 1]] == values[order[start]] { end += 1 }
            for index in start...end {
                ranks[order[index]] = Double(start + end) / 2
            }
            start = end + 1
        }
        let mean = Double(values.count - 1) / 2
        let squares = ranks.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
        guard squares > 0 else { return nil }
        let scale = squares.squareRoot()
        return ranks.map { ($0 - mean) / scale }
    }

    /// How many ways there are to take `size` of `count`; `Int.max` when they are more than anyone would try.
    public static func divisions(_ count: Int, _ size: Int) -> Int {
        let size = min(size, count - size)
        guard size > 0 else { return 1 }
        var ways = 1
        for step in 1...size {
            let (product, overflow) = ways.multipliedReportingOverflow(by: count - size + step)
            guard !overflow else { return .max }
            ways = product / step
        }
        return ways
    }

    private static func forEachDivision(_ count: Int, _ size: Int, _ body: ([Int]) -> Void) {
        var members = Array(0..<size)
        while true {
            body(members)
            // The last member that can still move up does, and those behind it follow at once.
            guard let last = (0..<size).last(where: { members[$0] < count - size + $0 }) else { return }
            members[last] += 1
            for index in members.indices.dropFirst(last + 1) {
                members[index] = members[index - 1] + 1
            }
        }
    }
}
