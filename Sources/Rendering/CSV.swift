// SPDX-License-Identifier: Apache-2.0
/// Comma-separated values (RFC 4180), for spreadsheets and scripts: numbers without grouping, a header line first.
public struct CSV: Sendable {
    private var rows: [String]

    public init(header: [String]) {
        rows = [Self.line(header)]
    }

    public mutating func add(_ cells: [String]) {
        rows.append(Self.line(cells))
    }

    /// All lines, each with its end.
    public var text: String { rows.map { $0 + "\n" }.joined() }

    /// What a file or a guest says may end up on a terminal.
    public static func line(_ cells: [String]) -> String {
        cells.map { quoted(printable($0)) }.joined(separator: ",")
    }

    /// In quotation marks where it needs them; and never the beginning of a spreadsheet's formula.
    static func quoted(_ text: String) -> String {
        let isFormula = text.first.map { "=+-@".contains($0) } ?? false && Double(text) == nil
        let safe = isFormula ? "'" + text : text
        guard safe.contains(where: { ",\"\n\r".contains($0) }) else { return safe }
        return "\"" + safe.replacing("\"", with: "\"\"") + "\""
    }
}

/// A cell that may be empty.
package func cell(_ value: (some CustomStringConvertible)?) -> String { value.map { "\($0)" } ?? "" }
