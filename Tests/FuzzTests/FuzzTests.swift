// SPDX-License-Identifier: Apache-2.0
import BootRecords
import CLinuxKVM
import CTestSupport
import Glibc
import Reports
import SeededRandom
import Testing
@testable import GuestCode
@testable import Linux
@testable import Machine

/// Everything that a hostile file or guest can hand to the VMM, many times over: `make fuzz`.
///
/// One at a time: a crash is told with the target that was at work.
@Suite("Fuzzing", .serialized)
struct FuzzTests {
    /// Without these checks an access outside a buffer would go unnoticed.
    @Test func rawBuffersAreChecked() async {
        await #expect(processExitsWith: .failure) {
            let bytes: [UInt8] = [1, 2, 3]
            bytes.withUnsafeBytes { buffer in
                let past = Int(bytes[2])
                print(buffer[past])
            }
        }
    }

    // MARK: files

    @Test func elf() throws {
        let files = try FileMutator("elf")
        defer { files.release() }
        let memory = try GuestMemory(mebibytes: 16)
        let reserved = memory.lowSize - LongMode.size - BareMetal.stackSize..<memory.lowSize
        Fuzzer(target: "ELF", usual: 100_000).run { seed, random in
            let file = files.file(seed, &random)
            guard let image = try? ELFExecutable(file) else { return false }
            let isSound =
                image.segments.contains { $0.memory.contains(image.entry) }
                && image.segments.allSatisfy { $0.file.upperBound <= file.count && $0.file.count <= $0.memorySize }
                && image.sites.count <= ELFExecutable.maximumSites
            if !isSound {
                Issue.record("VMTALLY_SEED=\(seed): \(image)")
            }
            // Page tables and the rest do not depend on the file.
            return (try? BareMetal.load(image.segments, of: file, into: memory, reserved: reserved)) != nil
        }
    }

    @Test func bzImage() throws {
        try kernels("bzImage")
    }

    @Test func vmlinux() throws {
        try kernels("elf")
    }

    private func kernels(_ prefix: String) throws {
        let files = try FileMutator(prefix)
        defer { files.release() }
        let memory = try GuestMemory(mebibytes: 16)
        let tables = ACPITables(cpus: 1, uart: true, virtio: [])
        let initrd = [UInt8](repeating: 0xA5, count: 5000)
        initrd.withUnsafeBytes { initrd in
            Fuzzer(target: prefix == "elf" ? "vmlinux" : prefix, usual: 1000).run { seed, random in
                let images = LinuxImages(
                    kernel: files.file(seed, &random),
                    initrd: random.once(in: 2) ? initrd : UnsafeRawBufferPointer(start: nil, count: 0),
                    commandLine: "quiet")
                return (try? LinuxBoot(images, into: memory, tables: tables)) != nil
            }
        }
    }

    @Test func multiboot() throws {
        let files = try FileMutator("multiboot")
        defer { files.release() }
        let memory = try GuestMemory(mebibytes: 16)
        let tables = ACPITables(cpus: 1, uart: true, virtio: [])
        Fuzzer(target: "Multiboot", usual: 2000).run { seed, random in
            let file = files.file(seed, &random)
            return (try? Multiboot(file, commandLine: "x", name: "vmtally", into: memory, tables: tables)) != nil
        }
    }

    @Test func symbols() throws {
        let files = try FileMutator("symbols")
        defer { files.release() }
        Fuzzer(target: "symbols", usual: 20_000).run { seed, random in
            guard let table = try? SymbolTable(files.file(seed, &random)) else { return false }
            let slide = table.slide([.init(symbol: "start", address: random.number())]) ?? 0
            for _ in 0..<4 {
                let address = random.number()
                if let location = table.location(of: address, slide: slide), address &- slide < location.offset {
                    Issue.record("VMTALLY_SEED=\(seed): \(address) is \(location)")
                }
            }
            for site in CPUIDSite.named("start", in: table) where site.code.count > 256 {
                Issue.record("VMTALLY_SEED=\(seed): \(site)")
            }
            return true
        }
    }

    /// What a kernel says of itself in the guest's RAM.
    @Test func kallsyms() throws {
        let files = try FileMutator("kallsyms")
        defer { files.release() }
        Fuzzer(target: "kallsyms", usual: 1000).run { seed, random in
            guard let table = Kallsyms(files.file(seed, &random)).flatMap(SymbolTable.init) else { return false }
            _ = table.location(of: random.number())
            return true
        }
    }

    /// Recordings, and all that is made of them.
    @Test func recordings() throws {
        let files = try FileMutator("recording")
        defer { files.release() }
        let original = try BootRecording(json: files.original)
        Fuzzer(target: "recordings", usual: 2000).run { seed, random in
            guard let recording = try? BootRecording(json: Array(files.text(seed, &random))) else { return false }
            let comparison = BootComparison(original, recording, effort: (20, 50))
            let report = BootComparisonReport([comparison], limit: 0.01, showsAll: true)
            _ = report.lines()
            _ = try? report.json(by: .init(name: "vmtally", version: "0"))
            _ = BootComparisonPage([comparison], limit: 0.01).page.html()
            _ = BootTable(recording).lines()
            return true
        }
    }

    /// Bench documents, and all that is made of them.
    @Test func benchDocuments() throws {
        let files = try FileMutator("bench")
        defer { files.release() }
        let original = try BenchDocument(json: files.original)
        Fuzzer(target: "bench documents", usual: 2000).run { seed, random in
            guard let document = try? BenchDocument(json: Array(files.text(seed, &random))) else { return false }
            let comparison = BenchComparison(document, to: original)
            _ = BenchTable(document, comparison: comparison).lines()
            _ = BenchPage(document, comparison: comparison).html()
            _ = try? document.json()
            return true
        }
    }

    // MARK: devices

    /// A guest's memory and registers as a driver would use them, or nearly.
    @Test(arguments: ["entropy", "block", "console", "network"])
    func virtioRings(kind: String) throws {
        let memory = try GuestMemory(mebibytes: 1)
        let descriptor = kind == "block" ? ctest_memory_file(64 << 9) : open("/dev/null", O_RDWR)
        try #require(descriptor >= 0)
        let output = SerialOutput(.none)
        try Fuzzer(target: "virtio \(kind)", usual: 5000).run { seed, random in
            let backend: any VirtioBackend =
                switch kind {
                case "block": try VirtioBlock(path: "/proc/self/fd/\(descriptor)", isReadOnly: random.once(in: 4))
                case "console": VirtioConsole(output: output)
                case "network": VirtioNetwork(descriptor: FileDescriptor(owning: dup(descriptor)), index: 0) { _ in }
                default: VirtioEntropy()
                }
            return VirtioFuzz(backend, memory).run(&random)
        }
        close(descriptor)
    }

    @Test func uart() {
        Fuzzer(target: "UART", usual: 20_000).run { seed, random in
            let line = Line()
            let uart = UART16550(output: SerialOutput(.none), interrupt: { line.level = $0 })
            for _ in 0..<16 {
                if random.once(in: 4) {
                    let room = uart.receiveRoom
                    uart.receive([UInt8](repeating: 0x61, count: min(room, random.below(64)))[...])
                }
                access(uart, offsets: 8, &random)
            }
            // What the line says is what the identification register says.
            let identification = uart.read(2)
            _ = uart.read(2)
            return identification & 1 == 0
        }
    }

    private final class Line: @unchecked Sendable {
        var level = false
    }

    @Test func firmwareConfiguration() {
        Fuzzer(target: "fw_cfg", usual: 20_000).run { seed, random in
            let files = (0..<random.below(4)).map { index in
                let name = String(repeating: "f", count: random.below(80))
                return (name, [UInt8](repeating: UInt8(index), count: random.below(64)))
            }
            let device = FirmwareConfiguration(cpus: random.below(300), memory: random.number(), files: files)
            var seen: UInt64 = 0
            for _ in 0..<16 {
                if random.once(in: 2) {
                    // One of the keys that there are, as often as not.
                    let key = random.next()
                    _ = device.put(UInt16(truncatingIfNeeded: random.once(in: 2) ? key & 0x3F : key), at: 0)
                }
                seen |= access(device, offsets: 2, &random)
            }
            return seen != 0
        }
    }

    /// The I/O APIC of split chips: its redirection table by registers, lines that go up and down, ends of interrupts.
    @Test func ioAPIC() {
        Fuzzer(target: "I/O APIC", usual: 20_000).run { seed, random in
            let sent = Sent()
            let pins = 1 + random.below(32)
            let ioAPIC = IOAPIC(
                pins: pins, deliver: { _ in sent.messages += 1 }, setRoutes: { sent.routes = $0.count })
            for _ in 0..<16 {
                if random.once(in: 2) {
                    // An entry of the redirection table, as often as not one that sends.
                    _ = ioAPIC.put(UInt32(0x10 + random.below(2 * pins)), at: 0)
                    let entry = UInt32(truncatingIfNeeded: random.next())
                    _ = ioAPIC.put(random.once(in: 2) ? entry & ~0x1_0000 : entry, at: 0x10)
                }
                switch random.below(4) {
                case 0: ioAPIC.set(pin: Int(truncatingIfNeeded: random.number()), level: random.once(in: 2))
                case 1: ioAPIC.set(pin: random.below(pins), level: random.once(in: 2))
                case 2: ioAPIC.endOfInterrupt(vector: UInt8(truncatingIfNeeded: random.number()))
                default: access(ioAPIC, offsets: 0x1000, &random)
                }
            }
            if sent.routes > pins {
                Issue.record("VMTALLY_SEED=\(seed): \(sent.routes) routes for \(pins) pins")
            }
            return sent.messages > 0
        }
    }

    private final class Sent: @unchecked Sendable {
        var messages = 0
        var routes = 0
    }

    /// The ports of a PC that have registers of their own: ACPI's fixed hardware, clock, ways to reset.
    @Test func ports() {
        let devices: [(any Device, Int)] = [
            (ACPIPower(), ACPIPower.ports.count), (RealTimeClock(memory: 1 << 30), RealTimeClock.ports.count),
            (KeyboardController(), 1), (SystemControlPort(), 1), (ResetControlPort(), 1), (ExitPort(), 1),
            (BootMarkerPort(BootMarker()), 1),
            (InterruptTestPorts(lines: (0..<24).map { _ in { _ in } }), InterruptTestPorts.ports.count),
        ]
        Fuzzer(target: "ports", usual: 20_000).run { seed, random in
            var seen: UInt64 = 0
            for _ in 0..<4 {
                let (device, offsets) = random.pick(devices)
                seen |= access(device, offsets: offsets, &random)
            }
            return seen != 0
        }
    }

    /// The guest's page tables, which the VMM walks to find the frame of a #GP and the code before it.
    @Test func pageTables() throws {
        let memory = try GuestMemory(mebibytes: 1)
        Fuzzer(target: "page tables", usual: 20_000).run { seed, random in
            // Four levels that lead somewhere, but for a mistake now and then.
            for level in 0..<4 as Range<UInt64> {
                for _ in 0..<4 {
                    let next = random.once(in: 8) ? random.number() : (level + 2) << 12
                    memory.store(
                        next | (random.once(in: 16) ? random.next() & 0xFFF : 7),
                        at: (level + 1) << 12 + UInt64(random.below(512)) * 8)
                    memory.store(next | 7, at: (level + 1) << 12)
                }
            }
            var special = kvm_sregs()
            special.cr0 = random.once(in: 16) ? random.number() : 0x8000_0011
            special.cr3 = random.once(in: 16) ? random.number() : 0x1000
            special.cr4 = random.once(in: 4) ? random.number() : 0x20
            special.efer = random.once(in: 16) ? random.number() : 0x500
            let linear = LinearMemory(memory: memory, special: special)
            let address = random.once(in: 2) ? UInt64(random.below(4096)) : random.number()
            return linear.walk(address).map { memory.slice($0.physical, count: 1) != nil } ?? false
        }
    }

    /// A read or a write of 1 to 8 bytes; what was read.
    @discardableResult
    private func access(_ device: any Device, offsets: Int, _ random: inout SplitMix64) -> UInt64 {
        let offset = UInt32(random.below(offsets))
        let size = 1 << random.below(4)
        var value = random.number()
        withUnsafeMutableBytes(of: &value) { bytes in
            let data = UnsafeMutableRawBufferPointer(rebasing: bytes[..<size])
            if random.once(in: 2) {
                device.read(offset, data)
            } else {
                _ = device.write(offset, UnsafeRawBufferPointer(data))
                bytes.copyBytes(from: [UInt8](repeating: 0, count: 8))
            }
        }
        return value
    }
}
