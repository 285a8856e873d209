// SPDX-License-Identifier: Apache-2.0
import FoundationEssentials
import SeededRandom

/// What changed between two recordings of the same boot. The first is the baseline.
public struct BootComparison: Sendable {
    /// In at most this share of comparisons between equals is anything at all called significant.
    public static let significance = 0.005

    /// What a quantity is part of.
    public enum Group: String, Codable, Sendable {
        case total
        case hardware = "vm_exits"
        case userspace = "userspace"
        case phase
        case time
    }

    /// One quantity in both.
    public struct Row: Sendable {
        /// What it is part of.
        public let group: Group
        /// The kernel's name of a reason, or words for a total.
        public let name: String
        /// Medians.
        public let before: Double
        /// The candidate's.
        public let after: Double
        /// The difference of the medians and its 95 % bootstrap interval.
        public let difference: Double
        /// Of the difference, 95 % by bootstrap.
        public let interval: ClosedRange<Double>
        /// Corrected for the number of quantities; nil for what is shown only, such as times.
        public let p: Double?
        /// It stands out from chance, all quantities considered.
        public let isSignificant: Bool
        /// The median of the total that this is part of, in the baseline.
        public let whole: Double

        /// Of ``before``; infinite for what was not there before.
        public var relative: Double { before == 0 ? (difference == 0 ? 0 : .infinity) : difference / before }
        /// Of ``whole``.
        public var share: Double { whole == 0 ? 0 : difference / whole }
    }

    /// Two configurations beside each other.
    public struct Pair: Sendable {
        /// The baseline's.
        public let before: BootConfiguration
        /// The candidate's.
        public let after: BootConfiguration
        /// Significant ones first, then by the size of the change.
        public let rows: [Row]
        /// What makes the two hard to compare.
        public let remarks: [String]
        /// Why something of it could not be judged; empty when all was.
        public let unjudged: [String]

        /// Those that stand out from chance.
        public var significant: [Row] { rows.filter(\.isSignificant) }
    }

    /// What it is compared with.
    public let baseline: BootRecording
    /// What is compared.
    public let candidate: BootRecording
    /// Of bootstrap and permutations.
    public let seed: UInt64
    /// Configurations of the same name; where each recording has one alone, those two.
    public let pairs: [Pair]
    /// Configurations that only one of the two has.
    public let unmatched: [String]

    /// - Parameters:
    ///   - seed: of bootstrap and permutations.
    ///   - comparisons: how many the user looks at together; chance is held down for all of them.
    ///   - effort: resamples of the bootstrap, and permutations where there are more than that.
    public init(
        _ baseline: BootRecording, _ candidate: BootRecording, seed: UInt64 = 1, comparisons: Int = 1,
        effort: (resamples: Int, permutations: Int) = (5000, 20_000)
    ) {
        self.baseline = baseline
        self.candidate = candidate
        self.seed = seed
        var matched: [(BootConfiguration, BootConfiguration)] = []
        var unmatched: [String] = []
        if baseline.configurations.count == 1, candidate.configurations.count == 1 {
            matched = [(baseline.configurations[0], candidate.configurations[0])]
        } else {
            for before in baseline.configurations {
                if let after = candidate.configurations.first(where: { $0.name == before.name }) {
                    matched.append((before, after))
                } else {
                    unmatched.append("\(baseline.label): \(before.name)")
                }
            }
            for after in candidate.configurations
            where !baseline.configurations.contains(where: { $0.name == after.name }) {
                unmatched.append("\(candidate.label): \(after.name)")
            }
        }
        let level = Self.significance / Double(max(1, matched.count * comparisons))
        let backends = Set([baseline.host.backend, candidate.host.backend])
        pairs = matched.map { before, after in
            Pair(
                before: before, after: after,
                rows: Self.rows(before, after, level: level, seed: seed, sameBackend: backends.count == 1, effort),
                remarks: Self.remarks(baseline, before, candidate, after),
                unjudged: Self.unjudged(
                    before, after, level: level, backends: backends,
                    protocols: Set([baseline.protocolName, candidate.protocolName])))
        }
        self.unmatched = unmatched
    }

    private struct Quantity {
        let group: Group
        let name: String
        let before: [Double]
        let after: [Double]
        let whole: Double
        /// What depends on the host's load is shown and not judged.
        let isJudged: Bool
    }

