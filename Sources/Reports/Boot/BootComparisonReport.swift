// SPDX-License-Identifier: Apache-2.0
import BootRecords
import FoundationEssentials
import Rendering

/// What changed between recordings of boots, as people and as machines read it.
public struct BootComparisonReport: Sendable {
    private let comparisons: [BootComparison]
    /// What `--fail-above` comes to; nil without one.
    public let gate: RegressionGate?
    /// Rows without a change that stands out from chance are shown too.
    private let showsAll: Bool

    /// - Parameters:
    ///   - comparisons: of candidates with one baseline.
    ///   - limit: by what share of its total something may grow; nil: nothing is too much.
    public init(_ comparisons: [BootComparison], limit: Double? = nil, showsAll: Bool = false) {
        self.comparisons = comparisons
        self.showsAll = showsAll
        gate = limit.map { limit in
            RegressionGate(
                limit: limit,
                regressions: comparisons.flatMap { comparison in
                    comparison.regressions(above: limit).map { "\($0.pair.after.name), \($0.row.name)" }
                },
                unjudged: comparisons.flatMap(\.unjudged))
        }
    }

    /// - Parameter width: columns of the terminal.
    public func lines(width: Int = .max) -> [String] {
        var lines: [String] = []
        for comparison in comparisons {
            for pair in comparison.pairs {
                lines += self.lines(pair, comparison, width)
            }
            lines += comparison.unmatched.map { "in one recording only: \($0)" }
        }
        if let first = comparisons.first {
            lines.append(
                "medians; 95 % bootstrap intervals; * stands out from chance (permutation test, corrected for all "
                    + "quantities, \(Self.percent(BootComparison.significance)) together); seed \(first.seed)")
        }
        if let gate { lines += Self.lines(gate) }
        return lines
    }

    /// What a gate has found, as the last lines of a comparison.
    public static func lines(_ gate: RegressionGate) -> [String] {
        let limit = percent(gate.limit)
        let verdict =
            switch gate.verdict {
            case .passed: "no regression over \(limit)"
            case .regression: "regression over \(limit): " + gate.regressions.joined(separator: "; ")
            case .notJudged: "no regression over \(limit) seen, but not all could be judged"
            }
        return gate.unjudged.map { "not judged: \($0)" } + [verdict]
    }

    private func lines(_ pair: BootComparison.Pair, _ comparison: BootComparison, _ width: Int) -> [String] {
        let labels = (comparison.baseline.label, comparison.candidate.label)
        var lines = [
            "\(pair.after.name): \(labels.0) (\(pair.before.runs.count) runs), \(labels.1) (\(pair.after.runs.count) runs)"
        ]
        lines += (pair.remarks + pair.unjudged).map { "  \($0)" }
        // Long names are above the table already.
        let isShort = max(labels.0.count, labels.1.count) <= 12 || width > 120
        var table = TextTable(
            header: ["", isShort ? labels.0 : "baseline", isShort ? labels.1 : "candidate", "difference"]
                + ["95 % interval", "change", "of total"],
            expendable: ["95 % interval", "of total", "difference"])
        let rows = pair.rows.filter { row in
            row.isSignificant || row.group == .total || row.group == .time || showsAll
        }
        for row in rows {
            let share =
                row.group == .time || row.group == .total ? [] : [Self.signedPercent(row.share)]
            table.add(
                [
                    (row.isSignificant ? "* " : "  ") + row.name, Self.number(row.before), Self.number(row.after),
                    Self.signed(row.difference),
                    "\(Self.signed(row.interval.lowerBound)) to \(Self.signed(row.interval.upperBound))",
                    Self.signedPercent(row.relative),
                ] + share)
        }
        lines += table.lines(width: width)
        let rest = pair.rows.count - rows.count
        if rest > 0 {
            lines.append("  \(rest) more without a change that stands out: --all")
        }
        return lines + [""]
    }

    /// `1,234` or `1,234.5`.
    static func number(_ value: Double) -> String {
        let tenths = (abs(value) * 10).rounded()
        guard tenths < 1e18 else { return "\(value)" }
        let whole = grouped(UInt64(tenths) / 10)
        let rest = UInt64(tenths) % 10
        return (value < 0 && tenths > 0 ? "-" : "") + whole + (rest == 0 ? "" : ".\(rest)")
    }

