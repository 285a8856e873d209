// SPDX-License-Identifier: Apache-2.0

/// The headers of an ELF file, 32- or 64-bit, little-endian (System V ABI, chapters 4 and 5).
///
/// The bytes may come from anywhere: no offset, size or index of theirs is used before it is known to lie in the file.
package struct ELFFile {
    package struct ProgramHeader {
        static let load: UInt32 = 1
        static let note: UInt32 = 4

        package let type: UInt32
        package let offset: UInt64
        /// p_paddr.
        package let address: UInt64
        package let fileSize: UInt64
        package let memorySize: UInt64
        package let alignment: UInt64

        package var isLoadable: Bool { type == Self.load && memorySize > 0 }
    }

    package struct Section {
        static let symbolTable: UInt32 = 2

        /// Into the section of names.
        let name: UInt64
        let type: UInt32
        let flags: UInt64
        let offset: UInt64
        let size: UInt64
        let link: Int

        /// SHF_EXECINSTR.
        var isCode: Bool { flags & 4 != 0 }
    }

    /// More would be no guest of ours; the limit bounds the time a hostile file can take.
    package static let maximumProgramHeaders = 128

    let file: CheckedBytes
    package let is64: Bool
    /// ET_EXEC: 2.
    let type: UInt16
    /// EM_386: 3; EM_X86_64: 62.
    let machine: UInt16
    package let entry: UInt64

    package static func recognizes(_ bytes: UnsafeRawBufferPointer) -> Bool {
        bytes.starts(with: [0x7F, 0x45, 0x4C, 0x46])
    }

    package init(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        guard Self.recognizes(bytes), bytes.count >= 52, bytes[4] == 1 || bytes.count >= 64 else { throw .notELF }
        guard bytes[4] == 1 || bytes[4] == 2 else { throw .unsupported("it is an ELF of an unknown class") }
        guard bytes[5] == 1 else { throw .unsupported("it is big-endian") }
        file = CheckedBytes(bytes)
        is64 = bytes[4] == 2
        type = try file.load(UInt16.self, at: 16)
        machine = try file.load(UInt16.self, at: 18)
        entry = try file.address(at: 24, is64)
    }

    /// A program has at least one.
    package func programHeaders() throws(ImageError) -> [ProgramHeader] {
        let table = try file.address(at: is64 ? 32 : 28, is64)
        let count = Int(try file.load(UInt16.self, at: is64 ? 56 : 44))
        let size = is64 ? 56 : 32
        guard (1...Self.maximumProgramHeaders).contains(count),
            Int(try file.load(UInt16.self, at: is64 ? 54 : 42)) == size
        else { throw .malformed("program header table") }
        var headers: [ProgramHeader] = []
        for index in 0..<count {
            let header = try file.slice(table, UInt64(index * size), count: size)
            headers.append(
                ProgramHeader(
                    type: try header.load(UInt32.self, at: 0), offset: try header.address(at: is64 ? 8 : 4, is64),
                    address: try header.address(at: is64 ? 24 : 12, is64),
                    fileSize: try header.address(at: is64 ? 32 : 16, is64),
                    memorySize: try header.address(at: is64 ? 40 : 20, is64),
                    alignment: try header.address(at: is64 ? 48 : 28, is64)))
        }
        return headers
    }

    /// - Parameter limit: more are refused.
    func sections(limit: Int = .max) throws(ImageError) -> [Section] {
        let table = try file.address(at: is64 ? 40 : 32, is64)
        let count = Int(try file.load(UInt16.self, at: is64 ? 60 : 48))
        let size = is64 ? 64 : 40
        guard table != 0, count > 0 else { return [] }
        guard count <= limit, Int(try file.load(UInt16.self, at: is64 ? 58 : 46)) == size else {
            throw .malformed("section header table")
        }
        var sections: [Section] = []
        for index in 0..<count {
            let header = try file.slice(table, UInt64(index * size), count: size)
            sections.append(
                Section(
                    name: UInt64(try header.load(UInt32.self, at: 0)), type: try header.load(UInt32.self, at: 4),
                    flags: try header.address(at: 8, is64), offset: try header.address(at: is64 ? 24 : 16, is64),
                    size: try header.address(at: is64 ? 32 : 20, is64),
                    link: Int(try header.load(UInt32.self, at: is64 ? 40 : 24))))
        }
        return sections
    }

    /// Where a section's bytes lie in the file.
    func range(_ section: Section) throws(ImageError) -> Range<Int> {
        try file.range(section.offset, 0, count: section.size)
    }

    /// The section of that name, the first of them.
    func section(named name: String, among sections: [Section]) throws(ImageError) -> Section? {
        let index = Int(try file.load(UInt16.self, at: is64 ? 62 : 50))
        guard !sections.isEmpty else { return nil }
        guard index < sections.count else { throw .malformed("section name index") }
        let wanted = Array("\(name)\0".utf8)
        return sections.first { section in
            guard let range = try? file.range(sections[index].offset, section.name, count: UInt64(wanted.count)) else {
                return false
            }
            return file.bytes[range].elementsEqual(wanted)
        }
    }
}

extension CheckedBytes {
    /// An address, offset or size of the file's class.
    fileprivate func address(at offset: Int, _ is64: Bool) throws(ImageError) -> UInt64 {
        is64 ? try load(UInt64.self, at: offset) : UInt64(try load(UInt32.self, at: offset))
    }
}