    private static func rows(
        _ before: BootConfiguration, _ after: BootConfiguration, level: Double, seed: UInt64, sameBackend: Bool,
        _ effort: (resamples: Int, permutations: Int)
    ) -> [Row] {
        let quantities = quantities(before.runs, after.runs, sameBackend: sameBackend)
        let effort = bounded(effort, numbers: quantities.count * (before.runs.count + after.runs.count))
        var generator = SplitMix64(seed: seed)
        let judged = quantities.indices.filter { quantities[$0].isJudged }
        let values = Statistics.differing(
            judged.map { (quantities[$0].before, quantities[$0].after) }, permutations: effort.permutations,
            using: &generator)
        let p = Dictionary(uniqueKeysWithValues: zip(judged, values))
        let rows = quantities.enumerated().map { index, quantity in
            let (difference, interval) = Statistics.difference(
                quantity.before, quantity.after, resamples: effort.resamples, using: &generator)
            return Row(
                group: quantity.group, name: quantity.name, before: Statistics.median(quantity.before),
                after: Statistics.median(quantity.after), difference: difference, interval: interval, p: p[index],
                isSignificant: p[index].map { $0 <= level } ?? false, whole: quantity.whole)
        }
        return rows.enumerated().sorted { left, right in
            (left.element.isSignificant ? 0 : 1, -abs(left.element.share), left.offset)
                < (right.element.isSignificant ? 0 : 1, -abs(right.element.share), right.offset)
        }.map(\.element)
    }

    /// Less of both where there are very many numbers to go over each time: some seconds at most, whatever the file.
    private static func bounded(
        _ effort: (resamples: Int, permutations: Int), numbers: Int
    ) -> (resamples: Int, permutations: Int) {
        (
            min(effort.resamples, max(200, 200_000_000 / max(1, numbers))),
            min(effort.permutations, max(2000, 4_000_000_000 / max(1, numbers)))
        )
    }

    /// - Parameter sameBackend: hosts of different vendors have neither exits nor their reasons in common: of those only
    ///   totals are shown, and nothing is judged.
    private static func quantities(_ before: [BootRun], _ after: [BootRun], sameBackend: Bool) -> [Quantity] {
        var quantities: [Quantity] = []
        func add(_ group: Group, _ name: String, whole: Double, judged: Bool = true, _ value: (BootRun) -> Double?) {
            guard sameBackend || group == .total || group == .time else { return }
            let values = (before.compactMap(value), after.compactMap(value))
            guard values.0.count == before.count, values.1.count == after.count else { return }
            quantities.append(
                Quantity(
                    group: group, name: name, before: values.0, after: values.1, whole: whole,
                    isJudged: judged && sameBackend))
        }
        let hardware = Statistics.median(before.compactMap { $0.hardware.map { Double($0.total) } })
        let userspace = Statistics.median(before.map { Double($0.userspace.total) })
        let runs = before + after
        let reasonsAreKnown = runs.allSatisfy { $0.hardware?.byName != nil }
        add(.total, "VM exits", whole: hardware, judged: !reasonsAreKnown) { $0.hardware.map { Double($0.total) } }
        add(.total, "VM exits less the host's interrupts", whole: hardware) { $0.guestExits.map { Double($0) } }
        add(.total, "userspace exits", whole: userspace) { Double($0.userspace.total) }
        add(.time, "time to the marker, ms", whole: 0, judged: false) { Double($0.nanoseconds) / 1e6 }
        for name in Self.names(runs, { $0.hardware?.byName }) {
            add(.hardware, name, whole: hardware, judged: !BootRun.hostReasons.contains(name)) { run in
                run.hardware?.byName.map { Double($0[name] ?? 0) }
            }
        }
        for name in Self.names(runs, { $0.userspace.byName }) {
            add(.userspace, name, whole: userspace) { run in
                run.userspace.byName.map { Double($0[name] ?? 0) }
            }
        }
        // Edges of phases are times: what lies on which side of one is partly chance, so they are shown only.
        for phase in runs.first?.phases ?? [] {
            add(.phase, phase.name, whole: hardware, judged: false) { run in
                run.phases?.first { $0.name == phase.name }.map {
                    Double(run.hardware == nil ? $0.userspace : $0.exits)
                }
            }
        }
        return quantities
    }

    private static func names(_ runs: [BootRun], _ reasons: (BootRun) -> [String: UInt64]?) -> [String] {
        Set(runs.flatMap { reasons($0).map { Array($0.keys) } ?? [] }).sorted()
    }

