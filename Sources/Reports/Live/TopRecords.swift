// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering

/// Spans of `vmtally top --batch` as text for other programs (docs/top.md).
public enum TopRecords {
    public static let csvHeader = "seconds,vm,pid,exits,reason,count,cycles,p50,p99"

    /// A line for each VM and reason of a span; `exits` is `vm`, `l2` or `userspace`.
    public static func csv(_ model: TopModel, seconds: Double) -> [String] {
        csv(model.rows.map(\.machine), seconds: seconds)
    }

    /// The same of machines that were looked at for so long.
    public static func csv(_ machines: [LiveMachine], seconds: Double) -> [String] {
        machines.flatMap { row in
            [("vm", row.hardware), ("l2", row.nested), ("userspace", row.userspace)].flatMap {
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
        _ machine: LiveMachine, _ kind: String, _ reason: String, _ count: UInt64, _ times: ExitCounts.Times?,
        _ seconds: Double
    ) -> String {
        let percentiles = [0.5, 0.99].map { times?.percentile($0).map { "\($0)" } ?? "" }
        return CSV.line(
            [fixed(seconds, 3), machine.name, "\(machine.process)", kind, reason, "\(count)", cell(times?.cycles)]
                + percentiles)
    }
}
