// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import GuestCode
import KVM
import Linux

/// A Multiboot 1 image in RAM (Multiboot Specification 0.6.96).
struct Multiboot {
    /// What EAX holds at entry.
    static let bootMagic: UInt64 = 0x2BAD_B002
    private static let headerMagic: UInt32 = 0x1BAD_B002
    /// The header lies within the first 8 KiB, 4-byte aligned.
    private static let searchLimit = 8192
    private static let flagAddresses: UInt32 = 1 << 16
    /// Bits 0 to 15 are demands; page-aligned modules (0) and memory information (1) are met.
    private static let unknownDemands: UInt32 = 0xFFFC

    static let noHeader = "it has no Multiboot 1 header in its first 8 KiB"

    /// Fixed places at both ends of the low memory; an image may load between them and above 1 MiB.
    private enum Layout {
        /// Real mode's interrupt vectors, where IDTR points after a reset.
        static let vectors: UInt64 = 0
        static let gdt: UInt64 = 0x500
        static let lowFree: Range<UInt64> = 0x1000..<0x9_0000
        static let info: UInt64 = 0x9_0000
        static let map: UInt64 = 0x9_0100
        static let name: UInt64 = 0x9_0300
        static let commandLine: UInt64 = 0x9_1000
        static let commandLineSize = 0x8000
    }

    /// The header's fields.
    struct Header: Equatable {
        let flags: UInt32
        /// Where in the file it is.
        let offset: Int
    }

    private let entry: UInt64

