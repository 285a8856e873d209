// SPDX-License-Identifier: Apache-2.0
/// Columns of text, the first flush left, the others flush right.
public struct TextTable: Sendable {
    private var rows: [[String]]
    /// Columns that may be left out, the first of them first.
    private let expendable: [String]

    /// - Parameter expendable: titles of columns that a narrow terminal need not show, the least important first.
    public init(header: [String], expendable: [String] = []) {
        rows = [header.map(Self.cell)]
        self.expendable = expendable
    }

    public mutating func add(_ row: [String]) {
        rows.append(row.map(Self.cell))
    }

    /// On one line, whatever is in it.
    private static func cell(_ text: String) -> String {
        let isOneLine = !text.utf8.contains { $0 == 0x0A || $0 == 0x09 }
        return printable(isOneLine ? text : text.replacing("\n", with: "\\n").replacing("\t", with: " "))
    }

    /// One line a row, without trailing spaces.
    ///
    /// Where that is too much for the width, columns are left out, and a last line names them; then the first column is
    /// cut.
    ///
    /// - Parameter width: columns of the terminal.
    public func lines(width: Int = .max) -> [String] {
        let widths = widths
        let header = rows[0]
        var shown = Array(widths.indices)
        var total = widths.reduce(0) { $0 + $1 + 2 } - 2
        var omitted: [Int] = []
        for title in expendable where total > width {
            // A title may be there twice: the last one has more to its left that says what it is.
            guard let column = header.lastIndex(of: title), let place = shown.firstIndex(of: column) else { continue }
            shown.remove(at: place)
            omitted.append(column)
            total -= widths[column] + 2
        }
        let first = max(8, total > width ? (widths.first ?? 0) - (total - width) : widths.first ?? 0)
        let lines = rows.map { line($0, shown, widths, first: first) }
        guard !omitted.isEmpty else { return lines }
        let names = omitted.sorted().map { header[$0] }.joined(separator: ", ")
        return lines + ["(left out: \(names); a wider terminal has them)"]
    }

    private var widths: [Int] {
        let columns = rows.map(\.count).max() ?? 0
        return (0..<columns).map { column in rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0 }
    }

    private func line(_ row: [String], _ shown: [Int], _ widths: [Int], first: Int) -> String {
        var cells = shown.filter { $0 < row.count }.map { (column: $0, text: row[$0]) }
        if !cells.isEmpty, cells[0].text.count > first {
            cells[0].text = cells[0].text.prefix(first - 1) + "…"
        }
        return cells.enumerated().map { index, cell in
            let padding = String(repeating: " ", count: (index == 0 ? first : widths[cell.column]) - cell.text.count)
            return index == 0 ? (cells.count == 1 ? cell.text : cell.text + padding) : padding + cell.text
        }.joined(separator: "  ")
    }
}
