// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import Glibc
import KVM
import Testing
@testable import Machine

/// Every access is inside RAM or refused: below the hole, above it, never across.
struct GuestMemoryTests {
    static let hole = GuestMemory.holeStart..<GuestMemory.holeEnd
    /// MiB: one below the hole, one up to it, one on both sides. Nothing of it is touched but the ends.
    static let sizes = [1, 16, 3072, 3073, 4096].filter { $0 <= Host.memoryMiB }

    /// Whether [address, address + count) is RAM, by the definition.
    private static func isRAM(_ address: UInt64, _ count: UInt64, size: UInt64) -> Bool {
        let (end, overflow) = address.addingReportingOverflow(count)
        guard !overflow else { return false }
        let low = min(size, hole.lowerBound)
        return end <= low || (size > low && address >= hole.upperBound && end <= hole.upperBound + (size - low))
    }

    @Test(arguments: sizes) func slicesAreRAMOrNothing(mebibytes: Int) throws {
        let memory = try GuestMemory(mebibytes: mebibytes)
        let size = UInt64(mebibytes) << 20
        #expect(memory.size == size && memory.lowSize == min(size, GuestMemory.holeStart))
        let ends = [
            0, memory.lowSize, Self.hole.lowerBound, Self.hole.upperBound, Self.hole.upperBound + size, 1 << 63,
        ]
        let near: [UInt64] = [0, 1, 7, 8, 9, 4095, 4096, 4097]
        let addresses = Set(ends.flatMap { end in near.flatMap { [end &- $0, end &+ $0] } } + [.max, .max - 1])
        for address in addresses {
            for count in [0, 1, 2, 4, 7, 8, 4096, 1 << 20, Int(size), Int.max] {
                let slice = memory.slice(address, count: count)
                #expect((slice != nil) == Self.isRAM(address, UInt64(count), size: size), "\(address) \(count)")
                guard let slice, let start = slice.baseAddress else { continue }
                #expect(slice.count == count)
                #expect(start >= memory.host && start + count <= memory.host + Int(size))
            }
            #expect(memory.slice(address, count: -1) == nil)
            #expect(memory.slice(address, count: .min) == nil)
        }
    }

    @Test(arguments: sizes) func integersGoToTheEndsAndNotPastThem(mebibytes: Int) throws {
        let memory = try GuestMemory(mebibytes: mebibytes)
        let ends =
            [memory.lowSize]
            + (memory.size > memory.lowSize ? [Self.hole.upperBound + memory.size - memory.lowSize] : [])
        for end in ends {
            #expect(memory.store(0x1122_3344_5566_7788 as UInt64, at: end - 8))
            #expect(memory.load(UInt64.self, at: end - 8) == 0x1122_3344_5566_7788)
            #expect(memory.load(UInt32.self, at: end - 4) == 0x1122_3344)
            #expect(memory.load(UInt16.self, at: end - 3) == 0x2233)
            #expect(memory.load(UInt8.self, at: end - 1) == 0x11)
            #expect(!memory.store(0 as UInt64, at: end - 7))
            #expect(!memory.store(0 as UInt8, at: end))
            #expect(memory.load(UInt16.self, at: end - 1) == nil)
            #expect(memory.load(UInt64.self, at: end - 8) == 0x1122_3344_5566_7788)
        }
        for address in [.max, .max - 7, .max - 8] as [UInt64] {
            #expect(memory.load(UInt64.self, at: address) == nil)
            #expect(!memory.store(0 as UInt64, at: address))
        }
    }

    /// What lies above the hole follows in the mapping what lies below it.
    @Test(.enabled(if: Host.memoryMiB >= 3073, "less than 3 GiB of memory")) func bothSidesOfTheHoleAreDistinct() throws
    {
        let memory = try GuestMemory(mebibytes: 3073)
        memory.store(1 as UInt8, at: GuestMemory.holeStart - 1)
        memory.store(2 as UInt8, at: GuestMemory.holeEnd)
        #expect(memory.load(UInt8.self, at: GuestMemory.holeStart - 1) == 1)
        #expect(memory.load(UInt8.self, at: GuestMemory.holeEnd) == 2)
        #expect(memory.slice(GuestMemory.holeStart - 1, count: 2) == nil)
        #expect(memory.slice(GuestMemory.holeEnd - 1, count: 2) == nil)
    }

    @Test(arguments: [0, -1, .min, Host.memoryMiB + 1, 1 << 40, .max]) func impossibleSizesAreRefused(mebibytes: Int) {
        #expect {
            _ = try GuestMemory(mebibytes: mebibytes)
        } throws: { error in
            "\(error)".contains("guest memory: \(mebibytes) MiB") && "\(error)".contains("give 1 to")
        }
    }

    /// Pages of the host that are there (mincore(2)).
    private static func resident(_ memory: GuestMemory) -> Int {
        let pages = Int(memory.size / 4096)
        var flags = [UInt8](repeating: 0, count: pages)
        return mincore(memory.host, Int(memory.size), &flags) == 0 ? flags.count { $0 & 1 == 1 } : -1
    }

    @Test("populated RAM is there to its last page, and what was in it stays")
    func populated() throws {
        let memory = try GuestMemory(mebibytes: 67)
        memory.store(0x1234 as UInt16, at: 0x5000)
        #expect(Self.resident(memory) < 1024)
        try memory.populate()
        #expect(Self.resident(memory) == 67 * 256)
        #expect(memory.load(UInt16.self, at: 0x5000) == 0x1234)
    }

    @Test(.enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"))
    func prefaultedGuestsRunAndSayWhatWasDone() throws {
        let machine = try TinyGuest(Assembly.outByte + Assembly.halt).machine { $0.prefaults = true }
        let result = try machine.run()
        #expect(result.end == .halted && result.total[UInt32(KVM_EXIT_IO)]?.count == 1)
        if Host.has(.preFaultMemory) {
            #expect(result.prefault == .mapped)
        } else {
            guard case .populated(let reason)? = result.prefault else {
                Issue.record("\(String(describing: result.prefault))")
                return
            }
            #expect(reason.contains("KVM_PRE_FAULT_MEMORY"))
        }
        #expect(try TinyGuest(Assembly.halt).run().result.prefault == nil)
    }
}
