/// A tally at one moment: plain values, to be compared, merged and reported.
public struct TallySnapshot: Equatable, Sendable {
    /// The reasons that have happened, by code.
    public private(set) var reasons: [ReasonTally]

    public init(reasons: [ReasonTally] = []) {
        self.reasons = reasons.sorted { $0.code < $1.code }
    }

    /// Exits and cycles of all reasons.
    public var total: TallyPair {
        reasons.reduce(into: TallyPair()) { sum, reason in
            sum.count &+= reason.count
            sum.cycles &+= reason.cycles
        }
    }

    /// One reason's tally; nil when it has not happened.
    public subscript(code: UInt32) -> ReasonTally? {
        reasons.first { $0.code == code }
    }

    /// Adds another vCPU's, or another run's, tally.
    public mutating func merge(_ other: TallySnapshot) {
        reasons = (reasons + other.reasons).sorted { $0.code < $1.code }.reduce(into: []) { merged, reason in
            if merged.last?.code == reason.code {
                merged[merged.count - 1].merge(reason)
            } else {
                merged.append(reason)
            }
        }
    }

    /// What happened since an earlier snapshot of the same tally.
    public func difference(since earlier: TallySnapshot) -> TallySnapshot {
        TallySnapshot(
            reasons: reasons.compactMap { reason in
                guard let before = earlier[reason.code] else { return reason }
                return reason.count == before.count ? nil : reason.difference(since: before)
            })
    }
}

/// Count and distribution of one reason's exits.
public struct ReasonTally: Equatable, Sendable {
    public let code: UInt32
    /// Exits, one under way included.
    public private(set) var count: UInt64
    /// Sum over the exits that ended, TSC cycles.
    public private(set) var cycles: UInt64
    /// Shortest exit, TSC cycles; in a difference, its bucket's lower bound. 0 before the first one ended.
    public private(set) var minimum: UInt64
    /// Longest exit, TSC cycles; in a difference, its bucket's upper bound.
    public private(set) var maximum: UInt64
    /// Exits in each bucket of ``CycleHistogram``.
    public private(set) var buckets: [UInt64]

    public init(code: UInt32, count: UInt64, cycles: UInt64, minimum: UInt64, maximum: UInt64, buckets: [UInt64]) {
        self.code = code
        self.count = count
        self.cycles = cycles
        self.buckets = buckets
        self.maximum = maximum
        self.minimum = buckets.contains { $0 > 0 } ? minimum : 0
    }

    /// Exits whose cycles are accounted: ``count`` less those under way.
    public var ended: UInt64 { buckets.reduce(0, &+) }

    /// The duration that the given share of exits does not exceed, TSC cycles, within 1.6 %; 0 without exits.
    ///
    /// - Parameter share: 0 to 1, 0.99 for the 99th percentile.
    public func percentile(_ share: Double) -> UInt64 {
        let rank = UInt64((min(max(0, share), 1) * Double(ended)).rounded(.up))
        var seen: UInt64 = 0
        for (bucket, exits) in buckets.enumerated() where exits > 0 {
            seen += exits
            if seen >= rank {
                return min(max(CycleHistogram.midpoint(of: bucket), minimum), maximum)
            }
        }
        return maximum
    }

    mutating func merge(_ other: ReasonTally) {
        minimum = other.ended == 0 ? minimum : ended == 0 ? other.minimum : min(minimum, other.minimum)
        maximum = max(maximum, other.maximum)
        count &+= other.count
        cycles &+= other.cycles
        buckets = zip(buckets, other.buckets).map { $0 &+ $1 }
    }

    func difference(since earlier: ReasonTally) -> ReasonTally {
        let buckets = zip(buckets, earlier.buckets).map { $0 &- $1 }
        let lowest = buckets.firstIndex { $0 > 0 }.map(CycleHistogram.lowerBound) ?? 0
        let highest = buckets.lastIndex { $0 > 0 }.map(CycleHistogram.upperBound) ?? 0
        return ReasonTally(
            code: code, count: count &- earlier.count, cycles: cycles &- earlier.cycles,
            minimum: max(lowest, minimum), maximum: min(highest, maximum), buckets: buckets)
    }
}
