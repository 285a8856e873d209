// SPDX-License-Identifier: Apache-2.0
import SeededRandom
import Testing
@testable import GuestCode
@testable import Machine

@Suite("Linux loaders")
struct LoaderTests {
    private func boot(
        _ kernel: SyntheticKernel, mebibytes: Int = 64, initrd: [UInt8] = [], append: String = "quiet"
    ) throws -> GuestMemory {
        let memory = try GuestMemory(mebibytes: mebibytes)
        _ = try LinuxBoot(
            LinuxImages(kernel: kernel.buffer, initrd: .copy(initrd), commandLine: append), into: memory,
            tables: ACPITables(cpus: 2, uart: true, virtio: []))
        return memory
    }

    @Test("boot_params say what the protocol asks for")
    func parameters() throws {
        let kernel = SyntheticKernel()
        let memory = try boot(kernel, initrd: Array("initrd".utf8), append: "console=ttyS0")
        let base = LinuxBoot.Layout.bootParameters
        #expect(memory.load(UInt16.self, at: base + 0x1FE) == 0xAA55)
        #expect(memory.load(UInt32.self, at: base + 0x202) == 0x5372_6448)
        #expect(memory.load(UInt8.self, at: base + 0x210) == 0xFF)
        #expect(memory.load(UInt64.self, at: base + 0x258) == 0x100_0000)
        let line = try #require(memory.load(UInt32.self, at: base + 0x228))
        #expect(memory.slice(UInt64(line), count: 14).map { Array($0) } == Array("console=ttyS0\0".utf8))
        let initrd = try #require(memory.load(UInt32.self, at: base + 0x218))
        #expect(initrd == (64 << 20) - 4096)
        #expect(memory.load(UInt32.self, at: base + 0x21C) == 6)
        #expect(memory.slice(UInt64(initrd), count: 6).map { Array($0) } == Array("initrd".utf8))
        #expect(
            memory.slice(0x100_0000, count: 4096)?.elementsEqual(kernel.bytes[SyntheticKernel.codeStart...]) == true)
        #expect(memory.load(UInt8.self, at: base + 0x1E8) == 4)
    }

    @Test("RAM past the hole is in the map, and nothing of the hole")
    func map() throws {
        let memory = try GuestMemory(mebibytes: 1024)
        #expect(MemoryMap(memory).entries.filter { $0.kind == .ram }.map(\.range.count).reduce(0, +) > 1023 << 20)
        guard let large = try? GuestMemory(mebibytes: 5 << 10) else { return }
        let entries = MemoryMap(large).entries
        #expect(entries.last?.range == 0x1_0000_0000..<0x1_8000_0000)
        #expect(!entries.contains { $0.range.overlaps(GuestMemory.holeStart..<GuestMemory.holeEnd) })
    }

    @Test(
        "a field that cannot be true is refused",
        arguments: [
            (0x1FE, 0, "boot_flag"), (0x206, 0x0B, "boot protocol"), (0x211, 0, "zImage"),
            (0x236, 0, "64-bit entry point"), (0x201, 0xFF, "setup header"), (0x201, 0x10, "setup header"),
            (0x1F1, 0xFF, "bytes"), (0x1F6, 0xFF, "bytes"), (0x230, 3, "kernel_alignment"),
        ])
    func field(offset: Int, value: UInt8, message: String) {
        var kernel = SyntheticKernel()
        kernel.bytes[offset] = value
        if offset == 0x206 { kernel.bytes[0x207] = 2 }
        if offset == 0x230 { kernel.set(3 as UInt32, at: 0x230) }
        let error = #expect(throws: ImageError.self) { try BzImage(kernel.buffer) }
        #expect(error.map { "\($0)".contains(message) } == true, "\(String(describing: error))")
    }

    @Test("initrd and command line that do not fit are refused")
    func tooLarge() {
        #expect(throws: MachineError.self) {
            try boot(SyntheticKernel(), mebibytes: 24, initrd: [UInt8](repeating: 0, count: 12 << 20))
        }
        #expect(throws: MachineError.self) {
            try boot(SyntheticKernel(), append: String(repeating: "x", count: 3000))
        }
        #expect(throws: MachineError.self) { try boot(SyntheticKernel(), append: "a\0b") }
    }

    @Test("whatever bytes a bzImage has, loading ends and stays inside RAM")
    func fuzz() throws {
        var random = SplitMix64(seed: 1)
        let memory = try GuestMemory(mebibytes: 32)
        let limit = ContinuousClock.now + .seconds(2)
        var accepted = 0
        for _ in 0..<200_000 where ContinuousClock.now < limit {
            var kernel = SyntheticKernel(code: 1024)
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                kernel.bytes[Int.random(in: 0x1F1..<0x268, using: &random)] = .random(in: 0...255, using: &random)
            }
            if Bool.random(using: &random) {
                kernel.bytes.removeLast(Int.random(in: 0..<kernel.bytes.count, using: &random))
            }
            kernel.bytes.withUnsafeBytes { bytes in
                guard let image = try? BzImage(bytes) else { return }
                accepted += 1
                guard let address = image.loadAddress(limit: memory.lowSize) else { return }
                #expect(address >= 0x10_0000 && address + image.initSize <= memory.lowSize)
                #expect(image.code.count <= image.initSize)
            }
        }
        #expect(accepted > 0)
    }

    /// Debian's 6.1 cloud kernel: 16 MiB and 51.5 MiB from there on. One that is loaded lower moves up.
    @Test("a kernel gets the memory that it needs to start, or the number", arguments: [(67, false), (68, true)])
    func memoryNeeded(mebibytes: Int, fits: Bool) throws {
        var kernel = SyntheticKernel()
        kernel.set(0x338_0000 as UInt32, at: 0x260)
        let memory = try GuestMemory(mebibytes: mebibytes)
        let images = LinuxImages(kernel: kernel.buffer, commandLine: "")
        let tables = ACPITables(cpus: 1, uart: true, virtio: [])
        guard !fits else {
            _ = try LinuxBoot(images, into: memory, tables: tables)
            return
        }
        let error = #expect(throws: MachineError.self) { try LinuxBoot(images, into: memory, tables: tables) }
        #expect(error?.description.contains("68 MiB") == true, "\(error?.description ?? "")")
    }

    @Test("a PVH note names the 32-bit entry, and a note that lies does not")
    func pvhNote() throws {
        func elf(noteSize: UInt64, nameSize: UInt32) -> [UInt8] {
            var bytes = [UInt8](repeating: 0, count: 512)
            func set<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, _ offset: Int) {
                bytes.withUnsafeMutableBytes { $0.storeBytes(of: value, toByteOffset: offset, as: T.self) }
            }
            bytes.replaceSubrange(0..<6, with: [0x7F, 0x45, 0x4C, 0x46, 2, 1])
            set(2 as UInt16, 16)
            set(62 as UInt16, 18)
            set(0x20_0000 as UInt64, 24)
            set(64 as UInt64, 32)
            set(56 as UInt16, 54)
            set(2 as UInt16, 56)
            set(1 as UInt32, 64)  // PT_LOAD
            set(0x20_0000 as UInt64, 64 + 24)
            set(16 as UInt64, 64 + 32)
            set(16 as UInt64, 64 + 40)
            set(4 as UInt32, 120)  // PT_NOTE
            set(256 as UInt64, 120 + 8)
            set(noteSize, 120 + 32)
            set(nameSize, 256)
            set(8 as UInt32, 260)
            set(18 as UInt32, 264)
            bytes.replaceSubrange(268..<272, with: "Xen\0".utf8)
            set(0x12_3450 as UInt64, 272)
            return bytes
        }
        #expect(try ELFExecutable(.copy(elf(noteSize: 24, nameSize: 4))).pvhEntry == 0x12_3450)
        #expect(try ELFExecutable(.copy(elf(noteSize: 24, nameSize: 8))).pvhEntry == nil)
        #expect(throws: ImageError.self) { try ELFExecutable(.copy(elf(noteSize: 4096, nameSize: 4))) }
        #expect(throws: ImageError.self) { try ELFExecutable(.copy(elf(noteSize: 16, nameSize: 4))) }
    }

    @Test("a 32-bit ELF will do where it is entered by PVH")
    func pvhEntry32() throws {
        func elf(note: UInt32) -> [UInt8] {
            var bytes = [UInt8](repeating: 0, count: 256)
            func set(_ values: [UInt32], _ offset: Int) {
                for (index, value) in values.enumerated() {
                    bytes.withUnsafeMutableBytes {
                        $0.storeBytes(of: value, toByteOffset: offset + index * 4, as: UInt32.self)
                    }
                }
            }
            bytes.replaceSubrange(0..<6, with: [0x7F, 0x45, 0x4C, 0x46, 1, 1])
            set([3 << 16 | 2, 1, 0xC020_0000, 52], 16)
            set([32 << 16, 2], 40)
            // PT_LOAD: offset, virtual and physical address, sizes, flags, alignment. PT_NOTE likewise.
            set([1, 0, 0xC020_0000, 0x20_0000, 256, 4096, 5, 4], 52)
            set([4, 128, 0, 0, 20, 20, 4, 4], 84)
            set([4, 4, note], 128)
            bytes.replaceSubrange(140..<144, with: "Xen\0".utf8)
            set([0x20_0010], 144)
            return bytes
        }
        let image = try ELFExecutable(.copy(elf(note: 18)), allowsPVH32: true)
        #expect(image.pvhEntry == 0x20_0010)
        #expect(image.segments.map(\.memory) == [0x20_0000..<0x20_1000])
        #expect(throws: ImageError.self) { try ELFExecutable(.copy(elf(note: 18))) }
        #expect(throws: ImageError.self) { try ELFExecutable(.copy(elf(note: 1)), allowsPVH32: true) }
    }
}

