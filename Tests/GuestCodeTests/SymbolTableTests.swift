// SPDX-License-Identifier: Apache-2.0
import TestSupport
import Testing
@testable import GuestCode

/// Names of a guest's code, from an ELF and from lines.
struct SymbolTableTests {
    private func table(_ text: String) throws(ImageError) -> SymbolTable {
        try Self.table(Array(text.utf8))
    }

    private static func table(_ bytes: [UInt8]) throws(ImageError) -> SymbolTable {
        // Typed throws do not pass through withUnsafeBytes.
        let result = bytes.withUnsafeBytes { buffer in
            Result { () throws(ImageError) in try SymbolTable(buffer) }
        }
        return try result.get()
    }

    static let map = """
        0000000000000000 A fixed_percpu_data
        ffffffff81000000 T startup_64
        ffffffff81000000 t local_alias
        ffffffff81000100 t helper
        ffffffff81000100 W weak
        ffffffff81000200 T _etext
        ffffffff81a00000 R __start_rodata
        ffffffff81c00000 D jiffies
        ffffffff82000000 T _sinittext
        ffffffff82000800 B _end

        """

    @Test(
        "an address is named by the code it lies in",
        arguments: [
            (0xFFFF_FFFF_8100_0000, "startup_64+0x0"), (0xFFFF_FFFF_8100_00FF, "startup_64+0xff"),
            (0xFFFF_FFFF_8100_0100, "weak+0x0"), (0xFFFF_FFFF_8100_01FF, "weak+0xff"),
            (0xFFFF_FFFF_8200_07FF, "_sinittext+0x7ff"),
            // Data, behind all code, a module, user space, nothing.
            (0xFFFF_FFFF_81C0_0000, nil), (0xFFFF_FFFF_81A0_0001, nil), (0xFFFF_FFFF_8200_0800, nil),
            (0xFFFF_FFFF_C000_0000, nil), (0x40_0000, nil), (0, nil), (.max, nil),
        ] as [(UInt64, String?)])
    func location(address: UInt64, name: String?) throws {
        #expect(try table(Self.map).location(of: address)?.description == name)
        let slide: UInt64 = 0x1240_0000
        #expect(try table(Self.map).location(of: address &+ slide, slide: slide)?.description == name)
    }

    @Test("a module's code is named, its own name aside")
    func module() throws {
        let table = try table("ffffffffc0000010 t cpuid_read\t[cpuid]\nffffffffc0000090 t cpuid_open\t[cpuid]\n")
        #expect(table.location(of: 0xFFFF_FFFF_C000_0020)?.description == "cpuid_read+0x10")
        #expect(table.address(of: "cpuid_open") == 0xFFFF_FFFF_C000_0090)
        #expect(table.end(of: 0xFFFF_FFFF_C000_0010) == 0xFFFF_FFFF_C000_0090)
        #expect(table.address(of: "cpuid") == nil)
    }

    @Test("KASLR is found by the first anchor that has a symbol")
    func slide() throws {
        let table = try table(Self.map)
        func anchor(_ symbol: String, _ address: UInt64) -> SymbolTable.Anchor {
            .init(symbol: symbol, address: address)
        }
        #expect(table.slide([]) == nil)
        #expect(table.slide([anchor("absent", 1)]) == nil)
        #expect(
            table.slide([anchor("absent", 1), anchor("helper", 0xFFFF_FFFF_9100_0100), anchor("weak", 3)])
                == 0x1000_0000)
        // Downwards is a number as well.
        #expect(table.slide([anchor("startup_64", 0xFFFF_FFFF_8000_0000)]) == 0 &- 0x100_0000)
    }

    @Test(
        "what is no map is refused, with the line",
        arguments: [
            ("ffffffff81000000 T\n", "line 1"), ("ffffffff81000000 T a\n\nzzz T b\n", "line 3"),
            ("11112222333344445 T a\n", "line 1"), ("ffffffff81000000 TT a\n", "line 1"), ("\u{0}\n", "line 1"),
            ("", "names no code"), ("ffffffff81000000 D jiffies\n", "names no code"),
            // As an ordinary user sees /proc/kallsyms, and as Debian's /boot has it.
            ("0000000000000000 T _text\n", "as root"),
            ("ffffffffffffffff B The real System.map is in the linux-image-6.1.0-56-cloud-amd64-dbg package\n", "-dbg"),
        ])
    func refused(text: String, why: String) {
        #expect {
            try table(text)
        } throws: { error in
            "\(error)".contains(why)
        }
    }

    @Test("an ELF's symbols")
    func elf() throws {
        var builder = ELFBuilder()
        builder.entry = 0x10_0000
        builder.segments = [.init(address: 0x10_0000, bytes: [0xF4])]
        builder.sites = little(UInt64(0x10_0000))
        builder.symbols = [("second", 0x10_0040), ("first", 0x10_0000)]
        let table = try Self.table(builder.bytes)
        #expect(table.count == 2)
        #expect(table.location(of: 0x10_003F)?.description == "first+0x3f")
        #expect(table.location(of: 0x10_0040)?.description == "second+0x0")
        // Without the symbols the file is as good a guest, but names nothing.
        builder.symbols = []
        #expect(throws: ImageError.self) { try Self.table(builder.bytes) }
    }

    @Test("an ELF that is cut short or scribbled over is refused or read, never more")
    func brokenELF() throws {
        var builder = ELFBuilder()
        builder.entry = 0x10_0000
        builder.segments = [.init(address: 0x10_0000, bytes: [0xF4])]
        builder.symbols = [("second", 0x10_0040), ("first", 0x10_0000)]
        let bytes = builder.bytes
        for length in 0..<bytes.count {
            _ = try? Self.table(Array(bytes[..<length]))
        }
        for place in bytes.indices {
            for value in [0, 0x7F, 0x80, 0xFF] as [UInt8] {
                _ = try? Self.table(bytes.patched(place, value))
            }
        }
    }
}
