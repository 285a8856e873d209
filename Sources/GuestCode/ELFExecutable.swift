// SPDX-License-Identifier: Apache-2.0
import Linux

/// A static x86 executable: an ELF64, or a 32-bit one that is entered by Xen's PVH boot ABI.
public struct ELFExecutable: Equatable, Sendable {
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

    static let maximumSections = 128
    static let maximumSites = 64
    /// Bytes of a segment of notes that are looked through.
    private static let maximumNotes = 1 << 20

    private static let executable: UInt16 = 2
    private static let machine386: UInt16 = 3
    private static let machineX8664: UInt16 = 62
    /// XEN_ELFNOTE_PHYS32_ENTRY.
    private static let physicalEntryNote: UInt32 = 18

    /// - Parameter allowsPVH32: a 32-bit file with a ``pvhEntry`` will do.
    public init(_ bytes: UnsafeRawBufferPointer, allowsPVH32: Bool = false) throws(ImageError) {
        let elf = try ELFFile(bytes)
        guard elf.is64 || allowsPVH32 else { throw .unsupported("it is a 32-bit ELF; bare-metal guests are ELF64") }
        guard elf.machine == (elf.is64 ? Self.machineX8664 : Self.machine386) else {
            throw .unsupported("it is not for x86-64")
        }
        guard elf.type == Self.executable else {
            throw .unsupported("it is not a static executable (ET_EXEC): link with -static -no-pie")
        }
        entry = elf.entry
        let headers = try elf.programHeaders()
        segments = try Self.segments(elf, headers)
        sites = try Self.sites(elf)
        pvhEntry = try Self.pvhEntry(elf, headers)
        guard elf.is64 || pvhEntry != nil else {
            throw .unsupported("it is a 32-bit ELF without a PVH entry (XEN_ELFNOTE_PHYS32_ENTRY)")
        }
        let start = elf.is64 ? entry : pvhEntry.map(UInt64.init) ?? 0
        guard segments.contains(where: { $0.memory.contains(start) }) else { throw .entryOutside(start) }
    }

    private static func segments(
        _ elf: ELFFile, _ headers: [ELFFile.ProgramHeader]
    ) throws(ImageError) -> [Segment] {
        var segments: [Segment] = []
        for (index, header) in headers.enumerated() where header.isLoadable {
            guard header.fileSize <= header.memorySize,
                !header.address.addingReportingOverflow(header.memorySize).overflow
            else { throw .malformed("segment \(index)") }
            segments.append(
                Segment(
                    file: try elf.file.range(header.offset, 0, count: header.fileSize), address: header.address,
                    memorySize: header.memorySize))
        }
        segments.sort { $0.address < $1.address }
        for (lower, upper) in zip(segments, segments.dropFirst()) where lower.memory.overlaps(upper.memory) {
            throw .overlap(upper.memory)
        }
        return segments
    }

    /// Looks through the segments of notes: each has name size, descriptor size and type, then both, aligned to 4 bytes, or
    /// to 8 in a segment that is.
    private static func pvhEntry(
        _ elf: ELFFile, _ headers: [ELFFile.ProgramHeader]
    ) throws(ImageError) -> UInt32? {
        for header in headers where header.type == ELFFile.ProgramHeader.note {
            let range = try elf.file.range(header.offset, 0, count: header.fileSize)
            let notes = CheckedBytes(UnsafeRawBufferPointer(rebasing: elf.file.bytes[range.prefix(maximumNotes)]))
            let mask = header.alignment == 8 ? 7 : 3
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

    private static func sites(_ elf: ELFFile) throws(ImageError) -> [UInt64] {
        let sections = try elf.sections(limit: maximumSections)
        guard let section = try elf.section(named: ".vmtally.sites", among: sections) else { return [] }
        guard section.size % 8 == 0, section.size <= UInt64(maximumSites * 8) else {
            throw .malformed(".vmtally.sites")
        }
        let contents = CheckedBytes(UnsafeRawBufferPointer(rebasing: elf.file.bytes[try elf.range(section)]))
        var sites: [UInt64] = []
        for offset in stride(from: 0, to: Int(section.size), by: 8) {
            sites.append(try contents.load(UInt64.self, at: offset))
        }
        return sites
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
        case .outsideMemory(let range) where range.lowerBound >= 0xC000_0000:
            "\(hex(range)) is where the machine's devices are, or above them: link it below 0xC0000000"
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
