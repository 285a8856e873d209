// SPDX-License-Identifier: Apache-2.0
import CVMTally
import Foundation
import SeededRandom
import Testing

@testable import ExitStats

/// The page as its writer makes it and as vmtally.h, which a guest reads it with, finds it.
@Suite struct TallyPageTests {
    /// A page in a file, as the machine has it in shared memory.
    private final class Page {
        let tallies: [Tally]
        let size: Int
        let view: UnsafeMutableRawPointer

        init(vcpus: Int, tscKHz: UInt32 = 2_600_000) throws {
            let path = FileManager.default.temporaryDirectory.appending(path: "vmtally-\(UUID().uuidString)").path
            let file = open(path, O_RDWR | O_CREAT | O_EXCL, 0o600)
            try #require(file >= 0)
            defer { close(file) }
            unlink(path)
            size = TallyPageLayout.size(vcpus: vcpus)
            try #require(ftruncate(file, size) == 0)
            let header = TallyPageHeader(vcpus: UInt32(vcpus), tscKHz: tscKHz, vocabulary: .kvm, boot: 7).bytes
            try #require(pwrite(file, header, header.count, 0) == header.count)
            tallies = try (0..<vcpus).map {
                try Tally(in: file, at: TallyPageLayout.headerSize + $0 * TallyPageLayout.stride)
            }
            let view = mmap(nil, size, PROT_READ, MAP_SHARED, file, 0)
            try #require(view != MAP_FAILED)
            self.view = try #require(view)
        }

        deinit { munmap(view, size) }

        var header: UnsafePointer<vmtally_page> { UnsafePointer(view.assumingMemoryBound(to: vmtally_page.self)) }
    }

    @Test func headerSaysWhatTheWriterPutsThere() throws {
        let page = try Page(vcpus: 3)
        let header = page.header.pointee
        #expect(vmtally_page_is_valid(page.header, UInt32(page.size)) != 0)
        #expect(MemoryLayout<vmtally_page>.size == 64)
        #expect(header.version == VMTALLY_PAGE_VERSION && header.version == TallyPageLayout.version)
        #expect(header.bytes == UInt32(4096 + 3 * 12288) && header.vcpus == 3 && header.tsc_khz == 2_600_000)
        #expect(header.vocabulary == 0 && header.boot == 7)
        #expect(MemoryLayout<vmtally_counters>.size == TallyPageLayout.Counters.size)
        #expect(VMTALLY_HAS_PAGE.rawValue == TallyFeatures.Flags.page.rawValue)
        #expect(VMTALLY_LEAF_PAGE == TallyLeaf.page)
        let registers = CPUIDRegisters(pageAt: 0x12_E000_0000, size: page.size)
        #expect(registers == CPUIDRegisters(eax: 0xE000_0000, ebx: 0x12, ecx: UInt32(page.size), edx: 1))
    }

    /// The writer's words are the page: no more than the exits themselves puts anything there.
    @Test(arguments: [1, 4]) func readersSeeTheTallies(vcpus: Int) throws {
        let page = try Page(vcpus: vcpus)
        var random = SplitMix64(seed: UInt64(vcpus))
        // Direct, claimed, and more than there are slots for.
        let codes: [UInt32] = [0, 2, 4, 6, 255, 256, 0x400, 0x8000_0013] + (0x1000..<0x1050)
        for _ in 0..<5000 {
            let writer = page.tallies[Int(random.next() % UInt64(vcpus))].writer
            let code = codes[Int(random.next() % UInt64(codes.count))]
            writer.end(writer.begin(code), cycles: random.next() >> (random.next() % 50 + 14))
        }
        // One that is under way.
        _ = page.tallies[0].writer.begin(5)
        let snapshots = page.tallies.map { $0.snapshot() }
        let all = try #require(snapshots.sum())
        expectSame(vmtally_page_total(page.header), all.pair)
        for (index, tally) in page.tallies.enumerated() {
            expectSame(vmtally_page_vcpu_total(page.header, UInt32(index)), tally.total)
        }
        expectSame(vmtally_page_vcpu_total(page.header, UInt32(vcpus)), TallyPair())
        for code in codes + [5, 77] {
            let pair = page.tallies.reduce(TallyPair()) {
                let pair = $1.pair(reason: code)
                return TallyPair(count: $0.count + pair.count, cycles: $0.cycles + pair.cycles)
            }
            expectSame(vmtally_page_reason(page.header, code), pair)
            var shortest: UInt64 = 0
            var longest: UInt64 = 0
            let known = vmtally_page_range(page.header, code, &shortest, &longest) != 0
            if let range = all[code]?.times?.range {
                #expect(known && shortest...longest == range, "\(code)")
            } else {
                #expect(!known)
            }
        }
    }

