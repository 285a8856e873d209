// SPDX-License-Identifier: Apache-2.0

/// The processors and interrupts of a PC for programs older than ACPI (MultiProcessor Specification 1.4, chapter 4).
struct MPTable {
    /// Where programs search: the BIOS area, behind the ACPI tables of all but the largest machines.
    static let address: UInt64 = 0xF_8000
    /// Local APIC IDs of 8 bits, the I/O APIC's among them.
    private static let processorLimit = 254

    let cpus: Int
    /// With 8259s, whose interrupts reach the boot processor's LINT0.
    let hasPIC: Bool

    /// Floating pointer structure and configuration table; false when there is no room.
    func write(to memory: GuestMemory) -> Bool {
        let table = configuration
        var pointer = Array("_MP_".utf8)
        pointer.add(UInt32(Self.address) + 16)
        pointer += [1, 4, 0, 0, 0, 0, 0, 0]  // 16 bytes, version 1.4, checksum, a table, virtual wire mode
        Self.sum(&pointer, at: 10)
        // Of very large machines ACPI's tables reach that far: they tell the same.
        guard let room = memory.slice(Self.address, count: 16 + table.count), room.allSatisfy({ $0 == 0 }) else {
            return false
        }
        room.copyBytes(from: pointer + table)
        return true
    }

    private var configuration: [UInt8] {
        let processors = min(cpus, Self.processorLimit)
        let ioAPIC = UInt8(processors)
        var entries: [UInt8] = []
        var count: UInt16 = 0
        func add(_ bytes: [UInt8]) {
            entries += bytes
            count += 1
        }
        for id in 0..<processors {
            // Enabled; the first one boots.
            var entry: [UInt8] = [0, UInt8(id), 0x14, id == 0 ? 3 : 1]
            entry.add(0x600 as UInt32)  // family 6
            entry.add(0x201 as UInt32)  // FPU, APIC
            add(entry + [UInt8](repeating: 0, count: 8))
        }
        add([1, 0] + Array("ISA   ".utf8))
        var chip: [UInt8] = [2, ioAPIC, 0x11, 1]
        chip.add(UInt32(IOAPIC.address))
        add(chip)
        // Edges, active high, as the bus has them; the timer is at pin 2.
        for irq in 0..<16 as Range<UInt8> where irq != 2 {
            add([3, 0, 0, 0, 0, irq, ioAPIC, irq == 0 ? 2 : irq])
        }
        if hasPIC {
            add([4, 3, 0, 0, 0, 0, 0xFF, 0])
        }
        add([4, 1, 0, 0, 0, 0, 0xFF, 1])
        var table = Array("PCMP".utf8)
        table.add(UInt16(44 + entries.count))
        table += [4, 0]  // version 1.4, checksum
        table += Array("VMTALLY PC          ".utf8)
        table.add(0 as UInt32)  // no OEM table
        table.add(0 as UInt16)
        table.add(count)
        table.add(0xFEE0_0000 as UInt32)
        table.add(0 as UInt32)  // no extended table
        table += entries
        Self.sum(&table, at: 7)
        return table
    }

    /// All bytes add up to 0.
    private static func sum(_ bytes: inout [UInt8], at place: Int) {
        bytes[place] = 0 &- bytes.reduce(0, &+)
    }
}
