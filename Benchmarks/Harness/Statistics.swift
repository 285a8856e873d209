// SPDX-License-Identifier: Apache-2.0
import Rendering

/// A series of measurements, described by what outliers do not move.
struct Series {
    let sorted: [Double]

    init(_ values: [Double]) {
        sorted = values.sorted()
    }

    var median: Double { quantile(0.5) }

    /// Interpolated between neighbours.
    func quantile(_ share: Double) -> Double {
        guard let last = sorted.indices.last else { return .nan }
        let position = share * Double(last)
        let lower = Int(position)
        let upper = min(lower + 1, last)
        return sorted[lower] + (sorted[upper] - sorted[lower]) * (position - Double(lower))
    }

    /// An interval that covers the median of what was sampled with at least 95 % probability, whatever its
    /// distribution: the order statistics k and n + 1 - k, where less than k of n values lie below the median with at
    /// most 2.5 %. With fewer than 6 values there is none: all of them.
    var medianInterval: ClosedRange<Double> {
        let count = sorted.count
        guard count > 0 else { return 0...0 }
        var tail = 0.0
        var term = 1.0
        for _ in 0..<count {
            term /= 2
        }
        var rank = 0
        while rank < count / 2, tail + term <= 0.025 {
            tail += term
            term *= Double(count - rank) / Double(rank + 1)
            rank += 1
        }
        let lower = max(0, rank - 1)
        return sorted[lower]...sorted[count - 1 - lower]
    }
}

/// One figure with its spread, as it is printed and recorded.
struct Figure: Encodable {
    let name: String
    let unit: String
    let median: Double
    /// 95 % interval of the median.
    let low: Double
    let high: Double
    let quartiles: [Double]
    let samples: Int
    /// Of a ratio: the medians' ratio, beside the ratios' median.
    let ratioOfMedians: Double?
    /// What the figure must not exceed.
    let target: Double?

    enum CodingKeys: String, CodingKey {
        case name, unit, median, low, high, quartiles, samples, target
        case ratioOfMedians = "ratio_of_medians"
    }

    init(_ name: String, unit: String, _ values: [Double], ratioOfMedians: Double? = nil, target: Double? = nil) {
        let series = Series(values)
        let interval = series.medianInterval
        self.name = name
        self.unit = unit
        self.ratioOfMedians = ratioOfMedians
        self.target = target
        median = series.median
        low = interval.lowerBound
        high = interval.upperBound
        quartiles = [series.quantile(0.25), series.quantile(0.75)]
        samples = values.count
    }

    /// Noise widens the interval; only what is above the target with 95 % certainty fails.
    var fails: Bool {
        guard let target else { return false }
        return low > target
    }

    var verdict: String {
        guard let target else { return "" }
        let limit = "target <= \(format(target))"
        return median <= target ? limit : fails ? "\(limit): MISSED" : "\(limit): not shown"
    }

    /// Three or four digits that mean something.
    func format(_ value: Double) -> String {
        let digits = unit == "ratio" ? 4 : abs(value) < 10 ? 2 : abs(value) < 1000 ? 1 : 0
        return fixed(value, digits)
    }

    var cells: [String] {
        [
            name, format(median), "\(format(low)) to \(format(high))", unit, String(samples),
            ratioOfMedians.map(format) ?? "", verdict,
        ]
    }
}

/// Rounds to a number of decimals.
func fixed(_ value: Double, _ digits: Int) -> String {
    guard value.isFinite else { return "\(value)" }
    let scale = (0..<digits).reduce(1.0) { scale, _ in scale * 10 }
    let rounded = Int64((abs(value) * scale).rounded())
    let (whole, rest) = rounded.quotientAndRemainder(dividingBy: Int64(scale))
    let fraction = String(rest)
    let zeros = String(repeating: "0", count: max(0, digits - fraction.count))
    return (value < 0 ? "-" : "") + String(whole) + (digits > 0 ? "." + zeros + fraction : "")
}
