// SPDX-License-Identifier: Apache-2.0

/// Exits by reason, with the vocabulary that their codes belong to and who counted them: what every source of exits
/// gives, and every table, document and comparison takes.
public struct ExitCounts: Equatable, Sendable {
    /// Who counted.
    public enum Source: String, Codable, Sendable {
        /// Our own VMM: userspace exits.
        case vmm = "vmtally"
        /// KVM's binary statistics or debugfs: totals alone.
        case statistics = "kvm_stats"
        /// A histogram trigger on the tracepoint.
        case vmExitTracepoint = "kvm_exit"
        /// A histogram trigger on the tracepoint.
        case userspaceExitTracepoint = "kvm_userspace_exit"
        /// BPF programs on KVM's tracepoints.
        case bpf
        /// The loadable module, kernel-module/.
        case module
        /// A host kernel with the series of kernel-patch/.
        case kernelPatch = "kernel_patch"
    }

    /// How long exits took, TSC cycles.
    public struct Times: Equatable, Sendable {
        /// Sum over the exits that ended.
        public var cycles: UInt64
        /// Shortest and longest; nil where only the sum is known.
        public var range: ClosedRange<UInt64>?
        /// Exits in each bucket of ``CycleHistogram``; empty where nobody keeps a histogram.
        public var buckets: [UInt64]
        /// Exits that took up to each of some bounds, and more than the one before; then those above all. Empty where
        /// nobody asked for bounds.
        public var durations: [UInt64] = []
        /// Between these exits and the next entry, and not in ``cycles``: while the vCPU was halted, polling included.
        public var halted: UInt64
        /// Likewise: in userspace, for VM exits that got that far.
        public var userspace: UInt64

        /// Times without ``durations``.
        public init(
            cycles: UInt64, range: ClosedRange<UInt64>? = nil, buckets: [UInt64] = [], halted: UInt64 = 0,
            userspace: UInt64 = 0
        ) {
            self.cycles = cycles
            self.range = range
            self.buckets = buckets
            self.halted = halted
            self.userspace = userspace
        }

        /// Exits that ended, as far as a histogram tells.
        public var ended: UInt64 { buckets.reduce(0, &+) }

        /// The duration that the given share of exits does not exceed, TSC cycles, within 1.6 %; nil without a
        /// histogram, or with an empty one.
        ///
        /// - Parameter share: 0 to 1, 0.99 for the 99th percentile.
        public func percentile(_ share: Double) -> UInt64? {
            let exits = ended
            guard exits > 0 else { return nil }
            let rank = UInt64((min(max(0, share), 1) * Double(exits)).rounded(.up))
            var seen: UInt64 = 0
            var start = 0
            // By blocks, whose sums the compiler makes vectors of: what most of the buckets need.
            while start < buckets.count {
                let end = min(start + 64, buckets.count)
                let block = buckets[start..<end].reduce(0, &+)
                if seen &+ block >= rank { break }
                seen &+= block
                start = end
            }
            for bucket in start..<buckets.count where buckets[bucket] > 0 {
                seen &+= buckets[bucket]
                if seen >= rank {
                    let middle = CycleHistogram.midpoint(of: bucket)
                    return range.map { min(max(middle, $0.lowerBound), $0.upperBound) } ?? middle
                }
            }
            return range?.upperBound
        }

        /// With ``durations`` out of the histogram.
        ///
        /// - Parameter bounds: TSC cycles, ascending.
        public func sorted(by bounds: [UInt64]) -> Times {
            guard !bounds.isEmpty, !buckets.isEmpty else { return self }
            var sorted = self
            sorted.durations = [UInt64](repeating: 0, count: bounds.count + 1)
            for (bucket, count) in buckets.enumerated() where count > 0 {
                let middle = CycleHistogram.midpoint(of: bucket)
                sorted.durations[bounds.firstIndex { middle <= $0 } ?? bounds.count] &+= count
            }
            return sorted
        }

