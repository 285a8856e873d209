// SPDX-License-Identifier: Apache-2.0
import Linux

/// The names of a guest's code: an ELF's symbol table, or a text as System.map and /proc/kallsyms have it.
///
/// The bytes may come from anywhere: no offset, size or index of theirs is used before it is known to lie in the file.
public struct SymbolTable: Sendable {
    /// An address that got its name from the symbol at or below it.
    public struct Location: Equatable, Sendable, CustomStringConvertible {
        public let symbol: String
        /// Bytes from the symbol's address.
        public let offset: UInt64

        public var description: String { "\(symbol)+\(hex(offset))" }
    }

    /// What a guest's processor tells of the place of its kernel: a symbol's name and its address as the guest runs.
    public struct Anchor: Equatable, Sendable {
        public let symbol: String
        public let address: UInt64

        public init(symbol: String, address: UInt64) {
            self.symbol = symbol
            self.address = address
        }
    }

    private struct Symbol {
        let address: UInt64
        /// In `names`.
        let name: Range<UInt32>
        let isCode: Bool
        let isGlobal: Bool

        var key: (UInt64, Int, UInt32) { (address, isGlobal ? 0 : 1, name.lowerBound) }
    }

    /// By address; among equals what is global comes first.
    private let symbols: [Symbol]
    private let names: [UInt8]

    /// More than any kernel has, the rest is left out; with names of at most 512 bytes (Linux: KSYM_NAME_LEN) all offsets fit 32 bits.
    private static let limit = 4 << 20
    private static let nameLimit = 512

    /// - Throws: ``ImageError`` when the file is neither, is broken, or names no code.
    public init(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        var collector = Collector()
        if ELFFile.recognizes(bytes) {
            try collector.readELF(bytes)
        } else {
            try collector.readMap(bytes)
        }
        guard collector.symbols.contains(where: { $0.isCode && $0.address != 0 }) else {
            throw .unsupported(
                """
                it names no code: give a vmlinux with symbols, a System.map (Debian's own is in the -dbg package, \
                /boot has a stub) or a copy of the guest's /proc/kallsyms, read as root
                """)
        }
        self.init(collector)
    }

    /// Nil: none of them is code.
    package init?(_ kallsyms: Kallsyms) {
        var collector = Collector()
        for symbol in kallsyms.symbols {
            collector.add(symbol.name, at: symbol.address, kind: symbol.kind)
        }
        guard collector.symbols.contains(where: \.isCode) else { return nil }
        self.init(collector)
    }

    private init(_ collector: Collector) {
        symbols = collector.symbols.sorted { $0.key < $1.key }
        names = collector.names
    }

    /// Reads a file.
    ///
    /// - Throws: ``SymbolFileError``, which names it.
    public init(path: String) throws(SymbolFileError) {
        let file: FileImage
        do throws(SystemError) { file = try FileImage(path: path) } catch { throw .unreadable(error) }
        do throws(ImageError) { self = try SymbolTable(file.bytes) } catch { throw .refused(path: path, error) }
    }

    /// Number of symbols.
    public var count: Int { symbols.count }

    /// The code that an address lies in; nil outside of all code that the table knows.
    ///
    /// - Parameter slide: what the guest's kernel added to its addresses (KASLR).
    public func location(of address: UInt64, slide: UInt64 = 0) -> Location? {
        let linked = address &- slide
        let above = firstIndex { $0.address > linked }
        guard above > 0 else { return nil }
        let base = symbols[above - 1].address
        let symbol = symbols[firstIndex { $0.address >= base }...].prefix { $0.address == base }.first(where: \.isCode)
        return symbol.map { Location(symbol: name($0), offset: linked - base) }
    }

    /// A symbol's address as linked, the lowest if it is there several times; nil when there is none of that name.
    public func address(of name: String) -> UInt64? {
        let wanted = Array(name.utf8)
        return symbols.first { has($0, wanted) }?.address
    }

    /// Addresses of all functions of a name, as linked.
    public func codeAddresses(of name: String) -> [UInt64] {
        let wanted = Array(name.utf8)
        return symbols.filter { $0.isCode && has($0, wanted) }.map(\.address)
    }

    private func has(_ symbol: Symbol, _ name: [UInt8]) -> Bool {
        symbol.name.count == name.count && names[Self.range(symbol)].elementsEqual(name)
    }

    /// Where a symbol's code ends: at the next symbol of another address.
    public func end(of address: UInt64) -> UInt64? {
        let next = firstIndex { $0.address > address }
        return next < symbols.count ? symbols[next].address : nil
    }

    /// What KASLR added to this table's addresses, by the first anchor whose symbol is known; nil: none is.
    public func slide(_ anchors: [Anchor]) -> UInt64? {
        for anchor in anchors {
            if let linked = address(of: anchor.symbol) {
                return anchor.address &- linked
            }
        }
        return nil
    }

    private func name(_ symbol: Symbol) -> String {
        String(decoding: names[Self.range(symbol)], as: UTF8.self)
    }

    private static func range(_ symbol: Symbol) -> Range<Int> {
        Int(symbol.name.lowerBound)..<Int(symbol.name.upperBound)
    }

