// SPDX-License-Identifier: Apache-2.0
import TestSupport
import Testing
@testable import GuestCode

/// A Linux kernel's own symbols, found in its image.
struct KallsymsTests {
    struct Symbol: Equatable {
        let address: UInt64
        let text: String
    }

    /// Where the table of offsets lies: before the names until Linux 6.3, behind them since 6.4. Since 6.2 there are 3
    /// more bytes for each symbol.
    enum Layout: CaseIterable {
        case before, beforeWithSequence, behind
    }

    /// What scripts/kallsyms.c writes, uncompressed but for two tokens, amid bytes that are something else.
    static func image(_ symbols: [Symbol], _ layout: Layout, base: UInt64, absolutePerCPU: Bool) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xCC, count: 4096)
        func align() { bytes += [UInt8](repeating: 0, count: (8 - bytes.count % 8) % 8) }
        var offsets: [UInt8] = []
        for symbol in symbols {
            let isAbsolute = absolutePerCPU && symbol.address < base
            let relative = absolutePerCPU ? base &- 1 &- symbol.address : symbol.address &- base
            offsets += little(UInt32(truncatingIfNeeded: isAbsolute ? symbol.address : relative))
        }
        func addOffsets() {
            align()
            bytes += offsets
            align()
            bytes += little(base)
        }
        if layout != .behind {
            addOffsets()
        }
        align()
        bytes += little(UInt32(symbols.count))
        align()
        let start = bytes.count
        var markers: [UInt8] = []
        for (index, symbol) in symbols.enumerated() {
            if index % 256 == 0 {
                markers += little(UInt32(bytes.count - start))
            }
            // Token 1 is "sys_", token 2 "T": the others are the character itself.
            let packed = symbol.text.replacing("sys_", with: "\u{1}").utf8.map { $0 == 0x54 ? 2 : $0 }
            let size = packed.count
            bytes += size < 128 ? [UInt8(size)] : [UInt8(size & 127 | 128), UInt8(size >> 7)]
            bytes += packed
        }
        align()
        bytes += markers
        align()
        if layout == .beforeWithSequence {
            bytes += (0..<symbols.count * 3).map { UInt8(truncatingIfNeeded: $0 * 7) }
            align()
        }
        var index: [UInt8] = []
        let tokens = bytes.count
        for token in 0..<256 {
            index += little(UInt16(bytes.count - tokens))
            switch token {
            case 1: bytes += "sys_".utf8
            case 2: bytes.append(0x54)
            case 0x21...0x7E: bytes.append(UInt8(token))
            default: break
            }
            bytes.append(0)
        }
        align()
        bytes += index
        if layout == .behind {
            addOffsets()
        }
        return bytes + [UInt8](repeating: 0xCC, count: 512)
    }

    static func symbols(_ count: Int, absolutePerCPU: Bool) -> [Symbol] {
        let base: UInt64 = 0xFFFF_FFFF_9100_0000
        let absolute = absolutePerCPU ? [Symbol(address: 0x40, text: "Apercpu_thing")] : []
        return absolute
            + (0..<count).map { index in
                // One of them with a name of more than 127 bytes.
                let name = index == 3 ? String(repeating: "long", count: 50) : "sys_call\(index)"
                return Symbol(address: base + UInt64(index) * 16, text: (index % 3 == 0 ? "T" : "t") + name)
            }
    }

    private static func read(_ bytes: [UInt8]) -> [Symbol]? {
        bytes.withUnsafeBytes { buffer in
            Kallsyms(buffer)?.symbols.map {
                Symbol(
                    address: $0.address,
                    text: String(decoding: [$0.kind], as: UTF8.self) + String(decoding: $0.name, as: UTF8.self))
            }
        }
    }

    @Test("all symbols come back", arguments: Layout.allCases, [1, 255, 256, 257, 511, 3000])
    func found(layout: Layout, count: Int) {
        for absolutePerCPU in [false, true] {
            let symbols = Self.symbols(count, absolutePerCPU: absolutePerCPU)
            let image = Self.image(symbols, layout, base: 0xFFFF_FFFF_9100_0000, absolutePerCPU: absolutePerCPU)
            let found = Self.read(image)
            #expect(found?.count == symbols.count)
            #expect((found ?? []).elementsEqual(symbols))
        }
    }

    @Test("a table made of them names code")
    func table() throws {
        let image = Self.image(
            Self.symbols(300, absolutePerCPU: true), .before, base: 0xFFFF_FFFF_9100_0000, absolutePerCPU: true)
        let table = try #require(image.withUnsafeBytes { Kallsyms($0).flatMap(SymbolTable.init) })
        #expect(table.location(of: 0xFFFF_FFFF_9100_0028)?.description == "sys_call2+0x8")
        #expect(table.address(of: "percpu_thing") == 0x40)
    }

    /// A guest can fill its RAM with what looks like the beginning of tables at every eight bytes, 64 times over: the search
    /// has its limit.
    @Test(.timeLimit(.minutes(60)), arguments: [[0, 1], [0, 1, 2, 3]] as [[UInt32]])
    func aGuestThatMakesItAllUp(pattern: [UInt32]) {
        let words = pattern.flatMap(little)
        var image: [UInt8] = []
        while image.count < 3 << 20 { image += words }
        let tokens = [UInt8](repeating: 0, count: 512).indices.map { UInt8($0 % 2 == 0 ? 0x21 : 0) }
        let index = (0..<256).flatMap { little(UInt16($0 * 2)) }
        for _ in 0..<64 { image += tokens + index }
        image.withUnsafeBytes { #expect(Kallsyms($0).map { $0.symbols.count } == nil) }
    }
}