    private static func remarks(
        _ baseline: BootRecording, _ before: BootConfiguration, _ candidate: BootRecording,
        _ after: BootConfiguration
    ) -> [String] {
        var remarks: [String] = []
        func differ(_ what: String, _ left: String, _ right: String) {
            if left != right { remarks.append("\(what): \(left), then \(right)") }
        }
        differ("host", baseline.host.cpu, candidate.host.cpu)
        differ("host kernel", baseline.host.kernel, candidate.host.kernel)
        differ("backend", baseline.host.backend, candidate.host.backend)
        differ("VMM", before.vmm, after.vmm)
        differ("vCPUs", "\(before.cpus)", "\(after.cpus)")
        differ("memory", "\(before.memoryMiB) MiB", "\(after.memoryMiB) MiB")
        differ("console", before.console, after.console)
        differ("kernel", before.kernel?.identity ?? "unknown", after.kernel?.identity ?? "unknown")
        differ("rules of the recording", baseline.protocolName, candidate.protocolName)
        differ("initrd", before.initrd?.identity ?? "none", after.initrd?.identity ?? "none")
        differ("command line", before.commandLine, after.commandLine)
        differ("marker", before.marker, after.marker)
        for recording in [baseline, candidate] where recording.cutOff == true {
            remarks.append("\(recording.label) was cut off: not all of its boots were made")
        }
        differ(
            "VM exits counted by", before.runs[0].hardware?.source.rawValue ?? "nobody",
            after.runs[0].hardware?.source.rawValue ?? "nobody")
        return remarks
    }

    private static func unjudged(
        _ before: BootConfiguration, _ after: BootConfiguration, level: Double, backends: Set<String>,
        protocols: Set<String>
    ) -> [String] {
        var reasons: [String] = []
        if backends.count > 1 {
            reasons.append("hosts of different backends (\(backends.sorted().joined(separator: ", ")))")
        }
        if protocols.count > 1 {
            reasons.append("recorded by different rules (\(protocols.sorted().joined(separator: ", ")))")
        }
        let counts = (before.runs.count, after.runs.count)
        // Groups of one size can change places: then two divisions separate as completely.
        let ways = Statistics.divisions(counts.0 + counts.1, counts.0)
        if (counts.0 == counts.1 ? 2 : 1) / Double(ways) > level {
            reasons.append(
                "\(counts.0) and \(counts.1) runs are too few for anything to be significant: "
                    + "record \(Self.runsNeeded(level: level)) of each")
        }
        func look(_ what: String, _ isKnown: (BootRun) -> Bool) {
            let runs = before.runs + after.runs
            let known = runs.count(where: isKnown)
            if known > 0, known < runs.count {
                reasons.append("\(what) are known of \(known) of \(runs.count) runs only")
            }
        }
        look("VM exits") { $0.hardware != nil }
        look("VM exits by reason") { $0.hardware?.vocabulary != nil }
        look("userspace exits by reason") { $0.userspace.vocabulary != nil }
        return reasons
    }

    /// Runs in each recording with which a complete separation stands out from some ten quantities.
    private static func runsNeeded(level: Double) -> Int {
        (2...100).first { 20 / Double(Statistics.divisions(2 * $0, $0)) <= level } ?? 100
    }

    /// Significant increases by more than a share: of a total, or of one reason measured by the total it is part of.
    public func regressions(above share: Double) -> [(pair: Pair, row: Row)] {
        pairs.flatMap { pair in
            pair.significant.filter { $0.difference > 0 && $0.share > share }.map { (pair, $0) }
        }
    }

    /// What could not be judged, configurations that only one of the two has among it.
    public var unjudged: [String] {
        unmatched.map { "in one recording only: \($0)" }
            + pairs.flatMap { pair in pair.unjudged.map { "\(pair.after.name): \($0)" } }
    }
}

extension BootConfiguration.File {
    /// What tells it from another.
    public var identity: String {
        "\(version ?? name) (\(bytes) bytes, cksum \(cksum))"
    }
}

extension BootRun {
    /// Reasons that are the host's own: its interrupts end in an exit, whatever the guest does, and their number is a
    /// matter of time and load.
    public static let hostReasons: Set<String> = [
        "EXIT_REASON_EXTERNAL_INTERRUPT", "SVM_EXIT_INTR", "SVM_EXIT_NMI", "SVM_EXIT_SMI",
    ]

    /// VM exits without the host's own; nil where no reasons are known.
    public var guestExits: UInt64? {
        hardware?.byName.map { reasons in
            reasons.reduce(0) { Self.hostReasons.contains($1.key) ? $0 : $0 &+ $1.value }
        }
    }
}
