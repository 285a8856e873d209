// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import GuestCode
import KVM
import Linux

/// What a Linux guest boots from.
public struct LinuxImages {
    /// A bzImage or a vmlinux.
    public var kernel: UnsafeRawBufferPointer
    /// Empty: none.
    public var initrd: UnsafeRawBufferPointer
    public var commandLine: String

    public init(
        kernel: UnsafeRawBufferPointer, initrd: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0),
        commandLine: String
    ) {
        self.kernel = kernel
        self.initrd = initrd
        self.commandLine = commandLine
    }
}

/// A Linux kernel in RAM with all that it is handed over: `boot_params`, command line, initrd, ACPI tables.
struct LinuxBoot {
    /// Fixed places in the first MiB.
    enum Layout {
        static let gdt: UInt64 = 0x500
        static let startInfo: UInt64 = 0x6000
        static let bootParameters: UInt64 = 0x7000
        static let pageTables: UInt64 = 0x9000
        static let stackTop: UInt64 = 0x8FF0
        static let commandLine: UInt64 = 0x2_0000
        static let commandLineSize = 0x1_0000
        /// RAM below the extended BIOS data area.
        static let lowEnd: UInt64 = 0x9_FC00
        /// Where a kernel searches for ACPI's root pointer, and the end of the BIOS area.
        static let acpi: UInt64 = 0xE_0000
        static let highStart: UInt64 = 0x10_0000
        /// Where a processor starts after a reset, as real-mode software sees it.
        static let resetVector: UInt64 = 0xF_FFF0
    }

    /// What lies at the reset vector, for guests that jump there to restart: mov $6, %al; mov $0xCF9, %dx; out %al, %dx;
    /// hlt.
    static let resetCode: [UInt8] = [0xB0, 0x06, 0xBA, 0xF9, 0x0C, 0xEE, 0xF4]

    private enum Entry {
        /// 64-bit mode, RSI = boot_params (boot.rst, "64-bit Boot Protocol").
        case bootParameters(UInt64)
        /// 32-bit protected mode, EBX = hvm_start_info (Xen's PVH boot ABI).
        case startInfo(UInt64)
    }

    private let entry: Entry

    init(_ images: LinuxImages, into memory: GuestMemory, tables: ACPITables) throws(MachineError) {
        let acpi = try tables.write(to: memory)
        let map = MemoryMap(memory, tallyPage: tables.tallyPage)
        if BzImage.recognizes(images.kernel) {
            let image = try lifted { () throws(ImageError) in try BzImage(images.kernel) }
            guard let address = image.loadAddress(limit: memory.lowSize) else {
                let needed = image.memoryNeeded >> 20 + (image.memoryNeeded & 0xF_FFFF == 0 ? 0 : 1)
                throw .refused(
                    .memory, "this kernel needs \(needed) MiB to start", "give the guest that or more")
            }
            try memory.copy(images.kernel[image.code], to: address)
            let kernel = address..<address + image.initSize
            let initrd = try Self.load(images.initrd, into: memory, above: kernel.upperBound, limit: image.initrdLimit)
            try Self.writeCommandLine(images.commandLine, to: memory, limit: image.commandLineLimit)
            var parameters = BootParameters(header: images.kernel[image.header])
            parameters.finish(initrd: initrd, map: map, acpi: acpi)
            try memory.copy(parameters.bytes, to: Layout.bootParameters)
            entry = .bootParameters(address + BzImage.entryOffset)
        } else {
            let image = try lifted { () throws(ImageError) in try ELFExecutable(images.kernel, allowsPVH32: true) }
            var end = Layout.highStart
            for segment in image.segments {
                guard segment.address >= Layout.highStart, segment.memory.upperBound <= memory.lowSize else {
                    throw .image(.outsideMemory(segment.memory))
                }
                try memory.copy(images.kernel[segment.file], to: segment.address)
                end = max(end, segment.memory.upperBound)
            }
            let initrd = try Self.load(images.initrd, into: memory, above: end, limit: 0x7FFF_FFFF)
            try Self.writeCommandLine(images.commandLine, to: memory, limit: 2047)
            if let start = image.pvhEntry {
                let info = StartInfo(initrd: initrd, map: map, acpi: acpi)
                try memory.copy(info.bytes, to: Layout.startInfo)
                entry = .startInfo(UInt64(start))
            } else {
                var parameters = BootParameters()
                parameters.finish(initrd: initrd, map: map, acpi: acpi)
                try memory.copy(parameters.bytes, to: Layout.bootParameters)
                entry = .bootParameters(image.entry)
            }
        }
        guard LongMode(base: Layout.pageTables).write(to: memory) else {
            throw .refused(.memory, "no room for page tables", "give the guest more")
        }
        for (index, segment) in Segment.allCases.enumerated() {
            memory.store(segment.descriptor(longMode: isLongMode), at: Layout.gdt + UInt64(index + 2) * 8)
        }
    }

