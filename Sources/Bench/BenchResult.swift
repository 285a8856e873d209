// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import Machine

/// All that a bench run found out.
public struct BenchResult: Sendable {
    public struct Row: Sendable {
        public let kind: BenchKind
        public let outcome: Outcome

        public var isMeasured: Bool { if case .measured = outcome { true } else { false } }
    }

    public enum Outcome: Sendable {
        case measured(BenchMeasurement)
        /// This host cannot do it: why.
        case unavailable(String)
    }

    public let rows: [Row]
    /// What shuffled the blocks.
    public let seed: UInt64
    /// Median of two readings of the TSC with nothing in between, cycles: subtracted from samples taken that way.
    public let overhead: UInt64
    public let tscKHz: UInt32
    /// vCPUs of the VMs with more than one.
    public let cpus: Int
    /// Host CPUs that the vCPUs were kept on; empty when they were not.
    public let pinned: [Int32]
    public let wallNanoseconds: UInt64

    /// Whether every count was exact.
    public var isExact: Bool {
        rows.allSatisfy {
            if case .measured(let measurement) = $0.outcome { measurement.isExact } else { true }
        }
    }
}

/// Latency and counts of one kind of exit. Times are TSC cycles.
public struct BenchMeasurement: Sendable {
    /// Exits of one reason.
    public struct Count: Sendable {
        public let code: UInt32
        /// By the tally, in all iterations.
        public let counted: UInt64
        /// As many as the guest made.
        public let expected: UInt64

        public var isExact: Bool { counted == expected }
    }

    /// Samples: iterations less those of the warm-up.
    public let samples: Int
    /// Iterations that the counts are of.
    public let iterations: UInt64
    public let blocks: Int
    public let minimum: UInt64
    public let maximum: UInt64
    public let mean: Double
    public let p50: UInt64
    public let p90: UInt64
    public let p99: UInt64
    public let p999: UInt64
    /// Where the median lies with 95 % certainty, by the medians of the blocks.
    public let interval: ClosedRange<UInt64>
    /// Samples more than three interquartile ranges outside the quartiles. They are in all figures.
    public let outliers: Int
    /// Userspace exits by reason.
    public let userspace: [Count]
    /// The processor's exits of the expected reason, where the kernel counts them.
    public let hardware: Count?
    public let vocabulary: TallyFeatures.Vocabulary?
    /// The VMM's time of one iteration: the median of each reason's exits, times their number.
    public let userspaceCycles: UInt64
    /// The kernel's time of one iteration, from VM exit to VM entry, where the kernel counts it and the sample has it in it.
    public let kernelCycles: UInt64?
    /// VM exits of all iterations by KVM's own count, other vCPUs' and interrupts' among them; nil before Linux 5.14.
    public let exits: UInt64?
    /// How many samples lie where: what is not above the 99.5th percentile in steps of one width, the rest by the
    /// buckets of ``CycleHistogram``.
    public let distribution: [Bin]

    public struct Bin: Equatable, Sendable {
        public let lower: UInt64
        public let upper: UInt64
        public let count: Int
    }

    public var isExact: Bool { userspace.allSatisfy(\.isExact) && (hardware?.isExact ?? true) }

    /// What is neither the VMM's nor, where that is known, the kernel's: the world switch.
    public var restCycles: UInt64 {
        let known = userspaceCycles + (kernelCycles ?? 0)
        return p50 > known ? p50 - known : 0
    }
}

/// What the blocks of one kind add up to.
struct BenchRecord {
    private(set) var samples: [UInt32] = []
    private(set) var blocks = 0
    private var medians: [UInt32] = []
    private var iterations: UInt64 = 0
    private var tally = ExitCounts.none(of: .vmm, .kvm)
    private var hardware: ExitCounts?
    /// Of each block.
    private var kernel: [(iterations: UInt64, exits: ExitCounts)] = []
    private var exits: UInt64?

    mutating func add(_ block: BenchHost.Block, _ request: BenchRequest) {
        let made = UInt64(request.iterations) + UInt64(request.warmUp)
        samples += block.samples
        medians.append(block.samples.sorted().percentile(0.5))
        blocks += 1
        iterations += made
        tally = tally.adding(block.tally)
        if let counts = block.hardware {
            hardware = hardware?.adding(counts) ?? counts
            kernel.append((made, counts))
        }
        if let count = block.kernel.values["exits"] {
            // The end mark's.
            exits = (exits ?? 0) + (count > 0 ? count - 1 : 0)
        }
    }

    /// - Parameter overhead: of the readings, cycles.
    func measurement(_ kind: BenchKind, overhead: UInt64) -> BenchMeasurement? {
        guard !samples.isEmpty else { return nil }
        let subtracted = kind.isDistance ? 0 : overhead
        func net(_ sample: UInt32) -> UInt64 { UInt64(sample) > subtracted ? UInt64(sample) - subtracted : 0 }
        let sorted = samples.sorted()
        let lower = sorted.percentile(0.25)
        let upper = sorted.percentile(0.75)
        let fence = UInt64(upper - lower) * 3
        let outliers = sorted.count { UInt64($0) > UInt64(upper) + fence || UInt64($0) + fence < UInt64(lower) }
        // Blocks of unlike speed can have the median of all samples outside of what their own medians say.
        let median = sorted.percentile(0.5)
        let blocks = medianInterval
        let interval = net(min(blocks.lowerBound, median))...net(max(blocks.upperBound, median))
        return BenchMeasurement(
            samples: sorted.count, iterations: iterations, blocks: self.blocks, minimum: net(sorted[0]),
            maximum: net(sorted[sorted.count - 1]),
            mean: Double(sorted.reduce(0) { $0 + net($1) }) / Double(sorted.count), p50: net(median),
            p90: net(sorted.percentile(0.9)), p99: net(sorted.percentile(0.99)), p999: net(sorted.percentile(0.999)),
            interval: interval, outliers: outliers,
            userspace: counts(kind), hardware: hardwareCount(kind), vocabulary: hardware?.vocabulary,
            userspaceCycles: kind.userspace.reduce(0) { sum, expected in
                sum + (tally[UInt32(bitPattern: expected.key)]?.times?.percentile(0.5) ?? 0) * expected.value
            },
            kernelCycles: kernelCycles(kind),
            exits: exits, distribution: Self.distribution(sorted.map(net)))
    }

