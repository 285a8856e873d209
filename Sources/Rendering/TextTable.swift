// SPDX-License-Identifier: Apache-2.0
/// Columns of text, the first flush left, the others flush right.
public struct TextTable: Sendable {
    private var rows: [[String]]

    public init(header: [String]) {
        rows = [header.map(printable)]
    }

    public mutating func add(_ row: [String]) {
        rows.append(row.map(printable))
    }

    /// One line a row, without trailing spaces.
    public func lines() -> [String] {
        let columns = rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { column in rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0 }
        return rows.map { row in
            row.enumerated().map { column, cell in
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                return column == 0 ? (row.count == 1 ? cell : cell + padding) : padding + cell
            }.joined(separator: "  ")
        }
    }
}
