// SPDX-License-Identifier: Apache-2.0
import Rendering

/// The course of a run as people watch it: a line for each span of time.
public enum IntervalLines {
    public static let header = "    seconds  userspace exits      VM exits  most frequent"

    /// Marks shown of a span: a guest can make any number of them.
    private static let mostMarks = 10

    /// The marks of the span, the first of them if there are many, then the span.
    public static func lines(_ interval: RunReport.Interval, _ marks: [RunReport.Mark]) -> [String] {
        let most = interval.userspace.reasons.sorted { $0.count > $1.count }.prefix(4)
        let reasons = most.map { "\(interval.userspace.name(of: $0)) \($0.count)" }.joined(separator: ", ")
        let span =
            "\(seconds(interval.end)) \(right("\(interval.userspace.total)", 16)) "
            + "\(right(interval.vmExits.map { "\($0)" } ?? "-", 13))  \(reasons)"
        let shown = marks.prefix(mostMarks).map {
            "\(seconds($0.nanoseconds))  mark after \($0.userspaceExits) userspace exits: \($0.name)"
        }
        let rest = marks.count - shown.count
        return shown + (rest > 0 ? ["\(seconds(interval.end))  and \(rest) more marks"] : []) + [span]
    }

    private static func seconds(_ nanoseconds: UInt64) -> String { right(fixed(Double(nanoseconds) / 1e9, 3), 11) }

    private static func right(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - text.count)) + text
    }
}