    /// The first symbol for which a condition holds that holds for all that follow.
    private func firstIndex(where holds: (Symbol) -> Bool) -> Int {
        var range = 0..<symbols.count
        while !range.isEmpty {
            let middle = range.lowerBound + range.count / 2
            range = holds(symbols[middle]) ? range.lowerBound..<middle : middle + 1..<range.upperBound
        }
        return range.lowerBound
    }
}

extension SymbolTable {
    private struct Collector {
        private(set) var symbols: [Symbol] = []
        private(set) var names: [UInt8] = []
        /// Entries looked at, those without a name of code among them.
        private var looked = 0

        /// nm(1): t and T are code, w and W weak symbols, which in a kernel's text are code as well.
        mutating func add(_ name: some Sequence<UInt8>, at address: UInt64, kind: UInt8) {
            let lowered = kind | 0x20
            add(name, at: address, isCode: lowered == 0x74 || lowered == 0x77, isGlobal: kind != lowered)
        }

        private mutating func add(_ name: some Sequence<UInt8>, at address: UInt64, isCode: Bool, isGlobal: Bool) {
            guard symbols.count < SymbolTable.limit else { return }
            let start = UInt32(names.count)
            names.append(contentsOf: name.prefix(SymbolTable.nameLimit))
            symbols.append(
                Symbol(address: address, name: start..<UInt32(names.count), isCode: isCode, isGlobal: isGlobal))
        }

        /// Lines of address, kind and name: `ffffffff81000000 T _text`, behind it perhaps a tab and `[module]`.
        mutating func readMap(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
            var start = 0
            var number = 0
            while start < bytes.count {
                let end = bytes[start...].firstIndex(of: 0x0A) ?? bytes.count
                number += 1
                if start < end {
                    try readLine(bytes[start..<end], number)
                }
                start = end + 1
            }
        }

        private mutating func readLine(_ line: UnsafeRawBufferPointer.SubSequence, _ number: Int) throws(ImageError) {
            let words = line.split(maxSplits: 2, omittingEmptySubsequences: true) { $0 == 0x20 }
            guard words.count == 3, words[1].count == 1, let kind = words[1].first,
                let address = Self.hexadecimal(words[0]), let name = words[2].split(separator: 0x09).first
            else { throw .malformed("line \(number): not as in System.map") }
            add(name, at: address, kind: kind)
        }

        private static func hexadecimal(_ digits: UnsafeRawBufferPointer.SubSequence) -> UInt64? {
            guard digits.count <= 16 else { return nil }
            var value: UInt64 = 0
            for digit in digits {
                switch digit {
                case 0x30...0x39: value = value << 4 | UInt64(digit - 0x30)
                case 0x41...0x46, 0x61...0x66: value = value << 4 | UInt64((digit | 0x20) - 0x61 + 10)
                default: return nil
                }
            }
            return value
        }

        /// Section SHT_SYMTAB and the names that it refers to (System V ABI, chapter 4).
        mutating func readELF(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
            let elf = try ELFFile(bytes)
            guard elf.is64 else { throw .unsupported("it is not an ELF64") }
            let sections = try elf.sections()
            for section in sections where section.type == ELFFile.Section.symbolTable {
                guard section.link < sections.count else { throw .malformed("symbol table's names") }
                let table = UnsafeRawBufferPointer(rebasing: bytes[try elf.range(section)])
                let names = UnsafeRawBufferPointer(rebasing: bytes[try elf.range(sections[section.link])])
                try readSymbols(CheckedBytes(table), names: names, sections.map(\.isCode))
            }
        }

        private mutating func readSymbols(
            _ table: CheckedBytes, names strings: UnsafeRawBufferPointer, _ sectionIsCode: [Bool]
        ) throws(ImageError) {
            // A broken file may have many tables, all of them the whole file.
            looked += table.bytes.count / 24
            guard looked <= 4 * SymbolTable.limit else { throw .malformed("symbol tables larger than any kernel's") }
            for start in stride(from: 0, to: table.bytes.count / 24 * 24, by: 24) {
                let info = try table.load(UInt8.self, at: start + 4)
                let section = Int(try table.load(UInt16.self, at: start + 6))
                let offset = Int(try table.load(UInt32.self, at: start))
                // No names: sections (3) and files (4). Section 0: defined elsewhere.
                guard info & 0xF != 3, info & 0xF != 4, section != 0, section < sectionIsCode.count, offset != 0 else {
                    continue
                }
                guard offset < strings.count,
                    let end = strings[offset...].prefix(SymbolTable.nameLimit).firstIndex(of: 0)
                else { throw .malformed("a symbol's name") }
                add(
                    strings[offset..<end], at: try table.load(UInt64.self, at: start + 8),
                    isCode: sectionIsCode[section], isGlobal: info >> 4 != 0)
            }
        }
    }
}

/// Why a file gives no symbols.
public enum SymbolFileError: Error, Equatable, CustomStringConvertible, Sendable {
    case unreadable(SystemError)
    case refused(path: String, ImageError)

    public var description: String {
        switch self {
        case .unreadable(let error): "\(error)"
        case .refused(let path, let error): "\(path): \(error)"
        }
    }
}
