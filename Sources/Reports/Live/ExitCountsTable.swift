// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering

/// Exits by reason as people read them: the most frequent first, times where there are any.
public struct ExitCountsTable: Sendable {
    private let counts: ExitCounts
    private let title: String
    /// What the times are of.
    private let place: String
    private let tscKHz: UInt32

    /// - Parameters:
    ///   - title: `VM exits`.
    ///   - place: where the time is spent: `kernel`.
    ///   - tscKHz: 0: not known; then there are no nanoseconds.
    public init(_ counts: ExitCounts, title: String, place: String, tscKHz: UInt32 = 0) {
        self.tscKHz = tscKHz
        self.counts = counts
        self.title = title
        self.place = place
    }

    /// - Parameter width: columns of the terminal.
    public func lines(width: Int = .max) -> [String] {
        let reasons = counts.reasons.sorted { $0.count > $1.count }
        let isTimed = reasons.contains { $0.times != nil }
        let hasAway = reasons.contains { ($0.times?.halted ?? 0) > 0 || ($0.times?.userspace ?? 0) > 0 }
        var header = [title, "count", "share"]
        if isTimed { header += ["\(place) cycles", "mean", "p50", "p90", "p99", "p99.9", "max"] }
        let hasNanoseconds = isTimed && tscKHz > 0
        if hasNanoseconds { header += ["p50 ns", "p99 ns"] }
        if hasAway { header += ["userspace", "halted"] }
        var table = TextTable(
            header: header,
            expendable: ["p99.9", "p90", "max", "mean", "p99 ns", "userspace", "halted", "p99", "share"])
        for reason in reasons {
            var row = [counts.name(of: reason), grouped(reason.count), share(reason.count, counts.total)]
            if isTimed {
                if let times = reason.times {
                    row += [times.cycles, times.cycles / max(1, reason.count)].map(grouped)
                    row += [0.5, 0.9, 0.99, 0.999].map { times.percentile($0).map(grouped) ?? "-" }
                    row.append(times.range.map { grouped($0.upperBound) } ?? "-")
                } else {
                    row += [String](repeating: "-", count: 7)
                }
                if hasNanoseconds {
                    row += [0.5, 0.99].map { share in
                        reason.times?.percentile(share).flatMap { nanoseconds($0, kHz: tscKHz) }.map(grouped) ?? "-"
                    }
                }
            }
            if hasAway { row += [reason.times?.userspace ?? 0, reason.times?.halted ?? 0].map(grouped) }
            table.add(row)
        }
        var total = ["total", grouped(counts.total), share(counts.total, counts.total)]
        if isTimed { total += [counts.cycles.map(grouped) ?? "-"] }
        table.add(total)
        return table.lines(width: width)
    }
}
