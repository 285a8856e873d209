// SPDX-License-Identifier: Apache-2.0
import SeededRandom
import Testing
@testable import Machine

@Suite("Multiboot 1")
struct MultibootTests {
    /// A flat image with a header that has address fields, at offset 16, loaded to 1 MiB.
    private func image(flags: UInt32 = 1 << 16, load: UInt32 = 0x10_0000, header: UInt32 = 0x10_0010) -> [UInt8] {
        var bytes: [UInt8] = [UInt8](repeating: 0x90, count: 16)
        let magic: UInt32 = 0x1BAD_B002
        for field in [magic, flags, 0 &- magic &- flags, header, load, 0, 0, 0x10_0040] as [UInt32] {
            bytes.add(field)
        }
        return bytes + [UInt8](repeating: 0xF4, count: 64)
    }

    private func load(_ bytes: [UInt8], mebibytes: Int = 4, append: String = "one two") throws -> GuestMemory {
        let memory = try GuestMemory(mebibytes: mebibytes)
        _ = try Multiboot(
            .copy(bytes), commandLine: append, name: "test", into: memory,
            tables: ACPITables(cpus: 1, uart: true, virtio: []))
        return memory
    }

    @Test("a flat image goes where its header says, and the information structure tells of the machine")
    func flat() throws {
        let bytes = image()
        let memory = try load(bytes)
        #expect(memory.slice(0x10_0000, count: bytes.count)?.elementsEqual(bytes) == true)
        let info: UInt64 = 0x9_0000
        #expect(memory.load(UInt32.self, at: info) == 0b10_0100_0101)
        #expect(memory.load(UInt32.self, at: info + 8) == 3 << 10)
        let line = UInt64(memory.load(UInt32.self, at: info + 16) ?? 0)
        #expect(memory.slice(line, count: 8).map { Array($0) } == Array("one two\0".utf8))
    }

    @Test("the BIOS data area tells of the machine as a BIOS does: base memory, extended area, serial port")
    func dataArea() throws {
        let memory = try load(image())
        #expect(memory.load(UInt16.self, at: 0x40E) == 0x9FC0 && memory.load(UInt16.self, at: 0x413) == 0x27F)
        #expect(memory.load(UInt16.self, at: 0x400) == 0x3F8 && memory.load(UInt8.self, at: 0x9FC00) == 1)
        #expect(memory.load(UInt32.self, at: 0x9_0004) == 0x27F)
    }