    private var isLongMode: Bool {
        if case .bootParameters = entry { true } else { false }
    }

    /// Puts the boot processor at the entry point. The others wait for INIT and start-up IPI.
    func start(_ vcpu: borrowing VCPU, index: Int) throws(KVMError) {
        guard index == 0 else { return }
        var special = try vcpu.specialRegisters()
        var registers = kvm_regs()
        registers.rflags = 2
        registers.rsp = Layout.stackTop
        switch entry {
        case .bootParameters(let address):
            LongMode(base: Layout.pageTables).enter(&special)
            registers.rip = address
            registers.rsi = Layout.bootParameters
        case .startInfo(let address):
            LongMode.enterProtectedMode(&special)
            registers.rip = address
            registers.rbx = Layout.startInfo
        }
        let code = Segment.code.register(longMode: isLongMode)
        let data = Segment.data.register(longMode: isLongMode)
        special.cs = code
        (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data)
        special.gdt.base = Layout.gdt
        special.gdt.limit = UInt16(Segment.allCases.count + 2) * 8 - 1
        try vcpu.setSpecialRegisters(special)
        try vcpu.setRegisters(registers)
    }

    /// __BOOT_CS and __BOOT_DS, at the selectors that the protocol demands.
    private enum Segment: UInt16, CaseIterable {
        case code = 0x10
        case data = 0x18

        func descriptor(longMode: Bool) -> UInt64 {
            switch self {
            case .code: longMode ? 0x00AF_9B00_0000_FFFF : 0x00CF_9B00_0000_FFFF
            case .data: 0x00CF_9300_0000_FFFF
            }
        }

        func register(longMode: Bool) -> kvm_segment {
            kvm_segment(descriptor: descriptor(longMode: longMode), selector: rawValue)
        }
    }

    /// As high as it may lie, on a page; the kernel frees the pages afterwards.
    private static func load(
        _ initrd: UnsafeRawBufferPointer, into memory: GuestMemory, above floor: UInt64, limit: UInt64
    ) throws(MachineError) -> Range<UInt64> {
        guard !initrd.isEmpty else { return 0..<0 }
        let size = UInt64(initrd.count)
        let ceiling = min(memory.lowSize, limit + 1)
        guard size <= ceiling, (ceiling - size) & ~0xFFF >= floor else {
            throw .refused(
                .memory, "the initrd's \(size >> 10) KiB do not fit above the kernel (\(hex(floor)))",
                "give the guest more")
        }
        let address = (ceiling - size) & ~0xFFF
        try memory.copy(initrd[...], to: address)
        return address..<address + size
    }

    private static func writeCommandLine(
        _ text: String, to memory: GuestMemory, limit: Int
    ) throws(MachineError) {
        let bytes = Array(text.utf8)
        let limit = min(limit, Layout.commandLineSize - 1)
        guard bytes.count <= limit else {
            throw .refused(.commandLine, "\(bytes.count) bytes, this kernel takes \(limit)", "shorten it")
        }
        guard !bytes.contains(0) else { throw .refused(.commandLine, "it contains a null byte", "leave that out") }
        try memory.copy(bytes + [0], to: Layout.commandLine)
    }
}

/// RAM and what in it is taken, as e820 and PVH tell it.
struct MemoryMap {
    /// E820_TYPE_RAM and E820_TYPE_RESERVED; PVH has the same numbers.
    enum Kind: UInt32 {
        case ram = 1
        case reserved = 2
    }

    let entries: [(range: Range<UInt64>, kind: Kind)]

    init(_ memory: GuestMemory, tallyPage: Range<UInt64>? = nil) {
        var entries: [(Range<UInt64>, Kind)] = [
            (0..<LinuxBoot.Layout.lowEnd, .ram),
            (LinuxBoot.Layout.lowEnd..<0xA_0000, .reserved),
            (LinuxBoot.Layout.acpi..<LinuxBoot.Layout.highStart, .reserved),
            (LinuxBoot.Layout.highStart..<max(LinuxBoot.Layout.highStart, memory.lowSize), .ram),
        ]
        if let tallyPage {
            entries.append((tallyPage, .reserved))
        }
        if memory.size > memory.lowSize {
            entries.append((GuestMemory.holeEnd..<GuestMemory.holeEnd + memory.size - memory.lowSize, .ram))
        }
        self.entries = entries
    }
}

