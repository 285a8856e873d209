// SPDX-License-Identifier: Apache-2.0
import TestSupport

/// A Multiboot guest put together instruction by instruction: 32-bit protected mode, paging off, interrupts off.
struct MultibootGuest {
    private(set) var code: [UInt8] = []

    /// mov $value, address
    mutating func store(_ value: UInt32, at address: UInt32) {
        code += [0xC7, 0x05] + little(address) + little(value)
    }

    /// mov $value, address; 16 bits
    mutating func store(half value: UInt16, at address: UInt32) {
        code += [0x66, 0xC7, 0x05] + little(address) + little(value)
    }

    /// incw address
    mutating func increment(half address: UInt32) {
        code += [0x66, 0xFF, 0x05] + little(address)
    }

    /// mov address, %eax
    mutating func load(_ address: UInt32) {
        code += [0xA1] + little(address)
    }

    /// mov $port, %edx; mov $value, %al; out %al, %dx
    mutating func out(_ port: UInt16, _ value: UInt8) {
        code += [0xBA] + little(UInt32(port)) + [0xB0, value, 0xEE]
    }

    mutating func bytes(_ bytes: [UInt8]) {
        code += bytes
    }

    /// 1: body; jmp 1b
    mutating func forever(_ body: (inout MultibootGuest) -> Void) {
        let start = code.count
        body(&self)
        let distance = Int32(start - (code.count + 5))
        code += [0xE9] + little(UInt32(bitPattern: distance))
    }

    /// 1: hlt; jmp 1b
    mutating func sleep() {
        code += [0xF4, 0xEB, 0xFD]
    }

    var image: [UInt8] { multibootImage(code) }

    // MARK: virtio drivers

    /// Where queue n of a device has its descriptors, available and used ring.
    enum Ring {
        static let size: UInt32 = 64

        static func table(_ queue: UInt32) -> UInt32 { 0x40_0000 + queue * 0x10000 }
        static func available(_ queue: UInt32) -> UInt32 { table(queue) + 0x2000 }
        static func used(_ queue: UInt32) -> UInt32 { table(queue) + 0x4000 }
        static let buffers: UInt32 = 0x60_0000
    }

    static func device(_ index: UInt32) -> UInt32 { 0xFEC0_1000 + index * 0x1000 }

    /// A reset, VERSION_1 agreed on, and queues up to the one given.
    mutating func start(_ device: UInt32, queues: UInt32) {
        let base = Self.device(device)
        for status in [0, 1, 3] as [UInt32] { store(status, at: base + 0x70) }
        for half in 0..<2 as Range<UInt32> {
            store(half, at: base + 0x24)
            store(half, at: base + 0x20)
        }
        store(11, at: base + 0x70)
        for queue in 0..<queues {
            store(queue, at: base + 0x30)
            store(Ring.size, at: base + 0x38)
            for (register, value) in [
                (0x80, Ring.table(queue)), (0x90, Ring.available(queue)), (0xA0, Ring.used(queue)),
            ] as [(UInt32, UInt32)] {
                store(value, at: base + register)
                store(0, at: base + register + 4)
            }
            store(1, at: base + 0x44)
        }
        store(15, at: base + 0x70)
    }

    mutating func descriptor(
        _ queue: UInt32, _ index: UInt32, address: UInt32, length: UInt32, flags: UInt16 = 0, next: UInt16 = 0
    ) {
        let place = Ring.table(queue) + index * 16
        store(address, at: place)
        store(0, at: place + 4)
        store(length, at: place + 8)
        store(half: flags, at: place + 12)
        store(half: next, at: place + 14)
    }

    /// Every entry of the available ring is chain 0.
    mutating func offer(_ queue: UInt32, chains: UInt16) {
        for entry in 0..<Ring.size {
            store(half: 0, at: Ring.available(queue) + 4 + entry * 2)
        }
        store(half: chains, at: Ring.available(queue) + 2)
    }

    mutating func notify(_ device: UInt32, _ queue: UInt32) {
        store(queue, at: Self.device(device) + 0x50)
    }
}