    /// Finds the header; nil when there is none with a correct checksum.
    static func header(_ bytes: UnsafeRawBufferPointer) -> Header? {
        var offset = 0
        while offset + 12 <= min(bytes.count, searchLimit) {
            let magic = bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
            let flags = bytes.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self)
            let checksum = bytes.loadUnaligned(fromByteOffset: offset + 8, as: UInt32.self)
            if magic == headerMagic, magic &+ flags &+ checksum == 0 {
                return Header(flags: flags, offset: offset)
            }
            offset += 4
        }
        return nil
    }

    init(
        _ bytes: UnsafeRawBufferPointer, commandLine: String, name: String, into memory: GuestMemory,
        tables: ACPITables
    ) throws(MachineError) {
        _ = try tables.write(to: memory)
        guard let header = Self.header(bytes) else {
            throw .image(.unsupported(Self.noHeader))
        }
        guard header.flags & Self.unknownDemands == 0 else {
            throw .image(.unsupported("it demands Multiboot features \(hex(header.flags & 0xFFFF)); 0 and 1 are met"))
        }
        let pieces = try lifted { () throws(ImageError) in try Self.pieces(bytes, header) }
        for piece in pieces.segments {
            let (end, overflow) = piece.address.addingReportingOverflow(piece.memorySize)
            guard !overflow, piece.memorySize > 0,
                Layout.lowFree.contains(piece.address) && end <= Layout.lowFree.upperBound
                    || piece.address >= LinuxBoot.Layout.highStart && end <= memory.lowSize
            else { throw .image(.outsideMemory(piece.address..<max(end, piece.address))) }
            try memory.copy(bytes[piece.file], to: piece.address)
        }
        entry = pieces.entry
        let text = Array(commandLine.utf8)
        guard text.count < Layout.commandLineSize, !text.contains(0) else {
            throw .refused(
                .commandLine, "\(text.count) bytes, or a null byte among them",
                "give at most \(Layout.commandLineSize - 1) bytes of text")
        }
        try memory.copy(text + [0], to: Layout.commandLine)
        try memory.copy(Array(name.utf8.prefix(255)) + [0], to: Layout.name)
        try Self.writeInformation(MemoryMap(memory, tallyPage: tables.tallyPage), to: memory)
        try Self.writeInterruptHandlers(to: memory)
        Self.writeDataArea(to: memory)
        memory.store(0x00CF_9B00_0000_FFFF as UInt64, at: Layout.gdt + 8)
        memory.store(0x00CF_9300_0000_FFFF as UInt64, at: Layout.gdt + 16)
    }

    private struct Pieces {
        var entry: UInt64
        var segments: [(file: Range<Int>, address: UInt64, memorySize: UInt64)]
    }

    /// What goes where: by the header's address fields, else by the ELF headers.
    private static func pieces(_ bytes: UnsafeRawBufferPointer, _ header: Header) throws(ImageError) -> Pieces {
        let file = CheckedBytes(bytes)
        guard header.flags & flagAddresses != 0 else { return try elfPieces(file) }
        let headerAddress = UInt64(try file.load(UInt32.self, at: header.offset + 12))
        let load = UInt64(try file.load(UInt32.self, at: header.offset + 16))
        let loadEnd = UInt64(try file.load(UInt32.self, at: header.offset + 20))
        let bssEnd = UInt64(try file.load(UInt32.self, at: header.offset + 24))
        let entry = UInt64(try file.load(UInt32.self, at: header.offset + 28))
        guard load <= headerAddress, headerAddress - load <= UInt64(header.offset) else {
            throw .malformed("Multiboot header_addr \(hex(headerAddress)) and load_addr \(hex(load))")
        }
        let start = UInt64(header.offset) - (headerAddress - load)
        let size = loadEnd == 0 ? UInt64(bytes.count) - start : loadEnd &- load
        guard loadEnd == 0 || loadEnd >= load, bssEnd == 0 || bssEnd >= load + size else {
            throw .malformed("Multiboot load_end_addr or bss_end_addr")
        }
        let range = try file.range(start, 0, count: size)
        return Pieces(entry: entry, segments: [(range, load, bssEnd == 0 ? size : bssEnd - load)])
    }

    /// ELF32 or ELFExecutable, the latter as kvm-unit-tests' images are before objcopy makes them 32-bit.
    private static func elfPieces(_ file: CheckedBytes) throws(ImageError) -> Pieces {
        let elf = try ELFFile(file.bytes)
        var pieces = Pieces(entry: elf.entry, segments: [])
        for (index, header) in try elf.programHeaders().enumerated() where header.isLoadable {
            guard header.fileSize <= header.memorySize else { throw .malformed("segment \(index)") }
            pieces.segments.append(
                (
                    file: try file.range(header.offset, 0, count: header.fileSize), address: header.address,
                    memorySize: header.memorySize
                ))
        }
        return pieces
    }

    /// The information structure: memory sizes, command line, memory map, boot loader's name (3.3).
    private static func writeInformation(_ memoryMap: MemoryMap, to memory: GuestMemory) throws(MachineError) {
        var map: [UInt8] = []
        for entry in memoryMap.entries {
            map.add(20 as UInt32)
            map.add(entry.range.lowerBound)
            map.add(UInt64(entry.range.count))
            map.add(entry.kind.rawValue)
        }
        try memory.copy(map, to: Layout.map)
        var info = [UInt8](repeating: 0, count: 116)
        func set(_ value: UInt64, _ offset: Int) {
            info.withUnsafeMutableBytes {
                $0.storeBytes(of: UInt32(truncatingIfNeeded: value), toByteOffset: offset, as: UInt32.self)
            }
        }
        set(1 << 0 | 1 << 2 | 1 << 6 | 1 << 9, 0)
        set(LinuxBoot.Layout.lowEnd >> 10, 4)
        set((memory.lowSize - LinuxBoot.Layout.highStart) >> 10, 8)
        set(Layout.commandLine, 16)
        set(UInt64(map.count), 44)
        set(Layout.map, 48)
        set(Layout.name, 64)
        try memory.copy(info, to: Layout.info)
    }

    /// The handlers that real-mode programs rely on, where the IBM PC's BIOS has them.
    private enum BIOS {
        static let masterVectors: UInt8 = 0x08
        static let slaveVectors: UInt8 = 0x70
        /// push %ax; mov $0x20, %al; out %al, $0x20; pop %ax; iret: the 8259 may send the next.
        static let timer: (offset: UInt32, code: [UInt8]) = (0xFEA5, [0x50, 0xB0, 0x20, 0xE6, 0x20, 0x58, 0xCF])
        /// iret
        static let unused: (offset: UInt32, code: [UInt8]) = (0xFF53, [0xCF])
        static let segment: UInt32 = 0xF000
    }

    /// What programs read of the BIOS data area (IBM PC AT Technical Reference, 5): the first serial port, the segment of
    /// the extended area, KiB of memory below that.
    private static func writeDataArea(to memory: GuestMemory) {
        memory.store(UART16550.ports.lowerBound, at: 0x400)
        memory.store(UInt16(LinuxBoot.Layout.lowEnd >> 4), at: 0x40E)
        memory.store(1 << 9 as UInt16, at: 0x410)  // one serial port
        memory.store(UInt16(LinuxBoot.Layout.lowEnd >> 10), at: 0x413)
        memory.store(1 as UInt8, at: LinuxBoot.Layout.lowEnd)  // KiB of the extended area
    }

    private static func writeInterruptHandlers(to memory: GuestMemory) throws(MachineError) {
        for handler in [BIOS.timer, BIOS.unused] {
            try memory.copy(handler.code, to: UInt64(BIOS.segment << 4 + handler.offset))
        }
        for vector in 0..<256 as Range<UInt64> {
            let handler = vector == UInt64(BIOS.masterVectors) ? BIOS.timer : BIOS.unused
            memory.store(BIOS.segment << 16 | handler.offset, at: Layout.vectors + vector * 4)
        }
    }

    /// Leaves the in-kernel 8259s and 8254 "as initialized by the BIOS" (3.2): timer interrupts 18.2 times a second, at
    /// vector 8, and no others.
    static func startTimer(_ vm: borrowing VirtualMachine) throws(KVMError) {
        for (chip, vectors, mask) in [
            (KVM_IRQCHIP_PIC_MASTER, BIOS.masterVectors, 0xFE as UInt8),
            (KVM_IRQCHIP_PIC_SLAVE, BIOS.slaveVectors, 0xFF),
        ] {
            var state = try vm.irqChip(UInt32(chip))
            state.chip.pic.irq_base = vectors
            state.chip.pic.imr = mask
            try vm.setIRQChip(state)
        }
        var timer = try vm.pit2()
        timer.channels.0.mode = 3  // a square wave; a count of 0 is 65,536
        try vm.setPIT2(timer)
    }

    /// 32-bit protected mode, paging off (3.2). The other processors wait for INIT and start-up IPI.
    func start(_ vcpu: borrowing VCPU, index: Int) throws(KVMError) {
        guard index == 0 else { return }
        var special = try vcpu.specialRegisters()
        LongMode.enterProtectedMode(&special)
        let data = kvm_segment(descriptor: 0x00CF_9300_0000_FFFF, selector: 0x10)
        special.cs = kvm_segment(descriptor: 0x00CF_9B00_0000_FFFF, selector: 0x08)
        (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data)
        special.gdt.base = Layout.gdt
        special.gdt.limit = 23
        try vcpu.setSpecialRegisters(special)
        var registers = kvm_regs()
        registers.rflags = 2
        registers.rip = entry
        registers.rax = Self.bootMagic
        registers.rbx = Layout.info
        try vcpu.setRegisters(registers)
    }
}
