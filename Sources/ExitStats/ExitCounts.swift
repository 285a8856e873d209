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
        /// Between these exits and the next entry, and not in ``cycles``: while the vCPU was halted, polling included.
        public var halted: UInt64
        /// Likewise: in userspace, for VM exits that got that far.
        public var userspace: UInt64

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

        /// Both together: times of the same reason on two vCPUs.
        public static func + (left: Times, right: Times) -> Times {
            var range = left.range ?? right.range
            if let one = left.range, let other = right.range {
                range = min(one.lowerBound, other.lowerBound)...max(one.upperBound, other.upperBound)
            }
            var buckets = left.buckets
            if buckets.count < right.buckets.count {
                buckets += [UInt64](repeating: 0, count: right.buckets.count - buckets.count)
            }
            for (index, count) in right.buckets.enumerated() {
                buckets[index] &+= count
            }
            return Times(
                cycles: left.cycles &+ right.cycles, range: range, buckets: buckets,
                halted: left.halted &+ right.halted, userspace: left.userspace &+ right.userspace)
        }

        /// The duration that the given share of exits does not exceed, TSC cycles, within 1.6 %; nil without a
        /// histogram, or with an empty one.
        ///
        /// - Parameter share: 0 to 1, 0.99 for the 99th percentile.
        public func percentile(_ share: Double) -> UInt64? {
            let exits = buckets.reduce(0, &+)
            guard exits > 0 else { return nil }
            let rank = UInt64((min(max(0, share), 1) * Double(exits)).rounded(.up))
            var seen: UInt64 = 0
            for (bucket, count) in buckets.enumerated() where count > 0 {
                seen += count
                if seen >= rank {
                    let middle = CycleHistogram.midpoint(of: bucket)
                    return range.map { min(max(middle, $0.lowerBound), $0.upperBound) } ?? middle
                }
            }
            return range?.upperBound
        }
    }

    /// One reason's exits.
    public struct Reason: Equatable, Sendable {
        /// Code of the vocabulary; nil: all codes that the source has no counter of their own for.
        public var code: UInt32?
        public var count: UInt64
        /// nil where the source does not time exits.
        public var times: Times?

        public init(code: UInt32?, count: UInt64, times: Times? = nil) {
            self.code = code
            self.count = count
            self.times = times
        }
    }

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
        self.reasons = reasons.sorted { ($0.code.map(UInt64.init) ?? .max) < ($1.code.map(UInt64.init) ?? .max) }
        total = reasons.reduce(0) { $0 &+ $1.count }
    }

    /// A total alone.
    public init(source: Source, total: UInt64) {
        self.source = source
        vocabulary = nil
        self.total = total
        reasons = []
    }

    /// Both together: exits of two vCPUs, counted by the same source; nil where the vocabularies differ.
    public static func + (left: ExitCounts, right: ExitCounts) -> ExitCounts? {
        guard left.source == right.source, left.vocabulary == right.vocabulary else { return nil }
        guard let vocabulary = left.vocabulary else {
            return ExitCounts(source: left.source, total: left.total &+ right.total)
        }
        var reasons: [UInt32?: Reason] = [:]
        for reason in left.reasons + right.reasons {
            guard let sum = reasons[reason.code] else {
                reasons[reason.code] = reason
                continue
            }
            let times = if let one = sum.times, let other = reason.times { one + other } else { nil as Times? }
            reasons[reason.code] = Reason(code: reason.code, count: sum.count &+ reason.count, times: times)
        }
        return ExitCounts(source: left.source, vocabulary: vocabulary, reasons: Array(reasons.values))
    }

    /// TSC cycles of all reasons; nil where one of them is not timed, or no reason is known.
    public var cycles: UInt64? {
        guard vocabulary != nil else { return nil }
        return reasons.reduce(0 as UInt64?) { sum, reason in
            guard let sum, let times = reason.times else { return nil }
            return sum &+ times.cycles
        }
    }

    /// The kernel's name of a reason's code; `other` for codes without a counter of their own.
    public func name(of reason: Reason) -> String {
        guard let vocabulary, let code = reason.code else { return "other" }
        return ReasonVocabulary.vocabulary(vocabulary).name(code)
    }
}