        fileprivate func adding(_ other: Times) -> Times {
            var sum = Times(
                cycles: cycles &+ other.cycles, halted: halted &+ other.halted, userspace: userspace &+ other.userspace)
            if !buckets.isEmpty, !other.buckets.isEmpty {
                sum.buckets = Self.sums(buckets, other.buckets)
            }
            if durations.count == other.durations.count {
                sum.durations = Self.sums(durations, other.durations)
            }
            switch (range, other.range) {
            case (let own?, let others?):
                sum.range = min(own.lowerBound, others.lowerBound)...max(own.upperBound, others.upperBound)
            // No range: none has ended, or nobody keeps the shortest and longest.
            case (let known?, nil), (nil, let known?): sum.range = known
            case (nil, nil): break
            }
            return sum
        }

        /// Of each place, as far as both have it. Without a check in the loop, which the compiler makes a vector of.
        private static func sums(_ own: [UInt64], _ others: [UInt64]) -> [UInt64] {
            own.withUnsafeBufferPointer { own in
                others.withUnsafeBufferPointer { others in
                    [UInt64](unsafeUninitializedCapacity: min(own.count, others.count)) { sums, count in
                        count = min(own.count, others.count)
                        for place in 0..<count { sums[place] = own[place] &+ others[place] }
                    }
                }
            }
        }

        /// Shortest and longest are those of the buckets, within what is known exactly.
        fileprivate func subtracting(_ earlier: Times) -> Times {
            var rest = Times(
                cycles: cycles &- earlier.cycles, halted: halted &- earlier.halted,
                userspace: userspace &- earlier.userspace)
            if durations.count == earlier.durations.count {
                rest.durations = zip(durations, earlier.durations).map { $0 &- $1 }
            }
            guard !buckets.isEmpty, !earlier.buckets.isEmpty else { return rest }
            rest.buckets = zip(buckets, earlier.buckets).map { $0 &- $1 }
            if let lowest = rest.buckets.firstIndex(where: { $0 > 0 }),
                let highest = rest.buckets.lastIndex(where: { $0 > 0 })
            {
                let lower = CycleHistogram.lowerBound(of: lowest)
                let upper = CycleHistogram.upperBound(of: highest)
                rest.range = range.map { $0.clamped(to: lower...upper) } ?? lower...upper
            }
            return rest
        }
    }

    /// One reason's exits.
    public struct Reason: Equatable, Sendable {
        /// Code of the vocabulary; nil: all codes that the source has no counter of their own for.
        public var code: UInt32?
        /// Exits.
        public var count: UInt64
        /// nil where the source does not time exits.
        public var times: Times?

        /// One reason's exits.
        public init(code: UInt32?, count: UInt64, times: Times? = nil) {
            self.code = code
            self.count = count
            self.times = times
        }
    }

    /// Who counted.
    public let source: Source
    /// What the codes mean; nil where only the total is known.
    public let vocabulary: TallyFeatures.Vocabulary?
    /// Exits of all reasons.
    public let total: UInt64
    /// The reasons that have happened, by ascending code; codes without a counter of their own last.
    public let reasons: [Reason]

    /// By reason; the total is their sum.
    public init(source: Source, vocabulary: TallyFeatures.Vocabulary, reasons: [Reason]) {
        self.source = source
        self.vocabulary = vocabulary
        self.reasons = reasons.sorted { Self.order($0) < Self.order($1) }
        total = reasons.reduce(0) { $0 &+ $1.count }
    }

    /// A total alone.
    public init(source: Source, total: UInt64) {
        self.source = source
        vocabulary = nil
        self.total = total
        reasons = []
    }

    /// What nobody has counted yet: the start of a sum.
    public static func none(of source: Source, _ vocabulary: TallyFeatures.Vocabulary) -> ExitCounts {
        ExitCounts(source: source, vocabulary: vocabulary, reasons: [])
    }