    static func signed(_ value: Double) -> String {
        (value > 0 ? "+" : "") + number(value)
    }

    static func percent(_ share: Double) -> String {
        guard share.isFinite else { return share > 0 ? "new" : "" }
        let size = abs(share)
        // What is not zero is not shown as zero.
        let digits = size >= 0.00995 ? 1 : size == 0 || size >= 0.00005 ? 2 : 6
        let text = fixed(size * 100, digits)
        return (share < 0 ? "-" : "") + text + " %"
    }

    static func signedPercent(_ share: Double) -> String {
        (share > 0 && share.isFinite ? "+" : "") + percent(share)
    }

    /// A line for each quantity, those that did not change among them.
    public var csv: CSV {
        var csv = CSV(header: [
            "baseline", "candidate", "configuration", "group", "name", "before", "after", "difference", "interval_low",
            "interval_high", "relative", "share_of_total", "p", "significant",
        ])
        for comparison in comparisons {
            for pair in comparison.pairs {
                for row in pair.rows {
                    csv.add(
                        [comparison.baseline.label, comparison.candidate.label, pair.after.name]
                            + ["\(row.group)", row.name, "\(row.before)", "\(row.after)", "\(row.difference)"]
                            + ["\(row.interval.lowerBound)", "\(row.interval.upperBound)"]
                            + [row.relative.isFinite ? "\(row.relative)" : "", "\(row.share)", cell(row.p)]
                            + ["\(row.isSignificant)"])
                }
            }
        }
        return csv
    }

    /// Schema `vmtally.compare/1`.
    ///
    /// - Parameter tool: who writes it.
    public func json(by tool: BootRecording.Tool) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let document = Document(
            tool: tool,
            baseline: comparisons.first?.baseline.label ?? "", seed: comparisons.first?.seed ?? 0,
            significance: BootComparison.significance, failAbove: gate?.limit,
            regression: gate?.verdict == .regression, verdict: gate?.verdict,
            unjudged: comparisons.flatMap(\.unjudged),
            comparisons: comparisons.map { comparison in
                Document.Comparison(
                    label: comparison.candidate.label, unmatched: comparison.unmatched,
                    configurations: comparison.pairs.map(Document.Configuration.init))
            })
        return String(decoding: try encoder.encode(document), as: UTF8.self)
    }

    private struct Document: Encodable {
        let schema = "vmtally.compare/1"
        let tool: BootRecording.Tool
        let baseline: String
        let seed: UInt64
        let significance: Double
        let failAbove: Double?
        let regression: Bool
        /// Absent without `--fail-above`.
        let verdict: RegressionGate.Verdict?
        let unjudged: [String]
        let comparisons: [Comparison]

        enum CodingKeys: String, CodingKey {
            case schema, tool, baseline, seed, significance, regression, verdict, unjudged, comparisons
            case failAbove = "fail_above"
        }

        struct Comparison: Encodable {
            let label: String
            let unmatched: [String]
            let configurations: [Configuration]
        }

        struct Configuration: Encodable {
            let name: String
            let runs: [Int]
            let remarks: [String]
            let rows: [Row]

            init(_ pair: BootComparison.Pair) {
                name = pair.after.name
                runs = [pair.before.runs.count, pair.after.runs.count]
                remarks = pair.remarks
                rows = pair.rows.map(Row.init)
            }
        }

        struct Row: Encodable {
            let group: BootComparison.Group
            let name: String
            let median: [Double]
            let difference: Double
            let interval: [Double]
            /// Absent for what was not there before.
            let relative: Double?
            let shareOfTotal: Double
            let p: Double?
            let significant: Bool

            enum CodingKeys: String, CodingKey {
                case group, name, median, difference, interval, relative, p, significant
                case shareOfTotal = "share_of_total"
            }

            init(_ row: BootComparison.Row) {
                group = row.group
                name = row.name
                median = [row.before, row.after]
                difference = row.difference
                interval = [row.interval.lowerBound, row.interval.upperBound]
                relative = row.relative.isFinite ? row.relative : nil
                shareOfTotal = row.share
                p = row.p
                significant = row.isSignificant
            }
        }
    }
}
