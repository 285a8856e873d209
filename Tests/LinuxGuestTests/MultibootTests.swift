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