    private func expectSame(_ pair: vmtally_pair, _ expected: TallyPair) {
        #expect(TallyPair(count: pair.count, cycles: pair.cycles) == expected)
    }

    /// What a guest can see of the VMM: the counters, and beside them the last exit's bucket, which they tell already.
    @Test func nothingElseIsThere() throws {
        let page = try Page(vcpus: 2)
        for code in [2, 2, 6, 300] as [UInt32] {
            let writer = page.tallies[1].writer
            writer.end(writer.begin(code), cycles: 1000)
        }
        let words = UnsafeRawBufferPointer(start: page.view, count: page.size).bindMemory(to: UInt64.self)
        let block = (TallyPageLayout.headerSize + TallyPageLayout.stride) / 8
        let counters = { (slot: Int) in (block + 8 + slot * 4)..<(block + 12 + slot * 4) }
        let expected: [Range<Int>] = [
            0..<8, block..<block + 4,
            block + 4..<block + 5,  // the last exit's bucket, to be counted at the next
            counters(2), counters(6), counters(256),
            block + TallyPageLayout.Block.claims / 8..<block + TallyPageLayout.Block.claims / 8 + 2,
            block + 1535..<block + 1536,  // exits that began with none before them
        ]
        for (index, word) in words.enumerated() where word != 0 {
            #expect(expected.contains { $0.contains(index) }, "word \(index): \(String(word, radix: 16))")
        }
        // Nor is any of it an address of this process.
        let maps = try String(contentsOfFile: "/proc/self/maps", encoding: .utf8)
        for line in maps.split(separator: "\n") {
            let ends = line.prefix { $0 != " " }.split(separator: "-").compactMap { UInt64($0, radix: 16) }
            guard ends.count == 2, ends[0] < ends[1] else { continue }
            #expect(!words.dropFirst(1).contains { (ends[0]..<ends[1]).contains($0) }, "\(line)")
        }
    }

    /// A header with anything in it is either refused or read within its bounds: what lies behind cannot be touched.
    @Test func noHeaderLeadsOutOfBounds() throws {
        let size = TallyPageLayout.size(vcpus: 2)
        let mapping = try #require(
            mmap(nil, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
        defer { munmap(mapping, size + 4096) }
        try #require(mapping != MAP_FAILED && mprotect(mapping + size, 4096, PROT_NONE) == 0)
        let header = TallyPageHeader(vcpus: 2, tscKHz: 1, vocabulary: .kvm, boot: 1).bytes
        var random = SplitMix64(seed: 14)
        var valid = 0
        for round in 0..<200_000 {
            mapping.copyMemory(from: header, byteCount: header.count)
            for _ in 0...Int(random.next() % 3) where round > 0 {
                let word = 3 + Int(random.next() % 11)
                let near = mapping.load(fromByteOffset: word * 4, as: UInt32.self) &+ UInt32(random.next() % 65) &- 32
                let interesting = [0, 1, 8, near, near, UInt32(size), .max, UInt32(truncatingIfNeeded: random.next())]
                mapping.storeBytes(
                    of: interesting[Int(random.next() % 8)], toByteOffset: word * 4, as: UInt32.self)
            }
            let page = UnsafePointer(mapping.assumingMemoryBound(to: vmtally_page.self))
            guard vmtally_page_is_valid(page, UInt32(size)) != 0 else { continue }
            valid += 1
            var (low, high): (UInt64, UInt64) = (0, 0)
            _ = vmtally_page_vcpu_total(page, page.pointee.vcpus - 1)
            for code in [0, page.pointee.direct &- 1, page.pointee.direct, 0xFFFF_FFFF] as [UInt32]
            where page.pointee.vcpus <= 4096 {
                _ = vmtally_page_reason(page, code)
                _ = vmtally_page_range(page, code, &low, &high)
            }
        }
        #expect(valid > 1000)
        #expect(vmtally_page_is_valid(nil, 4096) == 0)
        for bytes in [0, 63] as [UInt32] {
            #expect(
                vmtally_page_is_valid(UnsafePointer(mapping.assumingMemoryBound(to: vmtally_page.self)), bytes) == 0)
        }
    }

    @Test func aFileThatCannotBeMappedIsAnError() {
        #expect(throws: TallyMemoryError.self) { try Tally(in: -1, at: 0) }
    }
}
