// SPDX-License-Identifier: Apache-2.0
/// The ACPI tables: processors, I/O APIC, UART, virtio-mmio devices, and the registers that switch off and reset (ACPI
/// 6.5, chapter 5).
///
/// Hardware-reduced if nothing else is asked for, so that a guest leaves PIC, PIT and the rest of the PC alone: every
/// device it does not try to find is exits saved.
struct ACPITables {
    /// A virtio-mmio transport.
    struct VirtioDevice: Equatable {
        let address: UInt64
        let gsi: UInt32
    }

    static let localAPIC: UInt64 = 0xFEE0_0000

    let cpus: Int
    let uart: Bool
    let virtio: [VirtioDevice]
    /// Announces PM1 registers, PM timer, PIC, PIT and real-time clock.
    var fixedHardware = false
    /// Guest physical addresses of the tally page; nil: none. Reserved in the memory map as well.
    var tallyPage: Range<UInt64>?

    /// The page's device: no driver of Linux claims it, which would keep /dev/mem from it.
    static let tallyPageID = "VMTL0001"

    /// Room for the tables, from ``LinuxBoot/Layout/acpi`` on.
    private static let room = Int(LinuxBoot.Layout.resetVector - LinuxBoot.Layout.acpi)

    /// Writes them.
    ///
    /// - Returns: the address of the root pointer.
    func write(to memory: GuestMemory) throws(MachineError) -> UInt64 {
        let root = LinuxBoot.Layout.acpi
        var next = root + 64
        var placed: [(UInt64, [UInt8])] = []
        func place(_ table: [UInt8]) -> UInt64 {
            let address = next
            placed.append((address, table))
            next += (UInt64(table.count) + 63) & ~63
            return address
        }
        let dsdt = place(differentiatedDescription)
        let facs = fixedHardware ? place(Self.firmwareControl) : 0
        let tables = [place(fixedDescription(dsdt: dsdt, facs: facs)), place(multipleAPICDescription)]
        let xsdt = place(Table("XSDT", revision: 1) { bytes in tables.forEach { bytes.add($0) } }.bytes)
        placed.append((root, Self.rootPointer(xsdt: xsdt)))
        guard next - root <= UInt64(Self.room) else {
            throw .refused(
                .vcpus, "\(cpus), with \(virtio.count) devices, need \(next - root) bytes of ACPI tables", "use fewer")
        }
        try memory.copy(LinuxBoot.resetCode, to: LinuxBoot.Layout.resetVector)
        for (address, table) in placed {
            try memory.copy(table, to: address)
        }
        return root
    }

    /// RSDP (5.2.5.3).
    private static func rootPointer(xsdt: UInt64) -> [UInt8] {
        var bytes = Array("RSD PTR ".utf8)
        bytes.add(0 as UInt8)  // checksum of the first 20 bytes
        bytes += Table.creator
        bytes.add(2 as UInt8)
        bytes.add(0 as UInt32)
        bytes[8] = Table.checksum(bytes)
        bytes.add(36 as UInt32)
        bytes.add(xsdt)
        bytes.add(0 as UInt32)  // extended checksum, reserved
        bytes[32] = Table.checksum(bytes)
        return bytes
    }

    /// FACS (5.2.10), for the operating system to write to.
    private static var firmwareControl: [UInt8] {
        var bytes = Array("FACS".utf8)
        bytes.add(64 as UInt32)
        return bytes + [UInt8](repeating: 0, count: 24) + [2] + [UInt8](repeating: 0, count: 31)
    }

