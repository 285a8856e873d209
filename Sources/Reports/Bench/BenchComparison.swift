// SPDX-License-Identifier: Apache-2.0
import BootRecords
import Rendering

/// A bench run beside an earlier one: the change of each kind's median.
public struct BenchComparison: Sendable {
    public struct Change: Equatable, Sendable {
        /// The earlier median, TSC cycles.
        public let before: UInt64
        /// Of the medians, less 1.
        public let share: Double
        /// The two medians' 95 % intervals do not meet.
        public let isSignificant: Bool

        /// `+3.1 %`, with a `*` when it is significant.
        var text: String {
            "\(share < 0 ? "-" : "+")\(fixed(abs(share) * 100, 1)) %\(isSignificant ? " *" : "")"
        }
    }

    /// With fewer blocks than this the medians of all of them do not enclose the median with 95 % certainty.
    private static let fewestBlocks = 6

    private let before: BenchDocument
    private let changes: [String: Change]
    /// Why kinds cannot be judged.
    private let unjudged: [String]
    /// The baseline's, and the other's.
    private let backends: (String, String)

    public init(_ document: BenchDocument, to baseline: BenchDocument) {
        before = baseline
        var changes: [String: Change] = [:]
        for kind in document.kinds {
            guard let now = kind.measured?.cycles,
                let then = baseline.kinds.first(where: { $0.name == kind.name })?.measured?.cycles, then.p50 > 0
            else { continue }
            changes[kind.name] = Change(
                before: then.p50, share: Double(now.p50) / Double(then.p50) - 1,
                isSignificant: now.p50Low > then.p50High || now.p50High < then.p50Low)
        }
        self.changes = changes
        unjudged = Self.unjudged(document, baseline)
        backends = (baseline.host.backend, document.host.backend)
    }

    private static func unjudged(_ document: BenchDocument, _ baseline: BenchDocument) -> [String] {
        let kinds = baseline.kinds.compactMap { then -> String? in
            guard let measured = then.measured else { return nil }
            guard let now = document.kinds.first(where: { $0.name == then.name })?.measured else {
                return "\(then.name): not measured now"
            }
            let blocks = min(measured.blocks, now.blocks)
            return blocks < fewestBlocks
                ? "\(then.name): \(blocks) blocks, the least is \(fewestBlocks): give the bench more seconds" : nil
        }
        return baseline.kinds.contains { $0.measured != nil } ? kinds : ["the baseline has measured nothing"]
    }

    /// Medians that are larger by more than a share, and by more than chance. Hosts of different backends are not judged.
    public func gate(above limit: Double) -> RegressionGate {
        guard backends.0 == backends.1 else {
            return RegressionGate(
                limit: limit, regressions: [],
                unjudged: ["hosts of different backends (\(backends.0), \(backends.1))"])
        }
        let grown = changes.filter { $0.value.isSignificant && $0.value.share > limit }
        return RegressionGate(limit: limit, regressions: grown.map(\.key).sorted(), unjudged: unjudged)
    }

    /// nil where one of the two has not measured it.
    public subscript(name: String) -> Change? { changes[name] }

    /// What the earlier run was.
    public var summary: String {
        "\(before.host.cpu), Linux \(before.host.kernel), \(before.host.backend), \(before.method.taken)"
    }
}