    @Test("the MP table has all processors and adds up, and stands back for ACPI's", arguments: [1, 4, 300])
    func multiProcessorTable(cpus: Int) throws {
        let memory = try GuestMemory(mebibytes: 2)
        #expect(MPTable(cpus: cpus, hasPIC: true).write(to: memory))
        let pointer = try #require(memory.slice(MPTable.address, count: 16))
        #expect(pointer.starts(with: Array("_MP_".utf8)) && pointer.reduce(0, &+) == 0)
        let address = UInt64(pointer.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        let length = try #require(memory.load(UInt16.self, at: address + 4))
        let table = try #require(memory.slice(address, count: Int(length)))
        #expect(table.starts(with: Array("PCMP".utf8)) && table.reduce(0, &+) == 0)
        // 20 bytes for a processor, 8 for all else; the first one boots.
        var place = 44
        var kinds = [0, 0, 0, 0, 0]
        for _ in 0..<table.loadUnaligned(fromByteOffset: 34, as: UInt16.self) {
            let kind = Int(table[place])
            if kind == 0 { #expect(table[place + 3] == (table[place + 1] == 0 ? 3 : 1)) }
            kinds[kind] += 1
            place += kind == 0 ? 20 : 8
        }
        #expect(place == table.count && kinds == [min(cpus, 254), 1, 1, 15, 2])
        #expect(!MPTable(cpus: 1, hasPIC: false).write(to: memory), "something is there")
    }

    @Test(
        "a file that is no guest is told by what it is",
        arguments: [
            ([0x1F, 0x8B, 8, 0], "gunzip"), ([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0], "unxz"),
            ([0x28, 0xB5, 0x2F, 0xFD], "unzstd"),
            ([0x02, 0x21, 0x4C, 0x18], "lz4 -d"), (Array("MZ".utf8), "EFI program"),
            (Array("#!/bin/sh".utf8), "script"),
            (Array("070701".utf8), "cpio archive"), (Array("!<arch>\n".utf8), "Debian package"),
            ([UInt8](repeating: 0, count: 510) + [0x55, 0xAA], "boot sector"),
            ([UInt8](repeating: 0, count: 0x8001) + Array("CD001".utf8), "CD image"),
            ([UInt8](repeating: 0, count: 0xFFF0) + [0xEA] + [UInt8](repeating: 0, count: 15), "BIOS"),
        ] as [([UInt8], String)])
    func kinds(start: [UInt8], word: String) throws {
        let bytes = UnsafeRawBufferPointer.copy(start + [UInt8](repeating: 0, count: max(0, 600 - start.count)))
        let memory = try GuestMemory(mebibytes: 4)
        for guest in [
            Guest.bareMetal(bytes), .multiboot(bytes, commandLine: ""),
            .linux(LinuxImages(kernel: bytes, commandLine: "")),
        ] {
            let error = #expect(throws: MachineError.self) {
                try LoadedGuest(
                    guest, into: memory, cpus: 1, tables: ACPITables(cpus: 1, uart: true, virtio: []))
            }
            #expect(error?.description.contains(word) == true, "\(error?.description ?? "")")
        }
    }

    @Test("headers that cannot be met are refused")
    func refusals() {
        #expect(Multiboot.header(UnsafeRawBufferPointer.copy([UInt8](repeating: 0, count: 9000))) == nil)
        #expect(throws: MachineError.self) { try load(image(flags: 1 << 16 | 1 << 2)) }
        #expect(throws: MachineError.self) { try load(image(load: 0x10_0020)) }
        #expect(throws: MachineError.self) { try load(image(load: 0x0F_0000, header: 0x0F_0010)) }
        #expect(throws: MachineError.self) { try load(image(load: 0xFFFF_FFF0, header: 0xFFFF_FFF8)) }
        #expect(throws: MachineError.self) { try load(image(flags: 0)) }
        #expect(throws: MachineError.self) { try load(image(), append: String(repeating: "x", count: 40_000)) }
    }

    @Test("whatever bytes an image has, loading ends")
    func fuzz() throws {
        var random = SplitMix64(seed: 5)
        let memory = try GuestMemory(mebibytes: 4)
        let limit = ContinuousClock.now + .seconds(2)
        for _ in 0..<50_000 where ContinuousClock.now < limit {
            var bytes = image(flags: Bool.random(using: &random) ? 1 << 16 : 0)
            if Bool.random(using: &random) {
                bytes.replaceSubrange(
                    0..<8, with: [0x7F, 0x45, 0x4C, 0x46, .random(in: 1...2, using: &random), 1, 1, 0])
            }
            for _ in 0..<4 {
                bytes[.random(in: 28..<bytes.count, using: &random)] = .random(in: 0...255, using: &random)
            }
            bytes.withUnsafeBytes { bytes in
                _ = try? Multiboot(
                    bytes, commandLine: "", name: "", into: memory,
                    tables: ACPITables(cpus: 1, uart: true, virtio: []))
            }
        }
    }

    @Test("fw_cfg: signature, processors, RAM, files, and zeros past an item's end")
    func firmwareConfiguration() {
        let device = FirmwareConfiguration(cpus: 3, memory: 0x1_2345_6000, files: [("etc/a", [7, 8])])
        func item(_ key: UInt16, _ count: Int) -> [UInt8] {
            device.put(key, at: 0)
            return (0..<count).map { _ in device.get(UInt8.self, at: 1) }
        }
        #expect(item(0, 4) == Array("QEMU".utf8))
        #expect(item(5, 4) == [3, 0, 0, 0])
        #expect(item(3, 8) == [0, 0x60, 0x45, 0x23, 1, 0, 0, 0])
        #expect(item(0x19, 8) == [0, 0, 0, 1, 0, 0, 0, 2])
        #expect(item(0x20, 3) == [7, 8, 0])
        #expect(item(0x7777, 2) == [0, 0])
    }
}