    /// FADT (5.2.9).
    private func fixedDescription(dsdt: UInt64, facs: UInt64) -> [UInt8] {
        var table = Table("FACP", revision: 6) { bytes in
            bytes += [UInt8](repeating: 0, count: 276 - Table.headerSize)
        }
        // IAPC_BOOT_ARCH: no VGA, no MSI, no ASPM, no 8042. Flags: WBINVD, no fixed power and sleep buttons, RESET_REG_SUP.
        var architecture: UInt16 = 0b01_1100
        var flags: UInt32 = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 10
        if fixedHardware {
            architecture |= 1 << 0  // legacy devices
            flags |= 1 << 2 | 1 << 6  // PROC_C1, no wake status of the RTC
            table.store(UInt16(ACPIPower.irq), at: 46)
            table.storeRegister(ACPIPower.eventPort, bytes: 4, at: 56, length: 88, extended: 148)
            table.storeRegister(ACPIPower.controlPort, bytes: 2, at: 64, length: 89, extended: 172)
            table.storeRegister(ACPIPower.timerPort, bytes: 4, at: 76, length: 91, extended: 208)
            table.store(0xFFFF as UInt16, at: 96)  // neither C2
            table.store(0xFFFF as UInt16, at: 98)  // nor C3
            table.store(RealTimeClock.centuryRegister, at: 108)
            table.store(facs, at: 132)
        } else {
            architecture |= 1 << 5  // no CMOS RTC
            flags |= 1 << 20  // HW_REDUCED_ACPI
            table.storePort(ACPIPower.sleepControlPort, at: 244)
            table.storePort(ACPIPower.sleepStatusPort, at: 256)
        }
        table.store(architecture, at: 109)
        table.store(flags, at: 112)
        table.storePort(ACPIPower.resetPort, at: 116)
        table.store(ACPIPower.resetValue, at: 128)
        table.store(3 as UInt8, at: 131)  // minor version
        table.store(dsdt, at: 140)
        return table.bytes
    }

    /// MADT (5.2.12).
    private var multipleAPICDescription: [UInt8] {
        Table("APIC", revision: 6) { bytes in
            bytes.add(UInt32(truncatingIfNeeded: Self.localAPIC))
            bytes.add(fixedHardware ? 1 : 0 as UInt32)  // 8259s that need masking
            for cpu in 0..<cpus {
                if cpu < 255 {
                    bytes += [0, 8, UInt8(cpu), UInt8(cpu)]
                    bytes.add(1 as UInt32)
                } else {
                    bytes += [9, 16, 0, 0]
                    bytes.add(UInt32(cpu))
                    bytes.add(1 as UInt32)
                    bytes.add(UInt32(cpu))
                }
            }
            bytes += [1, 12, 0, 0]
            bytes.add(UInt32(truncatingIfNeeded: IOAPIC.address))
            bytes.add(0 as UInt32)  // its first interrupt
            if fixedHardware {
                bytes += [2, 10, 0, 0, 2, 0, 0, 0, 0, 0]  // the PIT's interrupt 0 at pin 2
                bytes += [2, 10, 0, UInt8(ACPIPower.irq), UInt8(ACPIPower.irq), 0, 0, 0, 0b1101, 0]  // level, high
            }
            bytes += [4, 6, 0xFF, 0, 0, 1]  // NMI at LINT1 of every processor
        }.bytes
    }

    /// DSDT (5.2.11.1): what is in the machine, in AML (chapter 20).
    private var differentiatedDescription: [UInt8] {
        var devices: [UInt8] = []
        if fixedHardware {
            devices += Self.isaDevice("PIC_", "PNP0000", [0x20...0x21, 0xA0...0xA1], irq: 2)
            devices += Self.isaDevice("TIMR", "PNP0100", [0x40...0x43], irq: 0)
            devices += Self.isaDevice("RTC_", "PNP0B00", [RealTimeClock.ports], irq: nil)
        }
        if uart {
            devices += Self.isaDevice("COM1", "PNP0501", [UART16550.ports], irq: UInt8(UART16550.irq))
        }
        for (index, device) in virtio.enumerated() {
            let digits = String(index, radix: 16, uppercase: true)
            devices += AML.device(
                "VR" + String(repeating: "0", count: max(0, 2 - digits.count)) + digits,
                AML.name("_HID", AML.string("LNRO0005")) + AML.name("_UID", AML.integer(UInt64(index)))
                    + AML.name("_CCA", AML.integer(1))
                    + AML.name(
                        "_CRS",
                        AML.resources([
                            AML.memory32(UInt32(truncatingIfNeeded: device.address), count: 0x1000),
                            AML.extendedInterrupt(device.gsi),
                        ])))
        }
        if let tallyPage {
            devices += AML.device(
                "TLYP",
                AML.name("_HID", AML.string(Self.tallyPageID)) + AML.name("_UID", AML.integer(0))
                    + AML.name(
                        "_CRS",
                        AML.resources([
                            AML.memory32(
                                UInt32(truncatingIfNeeded: tallyPage.lowerBound),
                                count: UInt32(tallyPage.count), isWritable: false)
                        ])))
        }
        let softOff = AML.name("_S5_", AML.package([AML.integer(UInt64(ACPIPower.softOff)), AML.integer(0)]))
        return Table("DSDT", revision: 2) { bytes in bytes += AML.scope("\\_SB_", devices) + softOff }.bytes
    }
}

