// SPDX-License-Identifier: Apache-2.0
/// Builds an ELF64 executable in memory, sound or broken.
package struct ELFBuilder {
    package struct Segment {
        package var address: UInt64
        package var bytes: [UInt8]
        /// nil: as many as there are bytes.
        package var memorySize: UInt64?

        package init(address: UInt64, bytes: [UInt8], memorySize: UInt64? = nil) {
            self.address = address
            self.bytes = bytes
            self.memorySize = memorySize
        }
    }

    /// File offsets of the header's fields (System V ABI, figure 4-3).
    package enum Field {
        package static let elfClass = 4
        package static let encoding = 5
        package static let type = 16
        package static let machine = 18
        package static let entry = 24
        package static let programHeaders = 32
        package static let sectionHeaders = 40
        package static let programHeaderSize = 54
        package static let programHeaderCount = 56
        package static let sectionHeaderSize = 58
        package static let sectionHeaderCount = 60
        package static let nameSection = 62
    }

    package var segments: [Segment] = []
    package var entry: UInt64 = 0
    /// Contents of `.vmtally.sites`; nil: no such section.
    package var sites: [UInt8]?
    /// `.symtab`: names and addresses in a section of code; empty: no such section.
    package var symbols: [(name: String, address: UInt64)] = []

    package static let headerSize = 64
    package static let programHeaderSize = 56
    package static let sectionHeaderSize = 64

    /// File offset of the field at `offset` in a program header.
    package static func programHeader(_ index: Int, _ offset: Int) -> Int {
        headerSize + index * programHeaderSize + offset
    }

    package init() {}

    package var bytes: [UInt8] {
        var header: [UInt8] = [0x7F, 0x45, 0x4C, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        var programHeaders: [UInt8] = []
        var contents: [UInt8] = []
        let contentsOffset = Self.headerSize + segments.count * Self.programHeaderSize
        for segment in segments {
            let offset = UInt64(contentsOffset + contents.count)
            let size = UInt64(segment.bytes.count)
            programHeaders += little(UInt32(1)) + little(UInt32(7)) + little(offset)
            programHeaders += little(segment.address) + little(segment.address)
            programHeaders += little(size) + little(segment.memorySize ?? size) + little(UInt64(4096))
            contents += segment.bytes
        }
        var sectionHeaders: [UInt8] = []
        func add(name: UInt32, type: UInt32, flags: UInt64 = 0, link: UInt32 = 0, _ bytes: [UInt8]) {
            sectionHeaders += Self.section(
                name: name, type: type, flags: flags, offset: contentsOffset + contents.count, size: bytes.count,
                link: link)
            contents += bytes
        }
        if sites != nil || !symbols.isEmpty {
            sectionHeaders = [UInt8](repeating: 0, count: Self.sectionHeaderSize)
            add(name: 1, type: 3, Array("\0.shstrtab\0.vmtally.sites\0".utf8))
        }
        if let sites {
            add(name: 11, type: 1, sites)
        }
        if !symbols.isEmpty {
            var names: [UInt8] = [0]
            var table = [UInt8](repeating: 0, count: 24)
            let code = UInt16(sectionHeaders.count / Self.sectionHeaderSize)
            for symbol in symbols {
                // Global (1), function (2).
                table += little(UInt32(names.count)) + [0x12, 0] + little(code)
                table += little(symbol.address) + little(UInt64(0))
                names += Array(symbol.name.utf8) + [0]
            }
            add(name: 0, type: 1, flags: 4, [])
            add(name: 0, type: 3, names)
            add(name: 0, type: 2, link: UInt32(code) + 1, table)
        }
        let sections = sectionHeaders.count / Self.sectionHeaderSize
        let sectionHeadersOffset = sections == 0 ? 0 : contentsOffset + contents.count
        header += little(UInt16(2)) + little(UInt16(62)) + little(UInt32(1)) + little(entry)
        header += little(UInt64(Self.headerSize)) + little(UInt64(sectionHeadersOffset)) + little(UInt32(0))
        header += little(UInt16(Self.headerSize)) + little(UInt16(Self.programHeaderSize))
        header += little(UInt16(segments.count)) + little(UInt16(Self.sectionHeaderSize))
        header += little(UInt16(sections)) + little(UInt16(sections == 0 ? 0 : 1))
        return header + programHeaders + contents + sectionHeaders
    }

    private static func section(
        name: UInt32, type: UInt32, flags: UInt64, offset: Int, size: Int, link: UInt32
    ) -> [UInt8] {
        little(name) + little(type) + little(flags) + little(UInt64(0)) + little(UInt64(offset))
            + little(UInt64(size)) + little(link) + little(UInt32(0)) + little(UInt64(1)) + little(UInt64(0))
    }
}

/// An integer's bytes, lowest first.
package func little(_ value: some FixedWidthInteger) -> [UInt8] {
    withUnsafeBytes(of: value.littleEndian) { Array($0) }
}

extension [UInt8] {
    /// The same bytes with an integer written over them at an offset.
    package func patched(_ offset: Int, _ value: some FixedWidthInteger) -> [UInt8] {
        var result = self
        result.replaceSubrange(offset..<offset + value.bitWidth / 8, with: little(value))
        return result
    }
}
