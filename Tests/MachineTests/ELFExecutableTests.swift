// SPDX-License-Identifier: Apache-2.0
import TestSupport
import Testing
@testable import GuestCode
@testable import Machine

/// What the loader takes and what it refuses, and that no file harms it.
struct ELFExecutableTests {
    typealias Field = ELFBuilder.Field

    /// One segment at 1 MiB with a HLT in it, and a site.
    static var sound: ELFBuilder {
        var builder = ELFBuilder()
        builder.entry = 0x10_0000
        builder.segments = [.init(address: 0x10_0000, bytes: [0xF4, 0x90, 0x0F, 0xA2], memorySize: 0x1000)]
        builder.sites = little(UInt64(0x10_0002))
        return builder
    }

    /// Loads as the machine does; nil when all is well.
    static func refusal(_ bytes: [UInt8], mebibytes: Int = 16, cpus: Int = 1) throws -> ImageError? {
        let memory = try GuestMemory(mebibytes: mebibytes)
        do {
            try bytes.withUnsafeBytes { raw in
                _ = try BareMetal(try ELFExecutable(raw), bytes: raw, into: memory, cpus: cpus)
            }
            return nil
        } catch let error as ImageError {
            return error
        } catch MachineError.image(let error) {
            return error
        }
    }

    @Test func soundFileIsUnderstood() throws {
        let bytes = Self.sound.bytes
        let image = try bytes.withUnsafeBytes { try ELFExecutable($0) }
        #expect(image.entry == 0x10_0000)
        #expect(image.segments.count == 1)
        #expect(image.segments.first?.memory == 0x10_0000..<0x10_1000)
        #expect(image.segments.first?.file.count == 4)
        #expect(image.sites == [0x10_0002])
        #expect(try Self.refusal(bytes) == nil)
    }

    @Test func segmentsArriveWhereTheyBelong() throws {
        var builder = Self.sound
        builder.segments.append(.init(address: 0x20_0123, bytes: [1, 2, 3], memorySize: 100))
        builder.segments.insert(.init(address: 0x1000, bytes: [9], memorySize: 1), at: 0)
        let memory = try GuestMemory(mebibytes: 4)
        let bytes = builder.bytes
        let boot = try bytes.withUnsafeBytes { raw in
            try BareMetal(try ELFExecutable(raw), bytes: raw, into: memory, cpus: 2)
        }
        #expect(boot.entry == 0x10_0000)
        #expect(memory.load(UInt32.self, at: 0x10_0000) == 0xA20F_90F4)
        #expect(memory.load(UInt64.self, at: 0x20_0123) == 0x030201)
        #expect(memory.load(UInt8.self, at: 0x1000) == 9)
        // The boot-info page of docs/guests.md.
        let info = boot.longMode.bootInfo
        #expect(info & 0xFFF == 0)
        #expect(memory.slice(info, count: 8).map { Array($0) } == Array("VMTALLY1".utf8))
        #expect(memory.load(UInt64.self, at: info + 8) == 4 << 20)
        #expect(memory.load(UInt32.self, at: info + 16) == 2)
    }

    struct Refused: CustomTestStringConvertible, Sendable {
        let testDescription: String
        let bytes: [UInt8]
        let error: ImageError

        init(_ name: String, _ bytes: [UInt8], _ error: ImageError) {
            testDescription = name
            self.bytes = bytes
            self.error = error
        }
    }

    private static func patched(_ offset: Int, _ value: some FixedWidthInteger) -> [UInt8] {
        sound.bytes.patched(offset, value)
    }

    private static func with(_ change: (inout ELFBuilder) -> Void) -> [UInt8] {
        var builder = sound
        change(&builder)
        return builder.bytes
    }

    private static let fileOffset = ELFBuilder.programHeader(0, 8)
    private static let address = ELFBuilder.programHeader(0, 24)
    private static let fileSize = ELFBuilder.programHeader(0, 32)
    private static let memorySize = ELFBuilder.programHeader(0, 40)