extension ACPITables {
    /// A device with ports and an interrupt of the ISA bus.
    private static func isaDevice(_ name: String, _ id: String, _ ports: [ClosedRange<UInt16>], irq: UInt8?) -> [UInt8]
    {
        let resources =
            ports.map { AML.ioPort($0.lowerBound, count: UInt8($0.count)) } + (irq.map { [AML.irq($0)] } ?? [])
        return AML.device(
            name,
            AML.name("_HID", AML.eisaID(id)) + AML.name("_UID", AML.integer(0))
                + AML.name("_CRS", AML.resources(resources)))
    }
}

/// A system description table: header, body, checksum (ACPI 6.5, 5.2.6).
private struct Table {
    static let headerSize = 36
    static let creator = Array("VMTALY".utf8)

    private(set) var bytes: [UInt8]

    init(_ signature: String, revision: UInt8, _ body: (inout [UInt8]) -> Void) {
        bytes = Array(signature.utf8)
        bytes.add(0 as UInt32)
        bytes += [revision, 0]
        bytes += Self.creator + Array("VMTALLY ".utf8)
        bytes.add(1 as UInt32)
        bytes += Array("VMTA".utf8)
        bytes.add(1 as UInt32)
        body(&bytes)
        store(UInt32(bytes.count), at: 4)
    }

    /// Overwrites, and corrects the checksum.
    mutating func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
        bytes.withUnsafeMutableBytes { $0.storeBytes(of: value, toByteOffset: offset, as: T.self) }
        bytes[9] = 0
        bytes[9] = Self.checksum(bytes)
    }

    /// A generic address structure for one byte of a port (5.2.3.2).
    mutating func storePort(_ port: UInt16, at offset: Int) {
        store(1 as UInt8, at: offset)
        store(8 as UInt8, at: offset + 1)
        store(1 as UInt8, at: offset + 3)
        store(UInt64(port), at: offset + 4)
    }

    /// A fixed register block: its port, its length, and both again as a generic address structure.
    mutating func storeRegister(_ port: UInt16, bytes: UInt8, at offset: Int, length: Int, extended: Int) {
        store(UInt32(port), at: offset)
        store(bytes, at: length)
        storePort(port, at: extended)
        store(bytes * 8, at: extended + 1)
        store(bytes == 2 ? 2 : 3 as UInt8, at: extended + 3)  // accesses of 2 or 4 bytes
    }

    /// The byte that makes the sum zero.
    static func checksum(_ bytes: [UInt8]) -> UInt8 {
        0 &- bytes.reduce(0, &+)
    }
}

extension [UInt8] {
    /// Appends an integer, little-endian.
    mutating func add<T: FixedWidthInteger>(_ value: T) {
        for shift in stride(from: 0, to: T.bitWidth, by: 8) {
            append(UInt8(truncatingIfNeeded: value >> T(shift)))
        }
    }
}

/// ACPI Machine Language, as much as a DSDT here needs (ACPI 6.5, 20.2), and resource descriptors (6.4).
enum AML {
    static func scope(_ path: String, _ body: [UInt8]) -> [UInt8] {
        [0x10] + sized(Array(path.utf8) + body)
    }

