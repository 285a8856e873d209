/// Builds an ELF64 executable in memory, sound or broken.
struct ELFBuilder {
    struct Segment {
        var address: UInt64
        var bytes: [UInt8]
        /// nil: as many as there are bytes.
        var memorySize: UInt64?
    }

    /// File offsets of the header's fields (System V ABI, figure 4-3).
    enum Field {
        static let elfClass = 4
        static let encoding = 5
        static let type = 16
        static let machine = 18
        static let entry = 24
        static let programHeaders = 32
        static let sectionHeaders = 40
        static let programHeaderSize = 54
        static let programHeaderCount = 56
        static let sectionHeaderSize = 58
        static let sectionHeaderCount = 60
        static let nameSection = 62
    }

    var segments: [Segment] = []
    var entry: UInt64 = 0
    /// Contents of `.vmtally.sites`; nil: no sections at all.
    var sites: [UInt8]?

    static let headerSize = 64
    static let programHeaderSize = 56
    static let sectionHeaderSize = 64

    /// File offset of the field at `offset` in a program header.
    static func programHeader(_ index: Int, _ offset: Int) -> Int {
        headerSize + index * programHeaderSize + offset
    }

    var bytes: [UInt8] {
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
        if let sites {
            let names = Array("\0.shstrtab\0.vmtally.sites\0".utf8)
            let namesOffset = contentsOffset + contents.count
            let sitesOffset = namesOffset + names.count
            contents += names + sites
            sectionHeaders =
                [UInt8](repeating: 0, count: Self.sectionHeaderSize)
                + Self.section(name: 1, type: 3, offset: namesOffset, size: names.count)
                + Self.section(name: 11, type: 1, offset: sitesOffset, size: sites.count)
        }
        let sectionHeadersOffset = sites == nil ? 0 : contentsOffset + contents.count
        header += little(UInt16(2)) + little(UInt16(62)) + little(UInt32(1)) + little(entry)
        header += little(UInt64(Self.headerSize)) + little(UInt64(sectionHeadersOffset)) + little(UInt32(0))
        header += little(UInt16(Self.headerSize)) + little(UInt16(Self.programHeaderSize))
        header += little(UInt16(segments.count)) + little(UInt16(Self.sectionHeaderSize))
        header += little(UInt16(sites == nil ? 0 : 3)) + little(UInt16(sites == nil ? 0 : 1))
        return header + programHeaders + contents + sectionHeaders
    }

    private static func section(name: UInt32, type: UInt32, offset: Int, size: Int) -> [UInt8] {
        little(name) + little(type) + little(UInt64(0)) + little(UInt64(0)) + little(UInt64(offset))
            + little(UInt64(size)) + little(UInt32(0)) + little(UInt32(0)) + little(UInt64(1)) + little(UInt64(0))
    }
}

/// An integer's bytes, lowest first.
func little(_ value: some FixedWidthInteger) -> [UInt8] {
    withUnsafeBytes(of: value.littleEndian) { Array($0) }
}

extension [UInt8] {
    /// The same bytes with an integer written over them at an offset.
    func patched(_ offset: Int, _ value: some FixedWidthInteger) -> [UInt8] {
        var result = self
        result.replaceSubrange(offset..<offset + value.bitWidth / 8, with: little(value))
        return result
    }
}
