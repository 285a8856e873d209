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

    private let before: BenchDocument
    private let changes: [String: Change]

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
    }

    /// nil where one of the two has not measured it.
    public subscript(name: String) -> Change? { changes[name] }

    /// What the earlier run was.
    public var summary: String {
        "\(before.host.cpu), Linux \(before.host.kernel), \(before.host.backend), \(before.method.taken)"
    }
}