@Suite("ACPI tables")
struct ACPITests {
    /// Entries of a MADT: type and bytes.
    private func entries(_ table: ArraySlice<UInt8>) -> [(type: UInt8, bytes: [UInt8])] {
        var entries: [(UInt8, [UInt8])] = []
        var rest = table.dropFirst(44)
        while let type = rest.first, let length = rest.dropFirst().first, length >= 2 {
            entries.append((type, Array(rest.prefix(Int(length)))))
            rest = rest.dropFirst(Int(length))
        }
        return entries
    }

    @Test("every processor is in the MADT, those from 255 on by their x2APIC ID", arguments: [1, 64, 255, 288])
    func processors(cpus: Int) throws {
        let memory = try GuestMemory(mebibytes: 2)
        let root = try ACPITables(cpus: cpus, uart: true, virtio: []).write(to: memory)
        let xsdt = try #require(memory.load(UInt64.self, at: root + 24))
        let madt = try #require(memory.load(UInt64.self, at: xsdt + 44))
        let size = Int(try #require(memory.load(UInt32.self, at: madt + 4)))
        let all = entries(Array(try #require(memory.slice(madt, count: size)))[...])
        let local = all.filter { $0.type == 0 }.map { Int($0.bytes[3]) }
        let x2APIC = all.filter { $0.type == 9 }.map { Int($0.bytes[4]) | Int($0.bytes[5]) << 8 }
        #expect(local + x2APIC == Array(0..<cpus))
        #expect(x2APIC.allSatisfy { $0 >= 255 } && all.count == cpus + 2)
    }

    @Test(
        "the tally page is reserved in the memory map, and in the DSDT a device that says where it is",
        arguments: [true, false])
    func tallyPage(isThere: Bool) throws {
        let memory = try GuestMemory(mebibytes: 64)
        let range: Range<UInt64> = 0xE000_0000..<0xE000_4000
        let tables = ACPITables(cpus: 1, uart: true, virtio: [], tallyPage: isThere ? range : nil)
        let kernel = SyntheticKernel()
        _ = try LinuxBoot(LinuxImages(kernel: kernel.buffer, commandLine: ""), into: memory, tables: tables)
        let base = LinuxBoot.Layout.bootParameters
        let entries = try (0..<Int(#require(memory.load(UInt8.self, at: base + 0x1E8)))).map { index in
            let place = base + 0x2D0 + UInt64(index) * 20
            return [
                try #require(memory.load(UInt64.self, at: place)),
                try #require(memory.load(UInt64.self, at: place + 8)),
                UInt64(try #require(memory.load(UInt32.self, at: place + 16))),
            ]
        }
        #expect(entries.contains([0xE000_0000, 0x4000, 2]) == isThere)
        let acpi = try #require(memory.slice(0xE_0000, count: 0x1_0000))
        let resource = [UInt8]("VMTL0001".utf8)
        let found = (0..<acpi.count - 64).first { acpi[$0...].starts(with: resource) }
        #expect((found != nil) == isThere)
        if let found {
            // Memory32Fixed(ReadOnly, 0xE0000000, 0x4000)
            let descriptor: [UInt8] = [0x86, 9, 0, 0, 0, 0, 0, 0xE0, 0, 0x40, 0, 0]
            #expect((found..<found + 48).contains { acpi[$0...].starts(with: descriptor) })
        }
    }

    @Test("full: the FADT names what is in the ports, the MADT the PIT's and the SCI's pins")
    func fixedHardware() throws {
        let memory = try GuestMemory(mebibytes: 2)
        let root = try ACPITables(cpus: 2, uart: true, virtio: [], fixedHardware: true).write(to: memory)
        let xsdt = try #require(memory.load(UInt64.self, at: root + 24))
        let fadt = try #require(memory.load(UInt64.self, at: xsdt + 36))
        let madt = try #require(memory.load(UInt64.self, at: xsdt + 44))
        #expect(memory.load(UInt16.self, at: fadt + 46) == 9)
        #expect(memory.load(UInt32.self, at: fadt + 56) == 0x600 && memory.load(UInt8.self, at: fadt + 88) == 4)
        #expect(memory.load(UInt32.self, at: fadt + 64) == 0x604 && memory.load(UInt8.self, at: fadt + 89) == 2)
        #expect(memory.load(UInt32.self, at: fadt + 76) == 0x608 && memory.load(UInt8.self, at: fadt + 91) == 4)
        #expect(memory.load(UInt32.self, at: fadt + 112).map { $0 & 1 << 20 } == 0)
        #expect(memory.load(UInt64.self, at: fadt + 244) == 0, "no sleep registers")
        let facs = try #require(memory.load(UInt64.self, at: fadt + 132))
        #expect(facs % 64 == 0 && memory.slice(facs, count: 4)?.elementsEqual("FACS".utf8) == true)
        #expect(memory.load(UInt32.self, at: madt + 40) == 1)
        let size = Int(try #require(memory.load(UInt32.self, at: madt + 4)))
        let overrides = entries(Array(try #require(memory.slice(madt, count: size)))[...]).filter { $0.type == 2 }
        #expect(overrides.map { [$0.bytes[3], $0.bytes[4], $0.bytes[8]] } == [[0, 2, 0], [9, 9, 0b1101]])
        for address in [fadt, madt] {
            let count = Int(try #require(memory.load(UInt32.self, at: address + 4)))
            #expect(memory.slice(address, count: count)?.reduce(0, &+) == 0)
        }
    }

    @Test("no interrupt is given twice")
    func interrupts() {
        for acpi in DeviceConfiguration.ACPI.allCases {
            for console in DeviceConfiguration.Console.allCases {
                var configuration = DeviceConfiguration()
                configuration.acpi = acpi
                configuration.console = console
                configuration.taps = [String](repeating: "tap", count: 40)
                let given = configuration.virtio.map(\.gsi)
                #expect(Set(given).count == given.count && given.count >= 16 && given.allSatisfy { $0 < 24 })
                #expect(Set(given).isDisjoint(with: acpi == .full ? [0, 1, 2, 4, 8, 9, 13] : [0]))
                #expect(console != .serial || !given.contains(UART16550.irq))
                #expect(configuration.pinsInUse <= 24)
            }
        }
    }

    @Test("each table sums to zero, and the root leads to all of them")
    func checksums() throws {
        let memory = try GuestMemory(mebibytes: 2)
        let virtio = (0..<19).map { ACPITables.VirtioDevice(address: 0xFEC0_1000 + $0 << 12, gsi: UInt32($0) + 5) }
        let root = try ACPITables(cpus: 300, uart: true, virtio: virtio).write(to: memory)
        func sum(_ address: UInt64, _ count: Int) -> UInt8 {
            memory.slice(address, count: count)?.reduce(0, &+) ?? 1
        }
        func table(_ address: UInt64, _ signature: String) throws -> Int {
            #expect(memory.slice(address, count: 4).map { Array($0) } == Array(signature.utf8))
            let count = Int(try #require(memory.load(UInt32.self, at: address + 4)))
            #expect(sum(address, count) == 0, "\(signature)")
            return count
        }
        #expect(sum(root, 20) == 0 && sum(root, 36) == 0)
        let xsdt = try #require(memory.load(UInt64.self, at: root + 24))
        #expect(try table(xsdt, "XSDT") == 36 + 16)
        let fadt = try #require(memory.load(UInt64.self, at: xsdt + 36))
        let madt = try #require(memory.load(UInt64.self, at: xsdt + 44))
        #expect(try table(fadt, "FACP") == 276)
        #expect(try table(madt, "APIC") == 44 + 255 * 8 + 45 * 16 + 12 + 6)
        _ = try table(try #require(memory.load(UInt64.self, at: fadt + 140)), "DSDT")
    }

    @Test("AML is what the ACPI compiler makes of the same source")
    func aml() {
        #expect(AML.eisaID("PNP0501") == [0x0C, 0x41, 0xD0, 0x05, 0x01])
        #expect(AML.resources([AML.irq(4)]) == [0x11, 0x08, 0x0A, 0x05, 0x22, 0x10, 0x00, 0x79, 0x00])
        #expect(
            AML.name("_S5_", AML.package([AML.integer(5), AML.integer(0)]))
                == [0x08, 0x5F, 0x53, 0x35, 0x5F, 0x12, 0x05, 0x02, 0x0A, 0x05, 0x00])
        // PkgLength of one, two and three bytes.
        #expect(AML.scope("\\", [UInt8](repeating: 0xA3, count: 61)).prefix(2) == [0x10, 63])
        #expect(AML.scope("\\", [UInt8](repeating: 0xA3, count: 62)).prefix(3) == [0x10, 0x41, 0x04])
        #expect(AML.scope("\\", [UInt8](repeating: 0xA3, count: 5000)).prefix(4) == [0x10, 0x8C, 0x38, 0x01])
    }
}
