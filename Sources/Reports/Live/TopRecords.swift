// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering

/// Spans of `vmtally top --batch` as text for other programs (docs/top.md).
public enum TopRecords {
    public static let csvHeader = "seconds,vm,pid,exits,reason,count,cycles,p50,p99"

    /// A line for each VM and reason of a span; `exits` is `vm`, `l2` or `userspace`.
    public static func csv(_ model: TopModel, seconds: Double) -> [String] {
        model.rows.flatMap { row in
            [("vm", row.machine.hardware), ("l2", row.machine.nested), ("userspace", row.machine.userspace)].flatMap {
                kind, counts in
                (counts.map { counts in
                    counts.vocabulary == nil
                        ? [line(row, kind, "total", counts.total, nil, seconds)]
                        : counts.reasons.map { line(row, kind, counts.name(of: $0), $0.count, $0.times, seconds) }
                }) ?? []
            }
        }
    }

    private static func line(
        _ row: TopModel.Row, _ kind: String, _ reason: String, _ count: UInt64, _ times: ExitCounts.Times?,
        _ seconds: Double
    ) -> String {
        let percentiles = [0.5, 0.99].map { times?.percentile($0).map { "\($0)" } ?? "" }
        return
            ([
                fixed(seconds, 3), quoted(row.machine.name), "\(row.machine.process)", kind, reason, "\(count)",
                times.map { "\($0.cycles)" } ?? "",
            ] + percentiles).joined(separator: ",")
    }

    /// RFC 4180; and never the beginning of a spreadsheet's formula.
    static func quoted(_ text: String) -> String {
        let safe = text.first.map { "=+-@".contains($0) } ?? false ? "'" + text : text
        guard safe.contains(where: { ",\"".contains($0) }) else { return safe }
        return "\"" + safe.replacing("\"", with: "\"\"") + "\""
    }
}
