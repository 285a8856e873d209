// SPDX-License-Identifier: Apache-2.0
/// As much of ELF64 (System V ABI, chapter 4) as these tests look at.
struct ELFImage {
    struct Segment {
        let type: UInt32
        let flags: UInt32
        let offset: Int
        let address: UInt64
        let fileSize: Int
        let memorySize: Int
    }

    struct Section {
        let name: String
        let offset: Int
        let size: Int
    }

    private let bytes: UnsafeRawBufferPointer

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    func value<T: FixedWidthInteger>(at offset: Int, as type: T.Type = T.self) -> T {
        bytes.loadUnaligned(fromByteOffset: offset, as: type)
    }

    var identification: [UInt8] { Array(bytes[0..<7]) }
    var type: UInt16 { value(at: 16) }
    var machine: UInt16 { value(at: 18) }
    var entry: UInt64 { value(at: 24) }

    var segments: [Segment] {
        let start = Int(value(at: 32, as: UInt64.self))
        let size = Int(value(at: 54, as: UInt16.self))
        return (0..<Int(value(at: 56, as: UInt16.self))).map { index in
            let header = start + index * size
            return Segment(
                type: value(at: header), flags: value(at: header + 4),
                offset: Int(value(at: header + 8, as: UInt64.self)),
                address: value(at: header + 24), fileSize: Int(value(at: header + 32, as: UInt64.self)),
                memorySize: Int(value(at: header + 40, as: UInt64.self)))
        }
    }

    var sections: [Section] {
        let start = Int(value(at: 40, as: UInt64.self))
        let size = Int(value(at: 58, as: UInt16.self))
        let names = start + Int(value(at: 62, as: UInt16.self)) * size
        let nameTable = Int(value(at: names + 24, as: UInt64.self))
        return (0..<Int(value(at: 60, as: UInt16.self))).map { index in
            let header = start + index * size
            let name = bytes[(nameTable + Int(value(at: header, as: UInt32.self)))...].prefix { $0 != 0 }
            return Section(
                name: String(decoding: name, as: UTF8.self),
                offset: Int(value(at: header + 24, as: UInt64.self)),
                size: Int(value(at: header + 32, as: UInt64.self)))
        }
    }

    /// Where in the file the memory at an address comes from; nil when no segment has it.
    func offset(of address: UInt64) -> Int? {
        segments.first { segment in
            segment.type == 1 && segment.address <= address && address < segment.address + UInt64(segment.fileSize)
        }.map { segment in segment.offset + Int(address - segment.address) }
    }

    subscript(section name: String) -> Section? { sections.first { $0.name == name } }
}