    static let headers = [
        Refused("no bytes", [], .notELF),
        Refused("one byte", [0x7F], .notELF),
        Refused("the magic alone", [0x7F, 0x45, 0x4C, 0x46], .notELF),
        Refused("63 bytes", Array(sound.bytes[..<63]), .notELF),
        Refused("a script", Array("#!/bin/sh\n".utf8) + [UInt8](repeating: 0x20, count: 100), .notELF),
        Refused("zeros", [UInt8](repeating: 0, count: 4096), .notELF),
        Refused(
            "32-bit", patched(Field.elfClass, 1 as UInt8),
            .unsupported("it is a 32-bit ELF; bare-metal guests are ELF64")),
        Refused("big-endian", patched(Field.encoding, 2 as UInt8), .unsupported("it is big-endian")),
        Refused("for AArch64", patched(Field.machine, 183 as UInt16), .unsupported("it is not for x86-64")),
        Refused("for i386", patched(Field.machine, 3 as UInt16), .unsupported("it is not for x86-64")),
        Refused(
            "position-independent (ET_DYN)", patched(Field.type, 3 as UInt16),
            .unsupported("it is not a static executable (ET_EXEC): link with -static -no-pie")),
        Refused(
            "an object file (ET_REL)", patched(Field.type, 1 as UInt16),
            .unsupported("it is not a static executable (ET_EXEC): link with -static -no-pie")),
        Refused(
            "no program headers", patched(Field.programHeaderCount, 0 as UInt16), .malformed("program header table")),
        Refused(
            "65,535 program headers", patched(Field.programHeaderCount, .max as UInt16),
            .malformed("program header table")),
        Refused(
            "program headers of another size", patched(Field.programHeaderSize, 32 as UInt16),
            .malformed("program header table")),
        Refused(
            "program headers at the end of the address space", patched(Field.programHeaders, .max as UInt64),
            .malformed("it ends before offset 0xffffffffffffffff + 56")),
        Refused(
            "program headers beyond the file", patched(Field.programHeaders, 1 << 40 as UInt64),
            .malformed("it ends before offset 0x10000000000 + 56")),
        Refused("entry 0", patched(Field.entry, 0 as UInt64), .entryOutside(0)),
        Refused("entry past the segment", patched(Field.entry, 0x10_1000 as UInt64), .entryOutside(0x10_1000)),
        Refused("entry at the end of the address space", patched(Field.entry, .max as UInt64), .entryOutside(.max)),
    ]

    static let segments = [
        Refused(
            "segment's bytes beyond the file", patched(fileOffset, 1 << 20 as UInt64),
            .malformed("it ends before offset 0x100000 + 4")),
        Refused(
            "segment's offset at the end of the address space", patched(fileOffset, .max as UInt64),
            .malformed("it ends before offset 0xffffffffffffffff + 4")),
        Refused("more bytes in the file than in memory", patched(fileSize, 0x1001 as UInt64), .malformed("segment 0")),
        Refused(
            "2^63 bytes in memory", patched(memorySize, 1 << 63 as UInt64),
            .outsideMemory(0x10_0000..<0x8000_0000_0010_0000)),
        Refused("2^64 - 1 bytes in memory", patched(memorySize, .max as UInt64), .malformed("segment 0")),
        Refused(
            "address at the end of the address space", patched(address, .max - 0xFFF as UInt64),
            .malformed("segment 0")),
        Refused(
            "two segments at one address",
            with { $0.segments.append(.init(address: 0x10_0FFF, bytes: [1], memorySize: 16)) },
            .overlap(0x10_0FFF..<0x10_100F)),
        Refused(
            "a segment within another",
            with { $0.segments.append(.init(address: 0x10_0800, bytes: [1])) }, .overlap(0x10_0800..<0x10_0801)),
        Refused(
            "a segment past the end of RAM",
            with { $0.segments.append(.init(address: 0xFF_FFFF, bytes: [1, 2])) },
            .outsideMemory(0xFF_FFFF..<0x100_0001)),
        Refused(
            "a segment over the boot structures",
            with { $0.segments.append(.init(address: 0xFE_8000, bytes: [1])) }, .outsideMemory(0xFE_8000..<0xFE_8001)),
        Refused(
            "a segment into the boot structures",
            with { $0.segments.append(.init(address: 0xFE_0000, bytes: [], memorySize: 0x8001)) },
            .outsideMemory(0xFE_0000..<0xFE_8001)),
        Refused(
            "a segment over a stack",
            with { $0.segments.append(.init(address: 0xFF_0000, bytes: [1])) }, .outsideMemory(0xFF_0000..<0xFF_0001)),
        Refused(
            "a segment in the hole",
            with { $0.segments.append(.init(address: GuestMemory.holeStart, bytes: [1])) },
            .outsideMemory(0xC000_0000..<0xC000_0001)),
        Refused(
            "a segment over all of RAM",
            with { $0.segments = [.init(address: 0, bytes: [0xF4], memorySize: 16 << 20)] },
            .outsideMemory(0..<0x100_0000)),
    ]

