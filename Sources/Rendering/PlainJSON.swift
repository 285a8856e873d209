// SPDX-License-Identifier: Apache-2.0
/// What a guest says in JSON: objects, arrays, strings of printable ASCII without escapes, unsigned integers, `true`,
/// `false`, `null`; no spaces between them.
///
/// FoundationEssentials' decoder reads more, and makes a megabyte more of the program resident for one line.
package enum PlainJSON: Equatable {
    case object([String: PlainJSON])
    case array([PlainJSON])
    case string(String)
    case number(UInt64)
    case bool(Bool)
    case null

    /// Nil for anything else, for trailing bytes, and for what nests deeper than ``depthLimit``.
    package init?(_ bytes: some Sequence<UInt8>) {
        var reader = Reader(bytes: Array(bytes))
        guard let value = reader.value(depth: 0), reader.isAtEnd else { return nil }
        self = value
    }

    /// A hostile guest's brackets must not use up the stack.
    package static let depthLimit = 8

    /// A member of an object; nil too when this is none.
    package subscript(name: String) -> PlainJSON? {
        if case .object(let members) = self { members[name] } else { nil }
    }

    package var elements: [PlainJSON]? { if case .array(let elements) = self { elements } else { nil } }
    package var string: String? { if case .string(let text) = self { text } else { nil } }
    package var number: UInt64? { if case .number(let number) = self { number } else { nil } }
    package var bool: Bool? { if case .bool(let value) = self { value } else { nil } }

    private struct Reader {
        let bytes: [UInt8]
        private var position = 0

        init(bytes: [UInt8]) {
            self.bytes = bytes
        }

        var isAtEnd: Bool { position == bytes.count }

        mutating func value(depth: Int) -> PlainJSON? {
            guard depth < PlainJSON.depthLimit, position < bytes.count else { return nil }
            switch bytes[position] {
            case UInt8(ascii: "{"): return object(depth)
            case UInt8(ascii: "["): return array(depth)
            case UInt8(ascii: "\""): return string().map { .string($0) }
            case UInt8(ascii: "0")...UInt8(ascii: "9"): return number()
            default: return literal("true", .bool(true)) ?? literal("false", .bool(false)) ?? literal("null", .null)
            }
        }

        private mutating func object(_ depth: Int) -> PlainJSON? {
            var members: [String: PlainJSON] = [:]
            let closed = list(until: UInt8(ascii: "}")) { reader in
                guard let name = reader.string(), reader.take(UInt8(ascii: ":")),
                    let value = reader.value(depth: depth + 1)
                else { return false }
                members[name] = value
                return true
            }
            return closed ? .object(members) : nil
        }

        private mutating func array(_ depth: Int) -> PlainJSON? {
            var elements: [PlainJSON] = []
            let closed = list(until: UInt8(ascii: "]")) { reader in
                guard let value = reader.value(depth: depth + 1) else { return false }
                elements.append(value)
                return true
            }
            return closed ? .array(elements) : nil
        }

        /// From the opening bracket to the closing one, with commas between.
        private mutating func list(until end: UInt8, _ element: (inout Reader) -> Bool) -> Bool {
            position += 1
            if take(end) { return true }
            repeat {
                guard element(&self) else { return false }
            } while take(UInt8(ascii: ","))
            return take(end)
        }

        private mutating func string() -> String? {
            guard take(UInt8(ascii: "\"")), let end = bytes[position...].firstIndex(of: UInt8(ascii: "\"")) else {
                return nil
            }
            let text = bytes[position..<end]
            let isPlain = text.allSatisfy { (0x20..<0x7F).contains($0) && $0 != UInt8(ascii: "\\") }
            guard isPlain else { return nil }
            position = end + 1
            return String(decoding: text, as: UTF8.self)
        }

        private mutating func number() -> PlainJSON? {
            let digits = bytes[position...].prefix { UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 }
            position = digits.endIndex
            var value: UInt64 = 0
            for digit in digits {
                let (tens, overflow) = value.multipliedReportingOverflow(by: 10)
                let (sum, carry) = tens.addingReportingOverflow(UInt64(digit - UInt8(ascii: "0")))
                guard !overflow, !carry else { return nil }
                value = sum
            }
            return .number(value)
        }

        private mutating func literal(_ word: StaticString, _ value: PlainJSON) -> PlainJSON? {
            word.withUTF8Buffer { word in
                guard bytes[position...].starts(with: word) else { return nil }
                position += word.count
                return value
            }
        }

        private mutating func take(_ byte: UInt8) -> Bool {
            guard position < bytes.count, bytes[position] == byte else { return false }
            position += 1
            return true
        }
    }
}
