// SPDX-License-Identifier: Apache-2.0

/// What a file is that is no guest, by its first bytes, and what to do with it.
enum ImageKind {
    private static let kinds: [(offset: Int, magic: [UInt8], text: String)] = [
        (0, [0x1F, 0x8B], "it is compressed (gzip): gunzip it first"),
        (0, [0xFD, 0x37, 0x7A, 0x58, 0x5A, 0], "it is compressed (xz): unxz it first"),
        (0, [0x28, 0xB5, 0x2F, 0xFD], "it is compressed (zstd): unzstd it first"),
        (0, [0x02, 0x21, 0x4C, 0x18], "it is compressed (lz4): lz4 -d it first"),
        (0, [0x04, 0x22, 0x4D, 0x18], "it is compressed (lz4): lz4 -d it first"),
        (0, Array("BZh".utf8), "it is compressed (bzip2): bunzip2 it first"),
        (0x8001, Array("CD001".utf8), "it is a CD image (ISO 9660): take the kernel out of it"),
        (
            0, Array("QFI\u{FB}".unicodeScalars.map { UInt8($0.value) }),
            "it is a disk image (qcow2): take its kernel"
        ),
        (0, Array("hsqs".utf8), "it is a squashfs: take the kernel out of it"),
        (0, Array("070701".utf8), "it is a cpio archive: give it with the kernel that it is the initrd of"),
        (0, Array("!<arch>\n".utf8), "it is an archive (ar, or a Debian package): take the kernel out of it"),
        (0, [0x27, 0x05, 0x19, 0x56], "it is a U-Boot image: take the kernel out of it"),
        (0, Array("#!".utf8), "it is a script"),
        (0, Array("{".utf8), "it is a text"),
        (
            0, Array("MZ".utf8),
            "it is an EFI program, and there is no firmware here to run it: give a vmlinux"
        ),
        (510, [0x55, 0xAA], "it is a boot sector or a disk image, and there is no BIOS here to boot it"),
    ]

    /// Nil for what has no name here.
    static func describe(_ bytes: UnsafeRawBufferPointer) -> String? {
        for kind in kinds where bytes.dropFirst(kind.offset).starts(with: kind.magic) {
            return kind.text
        }
        // A ROM ends with a jump at the reset vector, 16 bytes before its end.
        if bytes.count >= 1 << 16, bytes.count % (1 << 16) == 0, [0xEA, 0xE9].contains(bytes[bytes.count - 16]) {
            return "it is a BIOS: guests here are started without one"
        }
        return nil
    }

    /// An error that says no more than that a file is none of ours, with what it is instead.
    static func explain(_ error: MachineError, _ bytes: UnsafeRawBufferPointer, isLinux: Bool = false) -> MachineError {
        guard case .image(let cause) = error else { return error }
        switch cause {
        case .notELF, .unsupported(Multiboot.noHeader):
            if let kind = describe(bytes) { return .image(.unsupported(kind)) }
            return isLinux ? .image(.unsupported("it is not a Linux kernel: give a bzImage or an ELF vmlinux")) : error
        default: return error
        }
    }
}