    static let sections = [
        Refused(
            "section headers beyond the file", patched(Field.sectionHeaders, 1 << 40 as UInt64),
            .malformed("it ends before offset 0x10000000000 + 64")),
        Refused(
            "section headers at the end of the address space", patched(Field.sectionHeaders, .max as UInt64),
            .malformed("it ends before offset 0xffffffffffffffff + 64")),
        Refused(
            "section headers of another size", patched(Field.sectionHeaderSize, 40 as UInt16),
            .malformed("section header table")),
        Refused(
            "65,535 section headers", patched(Field.sectionHeaderCount, .max as UInt16),
            .malformed("section header table")),
        Refused(
            "section names in no section", patched(Field.nameSection, 77 as UInt16),
            .malformed("section name index")),
        Refused(
            ".vmtally.sites of 7 bytes", with { $0.sites = [UInt8](repeating: 0, count: 7) },
            .malformed(".vmtally.sites")),
        Refused(
            ".vmtally.sites of 65 addresses", with { $0.sites = [UInt8](repeating: 0, count: 65 * 8) },
            .malformed(".vmtally.sites")),
    ]

    @Test(arguments: headers + segments + sections) func unsoundFileIsRefused(_ test: Refused) throws {
        let error = try #require(try Self.refusal(test.bytes))
        #expect(error == test.error, "\(error)")
        #expect(!error.description.isEmpty)
    }

    @Test func soundOdditiesAreTaken() throws {
        // The last byte before the boot structures; no sites; a segment of no bytes at all.
        #expect(try Self.refusal(Self.with { $0.segments.append(.init(address: 0xFE_7FFF, bytes: [1])) }) == nil)
        #expect(try Self.refusal(Self.with { $0.sites = [] }) == nil)
        #expect(try Self.refusal(Self.with { $0.sites = nil }) == nil)
        #expect(try Self.refusal(Self.with { $0.segments.append(.init(address: .max, bytes: [])) }) == nil)
        // Names and contents of sections that are not ours do not matter.
        #expect(try Self.refusal(Self.patched(Field.nameSection, 0 as UInt16)) == nil)
    }

    /// Cut anywhere, a file is refused or means less; it never means something else.
    @Test func everyTruncationIsHandled() throws {
        let bytes = Self.sound.bytes
        let whole = try bytes.withUnsafeBytes { try ELFExecutable($0) }
        for count in 0..<bytes.count {
            do {
                let image = try Array(bytes[..<count]).withUnsafeBytes { try ELFExecutable($0) }
                #expect(image == whole)
                Issue.record("\(count) of \(bytes.count) bytes were taken")
            } catch let error as ImageError {
                #expect(!error.description.isEmpty)
            }
        }
    }

    @Test(arguments: [(1, 15), (1, 100), (16, 255), (16, 4096)]) func stacksNeedMemory(mebibytes: Int, cpus: Int) throws
    {
        let fits = cpus * (64 << 10) + 0x8000 < mebibytes << 20
        let memory = try GuestMemory(mebibytes: mebibytes)
        var builder = ELFBuilder()
        builder.entry = 0x1000
        builder.segments = [.init(address: 0x1000, bytes: [0xF4])]
        do {
            try builder.bytes.withUnsafeBytes { raw in
                _ = try BareMetal(try ELFExecutable(raw), bytes: raw, into: memory, cpus: cpus)
            }
            #expect(fits)
        } catch MachineError.refused(let refusal) {
            #expect(!fits)
            #expect(refusal.subject == .memory && refusal.cause.contains("\(cpus) vCPUs"))
        }
    }
}