    /// - Parameter name: four characters.
    static func device(_ name: String, _ body: [UInt8]) -> [UInt8] {
        [0x5B, 0x82] + sized(Array(name.utf8) + body)
    }

    static func name(_ name: String, _ value: [UInt8]) -> [UInt8] {
        [0x08] + Array(name.utf8) + value
    }

    static func integer(_ value: UInt64) -> [UInt8] {
        var bytes: [UInt8] = []
        switch value {
        case 0, 1:
            bytes = [UInt8(value)]
        case ...0xFF:
            bytes = [0x0A, UInt8(value)]
        case ...0xFFFF:
            bytes = [0x0B]
            bytes.add(UInt16(value))
        case ...0xFFFF_FFFF:
            bytes = [0x0C]
            bytes.add(UInt32(value))
        default:
            bytes = [0x0E]
            bytes.add(value)
        }
        return bytes
    }

    static func string(_ text: String) -> [UInt8] {
        [0x0D] + Array(text.utf8) + [0]
    }

    static func package(_ elements: [[UInt8]]) -> [UInt8] {
        [0x12] + sized([UInt8(elements.count)] + Array(elements.joined()))
    }

    /// A compressed EISA identifier, as EISAID("PNP0501") makes it (19.3.4): 3 letters of 5 bits, 4 hexadecimal digits.
    static func eisaID(_ text: String) -> [UInt8] {
        let characters = Array(text.utf8)
        let letters = characters.prefix(3).reduce(UInt32(0)) { $0 << 5 | UInt32($1 - 0x40) }
        let digits = UInt32(String(decoding: characters.dropFirst(3), as: UTF8.self), radix: 16) ?? 0
        var bytes: [UInt8] = [0x0C]
        bytes.add((letters << 16 | digits).byteSwapped)
        return bytes
    }

    /// ResourceTemplate: a buffer of descriptors with an end tag whose checksum is left open.
    static func resources(_ descriptors: [[UInt8]]) -> [UInt8] {
        let content = Array(descriptors.joined()) + [0x79, 0]
        return [0x11] + sized(integer(UInt64(content.count)) + content)
    }

    /// IO(Decode16, port, port, 1, count).
    static func ioPort(_ port: UInt16, count: UInt8) -> [UInt8] {
        var bytes: [UInt8] = [0x47, 1]
        bytes.add(port)
        bytes.add(port)
        return bytes + [1, count]
    }

    /// IRQNoFlags(){irq}: edge, active high.
    static func irq(_ irq: UInt8) -> [UInt8] {
        var bytes: [UInt8] = [0x22]
        bytes.add(UInt16(1) << UInt16(irq))
        return bytes
    }

    /// Memory32Fixed(ReadWrite or ReadOnly, address, count).
    static func memory32(_ address: UInt32, count: UInt32, isWritable: Bool = true) -> [UInt8] {
        var bytes: [UInt8] = [0x86, 9, 0, isWritable ? 1 : 0]
        bytes.add(address)
        bytes.add(count)
        return bytes
    }

    /// Interrupt(ResourceConsumer, Edge, ActiveHigh, Exclusive){gsi}.
    static func extendedInterrupt(_ gsi: UInt32) -> [UInt8] {
        var bytes: [UInt8] = [0x89, 6, 0, 0b0011, 1]
        bytes.add(gsi)
        return bytes
    }

    /// Puts PkgLength before the content; it counts itself (20.2.4).
    private static func sized(_ content: [UInt8]) -> [UInt8] {
        let count = content.count
        switch count {
        case ..<(1 << 6 - 1):
            return [UInt8(count + 1)] + content
        case ..<(1 << 12 - 2):
            let total = count + 2
            return [0x40 | UInt8(total & 0xF), UInt8(total >> 4)] + content
        default:
            let total = count + 3
            return [0x80 | UInt8(total & 0xF), UInt8(total >> 4 & 0xFF), UInt8(total >> 12 & 0xFF)] + content
        }
    }
}
