// SPDX-License-Identifier: Apache-2.0
import Foundation
import ProbeImage
import Testing

/// The guest's file keeps what docs/guests.md asks of a guest.
@Suite struct ProbeImageTests {
    private let image = ELFImage(ProbeImage.elf)

    @Test func isAStaticELF64ForX86() {
        #expect(image.identification == [0x7F, 0x45, 0x4C, 0x46, 2, 1, 1])
        #expect(image.type == 2, "ET_EXEC")
        #expect(image.machine == 62, "EM_X86_64")
        #expect(!image.segments.contains { $0.type == 2 || $0.type == 3 }, "PT_DYNAMIC, PT_INTERP")
        #expect(image.offset(of: image.entry) != nil)
    }

    @Test func isSmall() {
        #expect(ProbeImage.elf.count <= 64 << 10)
        // All in the second and third MiB, apart from the ring-3 page in the latter: a VMM keeps its own things elsewhere.
        for segment in image.segments where segment.type == 1 {
            #expect(segment.address >= 1 << 20)
            #expect(segment.address + UInt64(segment.memorySize) <= 3 << 20)
        }
    }

    @Test func noSegmentIsWritableAndExecutable() {
        #expect(!image.segments.contains { $0.type == 1 && $0.flags & 3 == 3 })
    }

    @Test func copiesNothing() {
        let (first, second) = (ProbeImage.elf, ProbeImage.elf)
        #expect(first.baseAddress == second.baseAddress)
    }

    @Test func sitesAreItsOnlyCPUIDs() throws {
        let section = try #require(image[section: ".vmtally.sites"])
        let sites = stride(from: section.offset, to: section.offset + section.size, by: 8)
            .map { image.value(at: $0, as: UInt64.self) }
        #expect(sites.count == 2, "a VMM has three breakpoints for them")
        for site in sites {
            let offset = try #require(image.offset(of: site))
            #expect(image.value(at: offset, as: UInt16.self) == 0xA20F, "0F A2: CPUID")
        }
        #expect(sites[0] < 0x20_0000 && sites[1] == 0x20_0000, "ring 0 first; ring 3 has the page at 2 MiB")
        #expect(try disassembly().filter { $0.contains("\tcpuid") }.count == sites.count)
    }

    /// What a VMM's instruction emulator may lack: SSE, MMX, x87 and what kvm-pvm is known to fail on.
    @Test func usesPlainInstructionsOnly() throws {
        let forbidden = /%[xyz]mm|%mm[0-7]|%st|\t(f[a-z]+|popcnt[a-z]*|cmpxchg16b|xsave[a-z]*|stac|clac|int3|int)\b/
        let lines = try disassembly()
        #expect(lines.count > 1000)
        #expect(lines.filter { $0.contains(forbidden) } == [])
    }

    private func disassembly() throws -> [String] {
        let file = FileManager.default.temporaryDirectory.appending(path: "vmtally-\(UUID().uuidString).elf")
        defer { try? FileManager.default.removeItem(at: file) }
        try Data(ProbeImage.elf).write(to: file)
        let result = try Command.run("llvm-objdump", ["--disassemble", "--no-show-raw-insn", file.path])
        #expect(result.status == 0, "\(result.output)")
        return result.output.split(separator: "\n").map(String.init).filter { $0.contains(/^ *[0-9a-f]+:/) }
    }
}
