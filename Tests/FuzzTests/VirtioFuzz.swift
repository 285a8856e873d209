// SPDX-License-Identifier: Apache-2.0
import SeededRandom
@testable import Machine

/// One virtio device, driven by a driver that makes mistakes.
struct VirtioFuzz {
    private let device: VirtioMMIO
    private let memory: GuestMemory
    private let queues: Int

    /// Places of the rings of queue 0; those of the others lie 64 KiB on.
    private enum Place {
        static let table: UInt64 = 0x1000
        static let available: UInt64 = 0x2000
        static let used: UInt64 = 0x3000
        static let buffers: UInt64 = 0x4000
        static let indirect: UInt64 = 0x8000
        static let queueStride: UInt64 = 0x1_0000
    }

    init(_ backend: any VirtioBackend, _ memory: GuestMemory) {
        device = VirtioMMIO(backend, memory: memory, interrupt: {}, report: { _ in })
        queues = backend.queueSizes.count
        self.memory = memory
    }

    /// Whether the device has worked off a request, and goes on.
    func run(_ random: inout SplitMix64) -> Bool {
        start(&random)
        for _ in 0..<(1 + random.below(4)) {
            let queue = random.below(queues)
            makeChains(queue, &random)
            if random.once(in: 8) {
                set(UInt32(random.below(0x110)), UInt32(truncatingIfNeeded: random.number()))
            }
            if random.once(in: 16) {
                start(&random)
            }
            set(0x50, random.once(in: 16) ? UInt32(truncatingIfNeeded: random.number()) : UInt32(queue))
        }
        let hasWorked = (0..<queues).contains { memory.load(UInt16.self, at: place($0, Place.used) + 2) != 0 }
        return hasWorked && device.get(UInt32.self, at: 0x70) & 0x40 == 0
    }

    private func place(_ queue: Int, _ part: UInt64) -> UInt64 { UInt64(queue) * Place.queueStride + part }

    private func set(_ register: UInt32, _ value: UInt32) {
        _ = device.put(value, at: register)
    }

    /// The initialisation that the specification has, with a mistake now and then.
    private func start(_ random: inout SplitMix64) {
        func sometimes(_ value: UInt32) -> UInt32 {
            random.once(in: 64) ? UInt32(truncatingIfNeeded: random.number()) : value
        }
        set(0x70, 0)
        set(0x70, 3)
        for half in 0..<2 as Range<UInt32> {
            set(0x14, half)
            let offered = device.get(UInt32.self, at: 0x10)
            set(0x24, half)
            set(0x20, sometimes(random.once(in: 2) ? offered : half))
        }
        set(0x70, 11)
        for queue in 0..<queues {
            memory.store(0 as UInt32, at: place(queue, Place.available))
            memory.store(0 as UInt32, at: place(queue, Place.used))
            set(0x30, sometimes(UInt32(queue)))
            set(0x38, sometimes(1 << UInt32(random.below(8))))
            set(0x80, sometimes(UInt32(place(queue, Place.table))))
            set(0x90, sometimes(UInt32(place(queue, Place.available))))
            set(0xA0, sometimes(UInt32(place(queue, Place.used))))
            set(0x84, sometimes(0))
            set(0x44, 1)
        }
        set(0x70, sometimes(15))
    }

    /// Descriptors, mostly such as the device wants them, and heads for the available ring.
    private func makeChains(_ queue: Int, _ random: inout SplitMix64) {
        for index in 0..<8 as Range<UInt64> {
            let at = place(queue, Place.table) + index * 16
            let isFirst = index % 4 == 0
            let isLast = index % 4 == 3
            let address = place(queue, Place.buffers) + index * 0x400
            let length = isFirst ? 16 : isLast ? 1 : UInt64(random.below(3)) * 512
            let flags: UInt16 = (isLast || !isFirst && random.once(in: 2) ? 2 : 0) | (isLast ? 0 : 1)
            memory.store(Self.mistaken(address, &random), at: at)
            memory.store(UInt32(truncatingIfNeeded: Self.mistaken(length, &random)), at: at + 8)
            memory.store(random.once(in: 24) ? UInt16(random.below(8)) : flags, at: at + 12)
            memory.store(UInt16(truncatingIfNeeded: Self.mistaken(index + 1, &random)), at: at + 14)
            // A block request: what, where.
            memory.store(UInt32(truncatingIfNeeded: Self.mistaken(UInt64(random.below(14)), &random)), at: address)
            memory.store(Self.mistaken(UInt64(random.below(64)), &random), at: address + 8)
        }
        if random.once(in: 3) {
            makeIndirect(queue, &random)
        }
        let ring = place(queue, Place.available)
        let index = memory.load(UInt16.self, at: ring + 2) ?? 0
        let more = UInt16(1 + random.below(3))
        for step in 0..<more {
            let head = UInt16(truncatingIfNeeded: Self.mistaken(UInt64(random.below(2) * 4), &random))
            // For every size that the ring may have.
            for size in 0..<8 as Range<UInt16> {
                memory.store(head, at: ring + 4 + UInt64((index &+ step) % (1 << size)) * 2)
            }
        }
        memory.store(UInt16(truncatingIfNeeded: Self.mistaken(UInt64(index &+ more), &random)), at: ring + 2)
        // used_event of every size; it lies on entries of a longer ring.
        if random.once(in: 2) {
            let event = index &+ UInt16(random.below(4)) &- 1
            memory.store(
                UInt16(truncatingIfNeeded: Self.mistaken(UInt64(event), &random)),
                at: ring + 4 + 2 << UInt64(random.below(8)))
        }
    }

    /// Moves the chains at 0 and 4 into tables of their own.
    private func makeIndirect(_ queue: Int, _ random: inout SplitMix64) {
        for head in [0, 4] as [UInt64] {
            let from = place(queue, Place.table) + head * 16
            let to = place(queue, Place.indirect) + head * 0x100
            for index in 0..<4 as Range<UInt64> {
                for half in [0, 8] as [UInt64] {
                    memory.store(
                        memory.load(UInt64.self, at: from + index * 16 + half) ?? 0, at: to + index * 16 + half)
                }
                memory.store(UInt16(truncatingIfNeeded: Self.mistaken(index + 1, &random)), at: to + index * 16 + 14)
            }
            memory.store(Self.mistaken(to, &random), at: from)
            memory.store(UInt32(truncatingIfNeeded: Self.mistaken(64, &random)), at: from + 8)
            memory.store(random.once(in: 24) ? UInt16(random.below(8)) : 4 as UInt16, at: from + 12)
        }
    }

    /// A value, or one time in 24 another.
    private static func mistaken(_ value: UInt64, _ random: inout SplitMix64) -> UInt64 {
        random.once(in: 24) ? random.number() : value
    }
}

extension Device {
    func get<T: FixedWidthInteger>(_ type: T.Type = T.self, at offset: UInt32) -> T {
        var value: T = 0
        withUnsafeMutableBytes(of: &value) { read(offset, $0) }
        return value
    }

    func put<T: FixedWidthInteger>(_ value: T, at offset: UInt32) -> GuestRequest? {
        withUnsafeBytes(of: value) { write(offset, $0) }
    }
}
