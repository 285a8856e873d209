// SPDX-License-Identifier: Apache-2.0
import Linux

/// A static ELF64 x86-64 executable, checked (System V ABI, chapters 4 and 5).
///
/// The bytes may come from anywhere: no offset, size or index of theirs is used before it is known to lie in the file.
public struct ELF64: Equatable, Sendable {
    /// A piece of the file that goes to memory.
    public struct Segment: Equatable, Sendable {
        /// Where its bytes lie in the file.
        public let file: Range<Int>
        /// Guest physical address.
        public let address: UInt64
        /// Bytes in memory; those past the file's are zero.
        public let memorySize: UInt64

        /// Guest physical range.
        public var memory: Range<UInt64> { address..<address + memorySize }
    }

    /// Guest physical address of the first instruction.
    public let entry: UInt64
    /// Loadable segments, by address, without overlap.
    public let segments: [Segment]
    /// Addresses of CPUID instructions that the section `.vmtally.sites` lists.
    public let sites: [UInt64]
    /// Where Xen's PVH boot ABI enters it: the note XEN_ELFNOTE_PHYS32_ENTRY.
    public let pvhEntry: UInt32?

    /// More would be no guest of ours; the limit bounds the time a hostile file can take.
    package static let maximumHeaders = 128
    static let maximumSites = 64
    /// Bytes of a segment of notes that are looked through.
    private static let maximumNotes = 1 << 20

    private static let executable: UInt16 = 2
    private static let machine: UInt16 = 62
    private static let loadable: UInt32 = 1
    private static let note: UInt32 = 4
    /// XEN_ELFNOTE_PHYS32_ENTRY.
    private static let physicalEntryNote: UInt32 = 18
    private static let headerSize = 64
    private static let programHeaderSize = 56
    private static let sectionHeaderSize = 64

    public init(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        guard bytes.count >= Self.headerSize, bytes.starts(with: [0x7F, 0x45, 0x4C, 0x46]) else { throw .notELF }
        guard bytes[4] == 2 else { throw .unsupported("it is a 32-bit ELF; bare-metal guests are ELF64") }
        guard bytes[5] == 1 else { throw .unsupported("it is big-endian") }
        let file = CheckedBytes(bytes)
        guard try file.load(UInt16.self, at: 18) == Self.machine else { throw .unsupported("it is not for x86-64") }
        guard try file.load(UInt16.self, at: 16) == Self.executable else {
            throw .unsupported("it is not a static executable (ET_EXEC): link with -static -no-pie")
        }
        let entry = try file.load(UInt64.self, at: 24)
        self.entry = entry
        segments = try Self.segments(file)
        sites = try Self.sites(file)
        pvhEntry = try Self.pvhEntry(file)
        guard segments.contains(where: { $0.memory.contains(entry) }) else { throw .entryOutside(entry) }
    }

    private static func segments(_ file: CheckedBytes) throws(ImageError) -> [Segment] {
        let offset = try file.load(UInt64.self, at: 32)
        let count = Int(try file.load(UInt16.self, at: 56))
        guard count > 0, count <= maximumHeaders, try file.load(UInt16.self, at: 54) == UInt16(programHeaderSize) else {
            throw .malformed("program header table")
        }
        var segments: [Segment] = []
        for index in 0..<count {
            let header = try file.slice(offset, UInt64(index * programHeaderSize), count: programHeaderSize)
            guard try header.load(UInt32.self, at: 0) == loadable else { continue }
            let memorySize = try header.load(UInt64.self, at: 40)
            guard memorySize > 0 else { continue }
            let fileSize = try header.load(UInt64.self, at: 32)
            let address = try header.load(UInt64.self, at: 24)
            guard fileSize <= memorySize, !address.addingReportingOverflow(memorySize).overflow else {
                throw .malformed("segment \(index)")
            }
            let range = try file.range(try header.load(UInt64.self, at: 8), 0, count: fileSize)
            segments.append(Segment(file: range, address: address, memorySize: memorySize))
        }
        segments.sort { $0.address < $1.address }
        for (lower, upper) in zip(segments, segments.dropFirst()) where lower.memory.overlaps(upper.memory) {
            throw .overlap(upper.memory)
        }
        return segments
    }

