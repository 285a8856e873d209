// SPDX-License-Identifier: Apache-2.0
import GuestCode
import Linux

/// A Linux kernel as a bzImage, checked (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
///
/// It is entered by the 64-bit boot protocol, so the real-mode code stays unused.
struct BzImage {
    /// Version 2.12 brought `xloadflags`, which says that there is a 64-bit entry.
    static let oldestProtocol: UInt16 = 0x020C
    /// Where the setup header begins in the file and in `boot_params`.
    static let headerStart = 0x1F1
    /// The 64-bit entry point, from the start of the protected-mode code.
    static let entryOffset: UInt64 = 0x200

    /// The setup header as the file has it, from ``headerStart`` on.
    let header: Range<Int>
    /// The protected-mode code.
    let code: Range<Int>
    /// Where the kernel wants its code.
    let preferredAddress: UInt64
    /// Memory that it needs from its load address on until it has an e820 map.
    let initSize: UInt64
    /// Load addresses are multiples of this; nil: only ``preferredAddress`` will do.
    let alignment: UInt64?
    /// Last byte that an initrd may occupy.
    let initrdLimit: UInt64
    /// Longest command line, without the null byte.
    let commandLineLimit: Int

    /// True for a file that claims to be a bzImage, whatever else is wrong with it.
    static func recognizes(_ bytes: UnsafeRawBufferPointer) -> Bool {
        bytes.count >= 0x206 && bytes[0x202..<0x206].elementsEqual("HdrS".utf8)
    }

    init(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        guard Self.recognizes(bytes) else { throw .unsupported("it is not a bzImage: no \"HdrS\" at 0x202") }
        let file = CheckedBytes(bytes)
        guard try file.load(UInt16.self, at: 0x1FE) == 0xAA55 else { throw .malformed("boot_flag is not 0xAA55") }
        let version = try file.load(UInt16.self, at: 0x206)
        guard version >= Self.oldestProtocol else {
            throw .unsupported("boot protocol \(version >> 8).\(version & 0xFF); 2.12 (Linux 3.8) is the oldest here")
        }
        guard try file.load(UInt8.self, at: 0x211) & 1 == 1 else { throw .unsupported("it is a zImage, not a bzImage") }
        guard try file.load(UInt16.self, at: 0x236) & 1 == 1 else {
            throw .unsupported("it has no 64-bit entry point (XLF_KERNEL_64): give a kernel for x86-64")
        }
        // The jump instruction at 0x200 goes past the header's end; boot_params has room up to 0x290.
        let headerEnd = 0x202 + Int(try file.load(UInt8.self, at: 0x201))
        guard headerEnd >= 0x264, headerEnd <= 0x290 else { throw .malformed("setup header of \(headerEnd) bytes") }
        header = try file.range(0, UInt64(Self.headerStart), count: UInt64(headerEnd - Self.headerStart))
        let sectors = try file.load(UInt8.self, at: 0x1F1)
        let codeStart = (UInt64(sectors == 0 ? 4 : sectors) + 1) * 512
        // `syssize` counts 16-byte paragraphs and may round up past the file's end.
        let codeSize = UInt64(try file.load(UInt32.self, at: 0x1F4)) << 4
        let available = UInt64(bytes.count) - min(UInt64(bytes.count), codeStart)
        guard available > Self.entryOffset, codeSize <= available + 15 else {
            throw .malformed("it ends \(bytes.count) bytes in, before its \(codeSize) bytes of code do")
        }
        code = try file.range(codeStart, 0, count: available)
        preferredAddress = try file.load(UInt64.self, at: 0x258)
        initSize = max(UInt64(try file.load(UInt32.self, at: 0x260)), available)
        let alignment = UInt64(try file.load(UInt32.self, at: 0x230))
        guard alignment > 0, alignment & (alignment - 1) == 0, preferredAddress % alignment == 0 else {
            throw .malformed("kernel_alignment \(hex(alignment)) and pref_address \(hex(preferredAddress))")
        }
        self.alignment = try file.load(UInt8.self, at: 0x234) != 0 ? alignment : nil
        initrdLimit = UInt64(try file.load(UInt32.self, at: 0x22C))
        commandLineLimit = Int(try file.load(UInt32.self, at: 0x238))
    }

    private static let lowest: UInt64 = 0x10_0000

    /// Where the kernel works in the end: one that is loaded lower moves up there (boot.rst, `pref_address`).
    private var finalAddress: UInt64 {
        guard preferredAddress < Self.lowest, let alignment else { return preferredAddress }
        return (Self.lowest + alignment - 1) & ~(alignment - 1)
    }

    /// RAM that it takes to start, from address 0 on.
    var memoryNeeded: UInt64 {
        let (sum, overflow) = finalAddress.addingReportingOverflow(initSize)
        return overflow ? .max : sum
    }

    /// Where to load the code in RAM that ends at `limit`; nil: there is too little of it.
    func loadAddress(limit: UInt64) -> UInt64? {
        finalAddress >= Self.lowest && memoryNeeded <= limit ? finalAddress : nil
    }
}
