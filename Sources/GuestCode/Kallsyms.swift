// SPDX-License-Identifier: Apache-2.0
/// The symbols that a Linux kernel has of itself (CONFIG_KALLSYMS), found in the guest's RAM: a stock kernel needs no file
/// to name its code.
///
/// The tables have no header: they are told by the shape that scripts/kallsyms.c gives them. Before Linux 6.4 these are
/// offsets, base, count, names, markers, since 6.2 (and in stable kernels before it) 3 bytes for each symbol, token table,
/// token index; since then offsets and base come last, and the bytes behind them. The guest may have made all of it up:
/// every index is checked, and the work has a limit.
package struct Kallsyms {
    struct Symbol {
        let address: UInt64
        /// As nm(1) has it.
        let kind: UInt8
        let name: ArraySlice<UInt8>
    }

    /// In the kernel's order.
    let symbols: [Symbol]

    private static let tokenCount = 256
    /// Bytes of a token, more than any kernel has.
    private static let tokenLimit = 64
    /// Symbols for each marker.
    private static let markerSpan = 256
    private static let symbolLimit = 1 << 20
    private static let nameBytesLimit = 64 << 20
    /// Places that look like a token index; a kernel has one.
    private static let attemptLimit = 64
    /// Numbers, names and bytes of names gone over in all attempts together: ten times what a kernel takes.
    private static let workLimit = 1 << 27

    /// - Parameter image: the kernel's own image in RAM, at a multiple of 8.
    package init?(_ image: UnsafeRawBufferPointer) {
        let tables = Tables(image, Work(Self.workLimit))
        var attempts = 0
        for place in stride(from: 0, through: image.count - Self.tokenCount * 2, by: 8)
        where tables.isTokenIndex(place) {
            attempts += 1
            if let symbols = tables.symbols(tokenIndex: place) {
                self.symbols = symbols
                return
            }
            guard attempts < Self.attemptLimit, tables.work.isLeft else { return nil }
        }
        return nil
    }

    /// What may still be done before the guest's tables are given up.
    private final class Work {
        private var left: Int

        init(_ limit: Int) {
            left = limit
        }

        func add(_ amount: Int) { left -= amount }
        var isLeft: Bool { left > 0 }
    }

    private struct Tables {
        let image: UnsafeRawBufferPointer
        let work: Work

        init(_ image: UnsafeRawBufferPointer, _ work: Work) {
            self.image = image
            self.work = work
        }

        private func load<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, at place: Int) -> T? {
            guard place >= 0, place <= image.count - MemoryLayout<T>.size else { return nil }
            return image.loadUnaligned(fromByteOffset: place, as: T.self)
        }

        private func aligned(_ size: Int) -> Int { (size + 7) & ~7 }

        /// 256 offsets from 0 up, each a token and its null byte further.
        func isTokenIndex(_ place: Int) -> Bool {
            var last: UInt16 = 0
            guard load(UInt16.self, at: place) == 0 else { return false }
            for index in 1..<Kallsyms.tokenCount {
                guard let offset = load(UInt16.self, at: place + index * 2), offset > last,
                    Int(offset - last) <= Kallsyms.tokenLimit
                else { return false }
                last = offset
            }
            return true
        }

        func symbols(tokenIndex: Int) -> [Symbol]? {
            guard let tokens = tokens(tokenIndex) else { return nil }
            for markers in markers(before: tokens.start) {
                guard let (count, names) = names(before: markers),
                    let decoded = decode(count, names, markers, tokens.texts),
                    let addresses = addresses(
                        count, beforeCount: names - 8, behind: tokenIndex + Kallsyms.tokenCount * 2)
                else { continue }
                return zip(addresses, decoded).map { address, name in
                    Symbol(address: address, kind: name[name.startIndex], name: name.dropFirst())
                }
            }
            return nil
        }

        /// The texts, right before their index, and where they begin. Symbols are printable, and so are parts of them.
        private func tokens(_ index: Int) -> (start: Int, texts: [[UInt8]])? {
            let offsets = (0..<Kallsyms.tokenCount).compactMap { load(UInt16.self, at: index + $0 * 2).map(Int.init) }
            guard let last = offsets.last else { return nil }
            // The last token's length is not known, but everything is aligned.
            for size in stride(from: aligned(last + 1), through: aligned(last + 1 + Kallsyms.tokenLimit), by: 8) {
                let start = index - size
                guard start >= 0 else { return nil }
                let texts = offsets.compactMap { offset -> [UInt8]? in
                    let text = image[(start + offset)..<index].prefix(Kallsyms.tokenLimit).prefix { $0 != 0 }
                    return text.allSatisfy { (0x21...0x7E).contains($0) } ? Array(text) : nil
                }
                let fits =
                    texts.count == offsets.count
                    && (1..<offsets.count).allSatisfy { offsets[$0] == offsets[$0 - 1] + texts[$0 - 1].count + 1 }
                if fits, aligned(last + (texts.last?.count ?? 0) + 1) == size {
                    return (start, texts)
                }
            }
            return nil
        }

        /// Offsets of each 256th name, which begin with 0.
        typealias Markers = (place: Int, offsets: [UInt32])

        /// What may be them: right before `end`, or before as many times 3 bytes as there are symbols.
        private func markers(before end: Int) -> [Markers] {
            func markerCount(_ symbols: Int) -> Int {
                max(1, (symbols + Kallsyms.markerSpan - 1) / Kallsyms.markerSpan)
            }
            var found = markers(endingAt: end)
            for size in stride(from: 8, through: min(end, 3 * Kallsyms.symbolLimit), by: 8) {
                guard found.count < 4, work.isLeft else { break }
                // Padding leaves the number of symbols open by two.
                for count in markerCount((size - 5) / 3)...markerCount(size / 3) {
                    found += markers(at: end - size - aligned(count * 4), count)
                }
            }
            return found
        }

        private func markers(at place: Int, _ count: Int) -> [Markers] {
            // Nearly all places are told by their first two numbers.
            guard load(UInt32.self, at: place) == 0, count == 1 || load(UInt32.self, at: place + 4) ?? 0 > 0 else {
                return []
            }
            var offsets: [UInt32] = []
            for index in 0..<count {
                guard let offset = load(UInt32.self, at: place + index * 4), index == 0 || offset > offsets[index - 1]
                else {
                    work.add(index)
                    return []
                }
                offsets.append(offset)
            }
            work.add(count)
            return [(place, offsets)]
        }

        /// However many: from the last one down to 0.
        private func markers(endingAt end: Int) -> [Markers] {
            var place = end - 4
            // An odd number of them is padded, and a single 0 is a number of its own.
            if load(UInt32.self, at: place) == 0 {
                place -= 4
            }
            var last = UInt32.max
            work.add(Kallsyms.symbolLimit / Kallsyms.markerSpan)
            for count in 1...(Kallsyms.symbolLimit / Kallsyms.markerSpan) {
                guard let offset = load(UInt32.self, at: place), offset < last else { return [] }
                if offset == 0 {
                    return place % 8 == 0 ? markers(at: place, count) : []
                }
                last = offset
                place -= 4
            }
            return []
        }

        /// How many names there are, and where they begin: behind that number, which lies 8 bytes before.
        private func names(before markers: Markers) -> (count: Int, place: Int)? {
            guard let last = markers.offsets.last else { return nil }
            let full = (markers.offsets.count - 1) * Kallsyms.markerSpan
            // The names behind the last marker, of at most 256 bytes each.
            let latest = markers.place - Int(last)
            for place in stride(from: latest & ~7, to: max(7, latest - Kallsyms.markerSpan * 256), by: -8) {
                guard let count = load(UInt32.self, at: place - 8), let padding = load(UInt32.self, at: place - 4)
                else { return nil }
                let isCount = padding == 0 && Int(count) > full && Int(count) <= full + Kallsyms.markerSpan
                // One that only looks like the number is told by the length of the names.
                if isCount, let rest = length(Int(count) - full, at: place + Int(last)),
                    aligned(Int(last) + rest) == markers.place - place
                {
                    return (Int(count), place)
                }
            }
            return nil
        }

        /// Bytes of so many names.
        private func length(_ count: Int, at start: Int) -> Int? {
            var place = start
            work.add(count)
            guard work.isLeft else { return nil }
            for _ in 0..<count {
                guard let (size, header) = nameSize(at: place) else { return nil }
                place += header + size
            }
            return place - start
        }

        /// Tokens of a name, and bytes of that number: two where it is over 127.
        private func nameSize(at place: Int) -> (size: Int, header: Int)? {
            guard let low = load(UInt8.self, at: place) else { return nil }
            guard low & 0x80 != 0 else { return (Int(low), 1) }
            guard let high = load(UInt8.self, at: place + 1) else { return nil }
            return (Int(low & 0x7F) | Int(high & 0x7F) << 7, 2)
        }

        /// Kind and name of each symbol.
        private func decode(
            _ count: Int, _ names: Int, _ markers: Markers, _ tokens: [[UInt8]]
        ) -> [ArraySlice<UInt8>]? {
            var texts: [UInt8] = []
            var ends: [Int] = []
            ends.reserveCapacity(count)
            var place = names
            for index in 0..<count {
                if index % Kallsyms.markerSpan == 0, place - names != markers.offsets[index / Kallsyms.markerSpan] {
                    return nil
                }
                guard let (size, header) = nameSize(at: place), size > 0, place + header + size <= markers.place,
                    texts.count < Kallsyms.nameBytesLimit
                else { return nil }
                let start = texts.count
                for token in image[place + header..<place + header + size] {
                    texts.append(contentsOf: tokens[Int(token)])
                }
                work.add(texts.count - start)
                guard texts.count - start >= 2, work.isLeft else { return nil }
                ends.append(texts.count)
                place += header + size
            }
            return ends.indices.map { texts[($0 == 0 ? 0 : ends[$0 - 1])..<ends[$0]] }
        }

        /// Offsets from a base: all of them, or (CONFIG_KALLSYMS_ABSOLUTE_PERCPU) the negative ones, the others being
        /// addresses.
        private func addresses(_ count: Int, beforeCount: Int, behind: Int) -> [UInt64]? {
            let size = aligned(count * 4)
            for (offsets, basePlace) in [(beforeCount - 8 - size, beforeCount - 8), (behind, behind + size)] {
                // In the part of the address space that the kernel's image has.
                guard let base = load(UInt64.self, at: basePlace), base >= 0xFFFF_FFFF_8000_0000, offsets >= 0 else {
                    continue
                }
                let values = (0..<count).compactMap { load(Int32.self, at: offsets + $0 * 4) }
                let isSigned = values.contains { $0 < 0 }
                let addresses = values.map { value in
                    isSigned
                        ? value >= 0 ? UInt64(value) : base &- 1 &- UInt64(bitPattern: Int64(value))
                        : base &+ UInt64(UInt32(bitPattern: value))
                }
                // The kernel has them sorted.
                if zip(addresses, addresses.dropFirst()).allSatisfy({ $0 <= $1 }) {
                    return addresses
                }
            }
            return nil
        }
    }
}