    /// Looks through the segments of notes: each has name size, descriptor size and type, then both, aligned to 4 bytes, or
    /// to 8 in a segment that is.
    private static func pvhEntry(_ file: CheckedBytes) throws(ImageError) -> UInt32? {
        let offset = try file.load(UInt64.self, at: 32)
        let count = Int(try file.load(UInt16.self, at: 56))
        for index in 0..<count {
            let header = try file.slice(offset, UInt64(index * programHeaderSize), count: programHeaderSize)
            guard try header.load(UInt32.self, at: 0) == note else { continue }
            let range = try file.range(
                try header.load(UInt64.self, at: 8), 0, count: try header.load(UInt64.self, at: 32))
            let notes = CheckedBytes(UnsafeRawBufferPointer(rebasing: file.bytes[range.prefix(maximumNotes)]))
            let mask = try header.load(UInt64.self, at: 48) == 8 ? 7 : 3
            var place = 0
            while place + 12 <= notes.bytes.count {
                let nameSize = Int(try notes.load(UInt32.self, at: place))
                let size = Int(try notes.load(UInt32.self, at: place + 4))
                let type = try notes.load(UInt32.self, at: place + 8)
                let contents = (place + 12 + nameSize + mask) & ~mask
                if type == physicalEntryNote, nameSize == 4, size >= 4,
                    try notes.load(UInt32.self, at: place + 12) == 0x006E_6558  // "Xen"
                {
                    return try notes.load(UInt32.self, at: contents)
                }
                place = (contents + size + mask) & ~mask
            }
        }
        return nil
    }

    private static func sites(_ file: CheckedBytes) throws(ImageError) -> [UInt64] {
        let offset = try file.load(UInt64.self, at: 40)
        let count = Int(try file.load(UInt16.self, at: 60))
        guard offset != 0, count > 0 else { return [] }
        guard count <= maximumHeaders, try file.load(UInt16.self, at: 58) == UInt16(sectionHeaderSize) else {
            throw .malformed("section header table")
        }
        func header(_ index: Int) throws(ImageError) -> CheckedBytes {
            try file.slice(offset, UInt64(index * sectionHeaderSize), count: sectionHeaderSize)
        }
        let nameIndex = Int(try file.load(UInt16.self, at: 62))
        guard nameIndex < count else { throw .malformed("section name index") }
        let names = try header(nameIndex).load(UInt64.self, at: 24)
        let wanted = Array(".vmtally.sites\0".utf8)
        for index in 0..<count {
            let section = try header(index)
            let name = UInt64(try section.load(UInt32.self, at: 0))
            guard let range = try? file.range(names, name, count: UInt64(wanted.count)),
                file.bytes[range].elementsEqual(wanted)
            else { continue }
            let size = try section.load(UInt64.self, at: 32)
            guard size % 8 == 0, size <= UInt64(maximumSites * 8) else { throw .malformed(".vmtally.sites") }
            let contents = try file.slice(try section.load(UInt64.self, at: 24), 0, count: Int(size))
            var sites: [UInt64] = []
            for offset in stride(from: 0, to: Int(size), by: 8) {
                sites.append(try contents.load(UInt64.self, at: offset))
            }
            return sites
        }
        return []
    }
}

/// Why an image is refused.
public enum ImageError: Error, Equatable, CustomStringConvertible, Sendable {
    case notELF
    case unsupported(String)
    case malformed(String)
    case overlap(Range<UInt64>)
    case entryOutside(UInt64)
    case outsideMemory(Range<UInt64>)

    public var description: String {
        switch self {
        case .notELF: "not an ELF file: give a static ELF64 x86-64 executable"
        case .unsupported(let why): "\(why)"
        case .malformed(let part): "malformed or truncated: \(part)"
        case .overlap(let range): "two segments claim \(hex(range)): relink it without overlap"
        case .entryOutside(let entry): "its entry \(hex(entry)) lies in no segment"
        case .outsideMemory(let range) where range.lowerBound < 0x10_0000 && range.upperBound <= 0x10_0000:
            "\(hex(range)) is where the machine's tables and the BIOS area are: link it to 0x100000 or above"
        case .outsideMemory(let range):
            "\(hex(range)) is outside guest RAM or used by the boot structures at its end: give the guest more RAM or relink"
        }
    }
}

/// Bytes of a file, read with a check of every offset.
package struct CheckedBytes {
    package let bytes: UnsafeRawBufferPointer

    package init(_ bytes: UnsafeRawBufferPointer) {
        self.bytes = bytes
    }

    package func range(_ base: UInt64, _ offset: UInt64, count: UInt64) throws(ImageError) -> Range<Int> {
        let (start, overflow) = base.addingReportingOverflow(offset)
        let size = UInt64(bytes.count)
        guard !overflow, start <= size, count <= size - start else {
            throw .malformed("it ends before offset \(hex(overflow ? .max : start)) + \(count)")
        }
        return Int(start)..<Int(start + count)
    }

    package func slice(_ base: UInt64, _ offset: UInt64, count: Int) throws(ImageError) -> CheckedBytes {
        CheckedBytes(UnsafeRawBufferPointer(rebasing: bytes[try range(base, offset, count: UInt64(count))]))
    }

    package func load<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, at offset: Int) throws(ImageError) -> T {
        bytes.loadUnaligned(
            fromByteOffset: try range(0, UInt64(offset), count: UInt64(MemoryLayout<T>.size)).lowerBound, as: T.self)
    }
}