    /// - Parameter samples: sorted, at least one.
    private static func distribution(_ samples: [UInt64]) -> [BenchMeasurement.Bin] {
        let first = samples[0]
        let step = (samples.percentile(0.995) - first) / 60 + 1
        var bins: [BenchMeasurement.Bin] = []
        for sample in samples {
            let index = (sample - first) / step
            let bucket = CycleHistogram.bucket(of: sample)
            let start = first + index * step
            let (lower, upper) =
                index <= 60
                ? (start, start + step - 1)
                : (max(CycleHistogram.lowerBound(of: bucket), first + 61 * step), CycleHistogram.upperBound(of: bucket))
            let count = bins.last?.lower == lower ? bins.removeLast().count : 0
            bins.append(BenchMeasurement.Bin(lower: lower, upper: upper, count: count + 1))
        }
        return bins
    }

    /// A pair of order statistics of the blocks' medians that the true median lies between with 95 % certainty; with
    /// fewer than six blocks, the smallest and the largest.
    private var medianInterval: ClosedRange<UInt32> {
        let sorted = medians.sorted()
        let count = Double(sorted.count)
        let half = 0.98 * count.squareRoot()
        let first = max(0, Int((count / 2 - half).rounded(.down)) - 1)
        let last = min(sorted.count - 1, Int((count / 2 + half).rounded(.up)))
        return sorted[min(first, last)]...sorted[last]
    }

    /// Every reason that should have happened, and every one that did: less what the marks and the other vCPU cost.
    private func counts(_ kind: BenchKind) -> [BenchMeasurement.Count] {
        let markReason = UInt32(kind.marksInMemory ? KVM_EXIT_MMIO : KVM_EXIT_IO)
        var marks: [UInt32: UInt64] = [markReason: UInt64(blocks)]
        if kind.usesPeer {
            // The other vCPU's arrival at the ready port.
            marks[UInt32(KVM_EXIT_IO), default: 0] += UInt64(blocks)
        }
        let expected = Dictionary(
            uniqueKeysWithValues: kind.userspace.map { (UInt32(bitPattern: $0.key), $0.value * iterations) })
        let codes = Set(expected.keys).union(tally.reasons.compactMap(\.code)).union(marks.keys)
        return codes.sorted().compactMap { code in
            let all = tally[code]?.count ?? 0
            let own = marks[code] ?? 0
            let count = BenchMeasurement.Count(
                code: code, counted: all >= own ? all - own : 0, expected: expected[code] ?? 0)
            // Fewer than the marks alone is wrong too.
            return all < own
                ? BenchMeasurement.Count(code: code, counted: all, expected: own + count.expected)
                : count.counted == 0 && count.expected == 0 ? nil : count
        }
    }

    /// Of an iteration, the blocks' median: its exit's time where it has one, else that of all exits but the marks', whose
    /// halves lie in the block. Nil where the sample is no sum of its exits.
    private func kernelCycles(_ kind: BenchKind) -> UInt64? {
        guard !kind.isDistance, !kind.usesPeer else { return nil }
        let perIteration = kernel.compactMap { made, block -> UInt64? in
            func pair(_ reason: BenchKind.HardwareReason) -> TallyPair {
                guard let own = reason.code(block.vocabulary).flatMap({ block[$0] }) else { return TallyPair() }
                return TallyPair(count: own.count, cycles: own.times?.cycles ?? 0)
            }
            if let reason = kind.hardware {
                let own = pair(reason)
                return own.count > 0 ? own.cycles / own.count : nil
            }
            let marks = pair(kind.markReason).cycles
            let all = block.cycles ?? 0
            return (all - min(marks, all)) / made
        }
        return perIteration.isEmpty ? nil : perIteration.sorted().percentile(0.5)
    }

    private func hardwareCount(_ kind: BenchKind) -> BenchMeasurement.Count? {
        guard let hardware, let code = kind.hardware?.code(hardware.vocabulary) else { return nil }
        return BenchMeasurement.Count(code: code, counted: hardware[code]?.count ?? 0, expected: iterations)
    }
}

extension [UInt32] {
    /// The smallest element that the given share does not exceed; of sorted elements, at least one.
    func percentile(_ share: Double) -> UInt32 {
        self[Swift.max(0, Swift.min(count - 1, Int((share * Double(count)).rounded(.up)) - 1))]
    }
}

extension [UInt64] {
    func percentile(_ share: Double) -> UInt64 {
        self[Swift.max(0, Swift.min(count - 1, Int((share * Double(count)).rounded(.up)) - 1))]
    }
}