/// `struct boot_params`, the "zero page" (Documentation/arch/x86/zero-page.rst).
struct BootParameters {
    private(set) var bytes = [UInt8](repeating: 0, count: 4096)

    /// As a boot loader starts one: zero but for the kernel's own setup header.
    init(header: Slice<UnsafeRawBufferPointer>) {
        for (index, byte) in header.enumerated() {
            bytes[BzImage.headerStart + index] = byte
        }
    }

    /// For a kernel that comes without a setup header.
    init() {
        store(0xAA55 as UInt16, at: 0x1FE)
        store(0x5372_6448 as UInt32, at: 0x202)  // "HdrS"
        store(0x020C as UInt16, at: 0x206)
        store(0x01 as UInt8, at: 0x211)
        store(0x100_0000 as UInt32, at: 0x230)
    }

    mutating func finish(initrd: Range<UInt64>, map: MemoryMap, acpi: UInt64) {
        store(0xFFFF as UInt16, at: 0x1FA)  // vid_mode: normal
        store(0xFF as UInt8, at: 0x210)  // type_of_loader: undefined
        store(UInt32(truncatingIfNeeded: LinuxBoot.Layout.commandLine), at: 0x228)
        store(UInt32(truncatingIfNeeded: initrd.lowerBound), at: 0x218)
        store(UInt32(truncatingIfNeeded: initrd.count), at: 0x21C)
        store(acpi, at: 0x070)
        store(UInt8(map.entries.count), at: 0x1E8)
        for (index, entry) in map.entries.enumerated() {
            let place = 0x2D0 + index * 20
            store(entry.range.lowerBound, at: place)
            store(UInt64(entry.range.count), at: place + 8)
            store(entry.kind.rawValue, at: place + 16)
        }
    }

    private mutating func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
        bytes.withUnsafeMutableBytes { $0.storeBytes(of: value, toByteOffset: offset, as: T.self) }
    }
}

/// `struct hvm_start_info` with its module list and memory map (Xen, xen/include/public/arch-x86/hvm/start_info.h).
struct StartInfo {
    private(set) var bytes: [UInt8]

    private static let headSize = 56
    private static let moduleSize = 32
    private static let mapEntrySize = 24

    init(initrd: Range<UInt64>, map: MemoryMap, acpi: UInt64) {
        let modules = Self.headSize
        let entries = modules + Self.moduleSize
        bytes = [UInt8](repeating: 0, count: entries + map.entries.count * Self.mapEntrySize)
        let base = LinuxBoot.Layout.startInfo
        store(0x336E_C578 as UInt32, at: 0)
        store(1 as UInt32, at: 4)
        store(initrd.isEmpty ? 0 : 1 as UInt32, at: 12)
        store(base + UInt64(modules), at: 16)
        store(LinuxBoot.Layout.commandLine, at: 24)
        store(acpi, at: 32)
        store(base + UInt64(entries), at: 40)
        store(UInt32(map.entries.count), at: 48)
        store(initrd.lowerBound, at: modules)
        store(UInt64(initrd.count), at: modules + 8)
        for (index, entry) in map.entries.enumerated() {
            let place = entries + index * Self.mapEntrySize
            store(entry.range.lowerBound, at: place)
            store(UInt64(entry.range.count), at: place + 8)
            store(entry.kind.rawValue, at: place + 16)
        }
    }

    private mutating func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
        bytes.withUnsafeMutableBytes { $0.storeBytes(of: value, toByteOffset: offset, as: T.self) }
    }
}

extension GuestMemory {
    /// Copies bytes into RAM.
    ///
    /// - Throws: ``MachineError/image(_:)`` when a byte of them would fall outside.
    func copy(_ bytes: Slice<UnsafeRawBufferPointer>, to address: UInt64) throws(MachineError) {
        guard let target = slice(address, count: bytes.count) else {
            throw .image(.outsideMemory(address..<address + UInt64(bytes.count)))
        }
        target.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes))
    }

    func copy(_ bytes: [UInt8], to address: UInt64) throws(MachineError) {
        guard let target = slice(address, count: bytes.count) else {
            throw .image(.outsideMemory(address..<address + UInt64(bytes.count)))
        }
        target.copyBytes(from: bytes)
    }
}
