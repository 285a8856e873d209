// SPDX-License-Identifier: Apache-2.0
/// HTML or SVG in which every text is escaped: what a literal says is markup, what is interpolated is text, unless it is
/// `Markup` itself. All elements are closed, so that a page is well-formed XML too.
public struct Markup: Equatable, Sendable, ExpressibleByStringInterpolation {
    public private(set) var source: String

    public init(stringLiteral value: String) {
        source = value
    }

    public init(stringInterpolation: Interpolation) {
        source = stringInterpolation.source
    }

    public struct Interpolation: StringInterpolationProtocol {
        fileprivate var source = ""

        public init(literalCapacity: Int, interpolationCount: Int) {
            source.reserveCapacity(literalCapacity + interpolationCount * 8)
        }

        public mutating func appendLiteral(_ literal: String) {
            source += literal
        }

        /// Text, in an element or in an attribute.
        public mutating func appendInterpolation(_ text: some StringProtocol) {
            for scalar in text.unicodeScalars {
                switch scalar {
                case "&": source += "&amp;"
                case "<": source += "&lt;"
                case ">": source += "&gt;"
                case "\"": source += "&quot;"
                case "'": source += "&#39;"
                // Characters that XML does not have (XML 1.0, 2.2).
                case "\0"..<"\t", "\u{B}", "\u{C}", "\u{E}"..<" ", "\u{FFFE}", "\u{FFFF}": source += "\u{FFFD}"
                default: source.unicodeScalars.append(scalar)
                }
            }
        }

        public mutating func appendInterpolation(_ number: some BinaryInteger) {
            source += "\(number)"
        }

        /// A length or a place in a drawing, to a tenth.
        public mutating func appendInterpolation(_ coordinate: Double) {
            let tenths = Int(clamping: Int64((min(max(coordinate, -1e6), 1e6) * 10).rounded()))
            source += "\(tenths < 0 ? "-" : "")\(tenths.magnitude / 10)"
            source += tenths % 10 == 0 ? "" : ".\(tenths.magnitude % 10)"
        }

        public mutating func appendInterpolation(_ markup: Markup) {
            source += markup.source
        }

        public mutating func appendInterpolation(_ list: [Markup]) {
            for markup in list { source += markup.source }
        }
    }

    public static func + (left: Markup, right: Markup) -> Markup {
        "\(left)\(right)"
    }

    public static func += (left: inout Markup, right: Markup) {
        left.source += right.source
    }
}

extension Markup {
    /// A table in a box that scrolls sideways where the window is narrower. The first column is flush left, the others
    /// flush right.
    ///
    /// - Parameters:
    ///   - header: a cell each.
    ///   - rows: cells, and a class for the row (`wrong`, `muted`) or none.
    public static func table(_ header: [String], _ rows: [(cells: [Markup], style: String?)]) -> Markup {
        let head = header.map { "<th scope=\"col\">\($0)</th>" as Markup }
        let body = rows.map { row -> Markup in
            let cells = row.cells.map { "<td>\($0)</td>" as Markup }
            guard let style = row.style else { return "<tr>\(cells)</tr>\n" }
            return "<tr class=\"\(style)\">\(cells)</tr>\n"
        }
        return """
            <div class="scroll"><table>
            <thead><tr>\(head)</tr></thead>
            <tbody>
            \(body)</tbody>
            </table></div>

            """
    }

    /// Names and values, a line each.
    public static func facts(_ facts: [(name: String, value: String)]) -> Markup {
        let lines = facts.map { "<dt>\($0.name)</dt><dd>\($0.value)</dd>\n" as Markup }
        return "<dl>\n\(lines)</dl>\n"
    }
}