    /// TSC cycles of all reasons; nil where one of them is not timed, or no reason is known.
    public var cycles: UInt64? {
        guard vocabulary != nil else { return nil }
        return reasons.reduce(0 as UInt64?) { sum, reason in
            guard let sum, let times = reason.times else { return nil }
            return sum &+ times.cycles
        }
    }

    /// Exits by how long they took, all reasons together; empty where no reason has ``Times/durations``.
    public var durations: [UInt64] {
        reasons.reduce(into: []) { sum, reason in
            guard let own = reason.times?.durations, !own.isEmpty else { return }
            guard sum.count == own.count else { return sum = sum.isEmpty ? own : sum }
            for index in own.indices { sum[index] &+= own[index] }
        }
    }

    /// Exits of all reasons and their cycles, 0 where these are not known: as the tally leaves give them.
    public var pair: TallyPair { TallyPair(count: total, cycles: cycles ?? 0) }

    /// One reason's exits; nil when it has not happened.
    public subscript(code: UInt32) -> Reason? {
        reasons.first { $0.code == code }
    }

    /// The kernel's name of a reason's code; `other` for codes without a counter of their own.
    public func name(of reason: Reason) -> String {
        guard let vocabulary, let code = reason.code else { return Self.otherName }
        return ReasonVocabulary.vocabulary(vocabulary).name(code)
    }

    static let otherName = "other"

    /// Counts by the kernel's names; nil where only the total is known.
    public var byName: [String: UInt64]? {
        guard vocabulary != nil else { return nil }
        return reasons.reduce(into: [:]) { $0[name(of: $1), default: 0] &+= $1.count }
    }
}

extension ExitCounts {
    /// Together with another vCPU's, another machine's or another run's. Of another vocabulary only the total is left.
    public func adding(_ other: ExitCounts) -> ExitCounts {
        guard let vocabulary, vocabulary == other.vocabulary else {
            return ExitCounts(source: source, total: total &+ other.total)
        }
        let all = (reasons + other.reasons).sorted { Self.order($0) < Self.order($1) }
        let merged = all.reduce(into: [] as [Reason]) { merged, reason in
            guard let last = merged.last, last.code == reason.code else { return merged.append(reason) }
            var sum = last
            sum.count &+= reason.count
            sum.times = last.times.flatMap { times in reason.times.map(times.adding) }
            merged[merged.count - 1] = sum
        }
        return ExitCounts(source: source, vocabulary: vocabulary, reasons: merged)
    }

    /// What happened since an earlier reading of the same counters.
    public func difference(since earlier: ExitCounts) -> ExitCounts {
        guard let vocabulary, vocabulary == earlier.vocabulary else {
            return ExitCounts(source: source, total: total &- earlier.total)
        }
        return ExitCounts(
            source: source, vocabulary: vocabulary,
            reasons: reasons.compactMap { reason in
                guard let before = earlier.reasons.first(where: { $0.code == reason.code }) else { return reason }
                guard reason.count != before.count else { return nil }
                return Reason(
                    code: reason.code, count: reason.count &- before.count,
                    times: reason.times.flatMap { times in before.times.map(times.subtracting) })
            })
    }

    /// With ``Times/durations`` of each reason, where it has a histogram.
    public func sorted(by bounds: [UInt64]) -> ExitCounts {
        guard let vocabulary, !bounds.isEmpty else { return self }
        return ExitCounts(
            source: source, vocabulary: vocabulary,
            reasons: reasons.map { Reason(code: $0.code, count: $0.count, times: $0.times?.sorted(by: bounds)) })
    }

    /// Ascending codes, what has none last.
    fileprivate static func order(_ reason: Reason) -> UInt64 { reason.code.map(UInt64.init) ?? .max }
}

extension Sequence<ExitCounts> {
    /// All of them together; nil without any.
    public func sum() -> ExitCounts? {
        reduce(nil as ExitCounts?) { sum, counts in sum.map { $0.adding(counts) } ?? counts }
    }
}
