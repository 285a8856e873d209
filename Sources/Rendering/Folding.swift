// SPDX-License-Identifier: Apache-2.0
/// Lines broken at spaces so that they fit, what follows indented as far as the text of their last column.
///
/// - Parameter width: columns of the terminal.
package func folded(_ lines: [String], width: Int) -> [String] {
    lines.flatMap { folded($0, width: width) }
}

private func folded(_ line: String, width: Int) -> [String] {
    guard line.count > width, width > 20 else { return [line] }
    let characters = Array(line)
    // The text begins behind the last two spaces of the line's first half.
    let indent = (2..<max(3, width / 2)).last { column in
        characters[column] != " " && characters[column - 1] == " " && characters[column - 2] == " "
    }
    var lines: [String] = []
    var rest = characters[...]
    var margin = 0
    while rest.count > width - margin {
        let end = rest.startIndex + width - margin
        let first = rest.firstIndex { $0 != " " } ?? end
        // A word longer than the line stays whole.
        let space =
            rest[..<min(end + 1, rest.endIndex)].lastIndex(of: " ").flatMap { $0 > first ? $0 : nil }
            ?? rest[first...].firstIndex(of: " ")
        guard let space, lines.isEmpty ? space >= (indent ?? 0) : true else { break }
        lines.append(String(repeating: " ", count: margin) + String(rest[..<space]).trimmingEnd())
        margin = indent ?? 4
        rest = rest[space...].drop { $0 == " " }
    }
    if !rest.isEmpty { lines.append(String(repeating: " ", count: margin) + String(rest)) }
    return lines
}

extension String {
    fileprivate func trimmingEnd() -> String {
        var text = Substring(self)
        while text.last == " " { text.removeLast() }
        return String(text)
    }
}
