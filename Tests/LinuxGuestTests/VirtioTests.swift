// SPDX-License-Identifier: Apache-2.0
import Foundation
import SeededRandom
import Synchronization
import TestSupport
import Testing
@testable import Linux
@testable import Machine

@Suite("virtio")
struct VirtioTests {
    /// A driver of queue 0 with its rings at fixed places.
    private final class Driver {
        let memory: GuestMemory
        let device: VirtioMMIO
        let interrupts = InterruptCounter()
        let messages = Messages()
        private var made: UInt16 = 0

        static let table: UInt64 = 0x1000
        static let available: UInt64 = 0x2000
        static let used: UInt64 = 0x3000
        static let size: UInt16 = 8

        init(_ backend: any VirtioBackend, features: UInt64 = 1 << 32) throws {
            memory = try GuestMemory(mebibytes: 1)
            device = VirtioMMIO(
                backend, memory: memory, interrupt: { [interrupts] in interrupts.add() },
                report: { [messages] in messages.add($0) })
            reset(features)
        }

        func reset(_ features: UInt64 = 1 << 32) {
            device.put(0 as UInt32, at: 0x70)
            device.put(3 as UInt32, at: 0x70)
            for half in 0..<2 as Range<UInt32> {
                device.put(half, at: 0x24)
                device.put(UInt32(truncatingIfNeeded: features >> (UInt64(half) * 32)), at: 0x20)
            }
            device.put(11 as UInt32, at: 0x70)
            device.put(0 as UInt32, at: 0x30)
            device.put(UInt32(Self.size), at: 0x38)
            device.put(UInt32(Self.table), at: 0x80)
            device.put(UInt32(Self.available), at: 0x90)
            device.put(UInt32(Self.used), at: 0xA0)
            device.put(1 as UInt32, at: 0x44)
            device.put(15 as UInt32, at: 0x70)
            made = 0
            memory.store(0 as UInt16, at: Self.available + 2)
            memory.store(0 as UInt16, at: Self.used + 2)
        }

        func descriptor(_ index: UInt64, _ address: UInt64, _ length: UInt32, _ flags: UInt16, _ next: UInt16 = 0) {
            let place = Self.table + index * 16
            memory.store(address, at: place)
            memory.store(length, at: place + 8)
            memory.store(flags, at: place + 12)
            memory.store(next, at: place + 14)
        }

        func offer(_ head: UInt16) {
            memory.store(head, at: Self.available + 4 + UInt64(made % Self.size) * 2)
            made &+= 1
            memory.store(made, at: Self.available + 2)
        }

        func notify() { device.put(0 as UInt32, at: 0x50) }

        var usedIndex: UInt16 { memory.load(at: Self.used + 2) ?? 0 }
        var needsReset: Bool { device.get(UInt32.self, at: 0x70) & 0x40 != 0 }

        func write(_ bytes: [UInt8], at address: UInt64) {
            memory.slice(address, count: bytes.count)?.copyBytes(from: bytes)
        }

        /// A block request of three descriptors; returns its status.
        func block(_ type: UInt32, sector: UInt64, data: UInt64, count: UInt32, writable: Bool) -> UInt8? {
            memory.store(type, at: 0x4000)
            memory.store(sector, at: 0x4008)
            memory.store(0xEE as UInt8, at: 0x4010)
            descriptor(0, 0x4000, 16, 1, 1)
            descriptor(1, data, count, writable ? 3 : 1, 2)
            descriptor(2, 0x4010, 1, 2)
            offer(0)
            notify()
            return memory.load(at: 0x4010)
        }
    }

    private final class InterruptCounter: Sendable {
        let count = Mutex(0)
        func add() { count.withLock { $0 += 1 } }
        var value: Int { count.withLock { $0 } }
    }

    private final class Messages: Sendable {
        let texts = Mutex<[String]>([])
        func add(_ text: String) { texts.withLock { $0.append(text) } }
        var all: [String] { texts.withLock { $0 } }
    }

    /// A file that goes away with the test.
    private final class Disk {
        private let folder: TemporaryFolder
        let path: String

        init(sectors: Int) throws {
            folder = try TemporaryFolder()
            path = try folder.file("disk", (0..<sectors * 512).map { UInt8(truncatingIfNeeded: $0 / 512 &+ $0) })
        }

        var bytes: [UInt8] { (FileManager.default.contents(atPath: path)).map { Array($0) } ?? [] }
    }

    /// Rings and buffers in the tally page: no RAM of the VMM's, so nothing is read or written there.
    @Test(arguments: ["buffer", "table", "available", "used"])
    func theTallyPageIsNoRAM(what: String) throws {
        let page = TallyPage.address + 0x1000
        let driver = try Driver(VirtioEntropy())
        let places: [(String, UInt32, UInt32)] = [
            ("table", 0x80, 0x84), ("available", 0x90, 0x94), ("used", 0xA0, 0xA4),
        ]
        if let place = places.first(where: { $0.0 == what }) {
            driver.device.put(0 as UInt32, at: 0x44)
            driver.device.put(UInt32(page), at: place.1)
            driver.device.put(1 as UInt32, at: 0x44)
        }
        driver.descriptor(0, what == "buffer" ? page : 0x5000, 64, 2)
        driver.offer(0)
        driver.notify()
        #expect(driver.usedIndex == 0)
        #expect(driver.needsReset)
        #expect(driver.memory.slice(0x5000, count: 64)?.allSatisfy { $0 == 0 } == true)
    }

    @Test("registers identify the device, and features are agreed on")
    func registers() throws {
        let driver = try Driver(VirtioEntropy())
        #expect(driver.device.get(UInt32.self, at: 0) == 0x7472_6976)
        #expect(driver.device.get(UInt32.self, at: 4) == 2)
        #expect(driver.device.get(UInt32.self, at: 8) == 4)
        #expect(driver.device.get(UInt32.self, at: 0x70) == 15)
        driver.reset(1 << 32 | 1 << 5)
        #expect(driver.device.get(UInt32.self, at: 0x70) & 8 == 0, "a feature that was not offered")
        driver.reset(0)
        #expect(driver.device.get(UInt32.self, at: 0x70) & 8 == 0, "a legacy driver")
        #expect(driver.device.get(UInt8.self, at: 0) == 0)
    }

    @Test("block: read, write, flush, identify; what is outside the disk is an error")
    func block() throws {
        let disk = try Disk(sectors: 8)
        let before = disk.bytes
        let driver = try Driver(try VirtioBlock(path: disk.path, isReadOnly: false))
        #expect(driver.device.get(UInt64.self, at: 0x100) == 8)
        #expect(driver.block(0, sector: 2, data: 0x5000, count: 1024, writable: true) == 0)
        #expect(driver.memory.slice(0x5000, count: 1024)?.elementsEqual(before[1024..<2048]) == true)
        #expect(driver.memory.load(UInt32.self, at: Driver.used + 8) == 1025)
        driver.write([UInt8](repeating: 0xAB, count: 512), at: 0x5000)
        #expect(driver.block(1, sector: 7, data: 0x5000, count: 512, writable: false) == 0)
        #expect(disk.bytes[3584...].allSatisfy { $0 == 0xAB })
        #expect(driver.block(4, sector: 0, data: 0x5000, count: 0, writable: false) == 0)
        #expect(driver.block(8, sector: 0, data: 0x5000, count: 20, writable: true) == 0)
        #expect(driver.block(0, sector: 8, data: 0x5000, count: 512, writable: true) == 1)
        #expect(driver.block(0, sector: .max, data: 0x5000, count: 512, writable: true) == 1)
        #expect(driver.block(0, sector: 0, data: 0x5000, count: 100, writable: true) == 1)
        #expect(driver.block(99, sector: 0, data: 0x5000, count: 512, writable: true) == 2)
        #expect(driver.usedIndex == 8 && driver.interrupts.value == 8 && !driver.needsReset)
    }

    @Test("block: discard and write-zeroes make holes; a read-only disk refuses all of it")
    func discard() throws {
        let disk = try Disk(sectors: 16)
        let driver = try Driver(try VirtioBlock(path: disk.path, isReadOnly: false))
        driver.memory.store(8 as UInt64, at: 0x5000)
        driver.memory.store(8 as UInt32, at: 0x5008)
        #expect(driver.block(13, sector: 0, data: 0x5000, count: 16, writable: false) == 0)
        #expect(disk.bytes.count == 16 * 512 && disk.bytes[4096...].allSatisfy { $0 == 0 })
        driver.memory.store(1 as UInt32, at: 0x500C)
        #expect(driver.block(11, sector: 0, data: 0x5000, count: 16, writable: false) == 2, "unmap in a discard")
        #expect(driver.block(13, sector: 0, data: 0x5000, count: 15, writable: false) == 1)
        driver.memory.store(9 as UInt64, at: 0x5000)
        #expect(driver.block(13, sector: 0, data: 0x5000, count: 16, writable: false) == 1, "past the end")

        let readOnly = try Driver(try VirtioBlock(path: disk.path, isReadOnly: true))
        #expect(readOnly.block(1, sector: 0, data: 0x5000, count: 512, writable: false) == 1)
        #expect(readOnly.block(11, sector: 0, data: 0x5000, count: 16, writable: false) == 2)
    }

    @Test("console: what the guest sends comes out, what comes in arrives")
    func console() throws {
        let output = SerialOutput(.capture)
        let console = VirtioConsole(output: output)
        let driver = try Driver(console)
        driver.descriptor(0, 0x5000, 4, 2)
        driver.offer(0)
        driver.notify()
        #expect(driver.usedIndex == 0, "nothing there yet")
        console.receive(Array("hello".utf8))
        driver.notify()
        #expect(driver.usedIndex == 1)
        #expect(driver.memory.slice(0x5000, count: 4).map { Array($0) } == Array("hell".utf8))
    }

    @Test("network: a frame goes to a buffer behind its header, and waits where there is none")
    func networkReceive() throws {
        var pair: [Int32] = [0, 0]
        try #require(socketpair(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0, &pair) == 0)
        defer { close(pair[1]) }
        let driver = try Driver(VirtioNetwork(descriptor: FileDescriptor(owning: pair[0]), index: 0) { _ in })
        #expect(write(pair[1], "frame", 5) == 5)
        driver.notify()
        #expect(driver.usedIndex == 0)
        driver.descriptor(0, 0x5000, 64, 2)
        driver.offer(0)
        driver.notify()
        #expect(driver.usedIndex == 1 && driver.memory.load(UInt32.self, at: Driver.used + 8) == 17)
        #expect(driver.memory.load(UInt8.self, at: 0x500A) == 1)
        #expect(driver.memory.slice(0x500C, count: 5).map { Array($0) } == Array("frame".utf8))
        #expect(driver.device.get(UInt8.self, at: 0x100) == 0x02)
    }

    /// The event loop reports a descriptor once. What came before there was a driver has been reported to nobody.
    @Test("network: a driver that starts is told of frames that have come already")
    func networkStarts() throws {
        var pair: [Int32] = [0, 0]
        try #require(socketpair(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0, &pair) == 0)
        defer { close(pair[1]) }
        let waits = InterruptCounter()
        let driver = try Driver(
            VirtioNetwork(descriptor: FileDescriptor(owning: pair[0]), index: 0) { _ in waits.add() })
        #expect(waits.value == 1)
        #expect(write(pair[1], "frame", 5) == 5)
        driver.device.notify(VirtioNetwork.receiveQueue)
        #expect(waits.value == 1, "it waits for a buffer")
        driver.reset()
        #expect(waits.value == 2)
    }

    @Test("an indirect table is followed")
    func indirect() throws {
        let driver = try Driver(VirtioEntropy(), features: 1 << 32 | 1 << 28)
        driver.memory.store(0x5000 as UInt64, at: 0x6000)
        driver.memory.store(32 as UInt32, at: 0x6008)
        driver.memory.store(2 as UInt16, at: 0x600C)
        driver.descriptor(0, 0x6000, 16, 4)
        driver.offer(0)
        driver.notify()
        #expect(driver.usedIndex == 1)
        #expect(driver.memory.load(UInt32.self, at: Driver.used + 8) == 32)
    }

    @Test("event indices: an interrupt when the driver's is passed, a notification when ours is")
    func eventIndex() throws {
        let driver = try Driver(VirtioEntropy(), features: 1 << 32 | 1 << 29)
        let usedEvent = Driver.available + 4 + UInt64(Driver.size) * 2
        let availableEvent = Driver.used + 4 + UInt64(Driver.size) * 8
        driver.descriptor(0, 0x5000, 16, 2)
        func request() {
            driver.offer(0)
            driver.notify()
        }
        request()
        #expect(driver.interrupts.value == 1)
        #expect(driver.memory.load(UInt16.self, at: availableEvent) == 1, "the next one, please")
        driver.memory.store(3 as UInt16, at: usedEvent)
        request()
        request()
        #expect(driver.interrupts.value == 1 && driver.usedIndex == 3)
        request()
        #expect(driver.interrupts.value == 2, "the fourth")
        request()
        #expect(driver.interrupts.value == 2)
        #expect(driver.memory.load(UInt16.self, at: availableEvent) == 5)
    }

    @Test("buffers for input that has not come need no notification", arguments: [0, 1 << 29] as [UInt64])
    func suppression(feature: UInt64) throws {
        let console = VirtioConsole(output: SerialOutput(.none))
        let driver = try Driver(console, features: 1 << 32 | feature)
        driver.memory.store(0 as UInt16, at: Driver.used)
        driver.device.put(0 as UInt32, at: 0x70)
        driver.reset(1 << 32 | feature)
        let place = feature == 0 ? Driver.used : Driver.used + 4 + UInt64(Driver.size) * 8
        func wanted() -> Bool { driver.memory.load(UInt16.self, at: place) == (feature == 0 ? 0 : driver.usedIndex) }
        #expect(!wanted())
        driver.descriptor(0, 0x5000, 4, 2)
        driver.offer(0)
        console.receive(Array("hello".utf8))
        driver.notify()
        #expect(driver.usedIndex == 1 && wanted(), "one byte waits for a buffer")
        driver.offer(0)
        driver.notify()
        #expect(driver.usedIndex == 2 && !wanted())
    }

    @Test("a driver that asks for no interrupts gets none")
    func noInterrupt() throws {
        let driver = try Driver(VirtioEntropy())
        driver.memory.store(1 as UInt16, at: Driver.available)
        driver.descriptor(0, 0x5000, 16, 2)
        driver.offer(0)
        driver.notify()
        #expect(driver.usedIndex == 1 && driver.interrupts.value == 0)
    }

    /// What a driver does wrong, and the words of the message.
    private static let faults: [(String, @Sendable (borrowing DriverBox) -> Void)] = [
        ("descriptor 9", { $0.offer(9) }),
        (
            "has a loop",
            {
                $0.descriptor(0, 0x5000, 1, 1, 1)
                $0.descriptor(1, 0x5000, 1, 1, 0)
                $0.offer(0)
            }
        ),
        (
            "outside guest RAM",
            {
                $0.descriptor(0, 0xFFFF_FFFF_FFFF_FFF0, 64, 2)
                $0.offer(0)
            }
        ),
        (
            "outside guest RAM",
            {
                $0.descriptor(0, 0xF_FFF0, 64, 2)
                $0.offer(0)
            }
        ),
        (
            "descriptor 200",
            {
                $0.descriptor(0, 0x5000, 1, 3, 200)
                $0.offer(0)
            }
        ),
        (
            "readable after writable",
            {
                $0.descriptor(0, 0x5000, 1, 3, 1)
                $0.descriptor(1, 0x5000, 1, 0)
                $0.offer(0)
            }
        ),
        (
            "indirect table of 17 bytes",
            {
                $0.descriptor(0, 0x5000, 17, 4)
                $0.offer(0)
            }
        ),
        (
            "indirect inside an indirect table",
            {
                $0.descriptor(3, 0x1000, 128, 4)
                $0.descriptor(0, 0x1030, 16, 4)
                $0.offer(0)
            }
        ),
        (
            "its table at",
            {
                $0.descriptor(0, 0xFFFF_FFFF_FFFF_FFF0, 32, 4)
                $0.offer(0)
            }
        ),
        ("available index is 9 ahead", { for _ in 0..<9 { $0.offer(0) } }),
    ]

    /// Lets the table of faults stay free of actor questions.
    private struct DriverBox: ~Copyable {
        private let driver: Driver
        fileprivate init(_ driver: Driver) { self.driver = driver }
        func descriptor(_ i: UInt64, _ a: UInt64, _ l: UInt32, _ f: UInt16, _ n: UInt16 = 0) {
            driver.descriptor(i, a, l, f, n)
        }
        func offer(_ head: UInt16) { driver.offer(head) }
    }

    @Test("a driver that breaks the rules stops its device with a message, and a reset mends it", arguments: 0..<10)
    func fault(index: Int) throws {
        let (message, act) = Self.faults[index]
        let driver = try Driver(VirtioEntropy(), features: 1 << 32 | 1 << 28)
        act(DriverBox(driver))
        driver.notify()
        #expect(driver.needsReset)
        #expect(driver.messages.all.first.map { $0.hasPrefix("virtio-rng stops: queue 0: ") } == true)
        #expect(driver.messages.all.first?.contains(message) == true, "\(driver.messages.all)")
        #expect(driver.device.get(UInt32.self, at: 0x60) == 2)
        driver.notify()
        #expect(driver.messages.all.count == 1, "stopped means stopped")
        driver.reset()
        driver.descriptor(0, 0x5000, 16, 2)
        driver.offer(0)
        driver.notify()
        #expect(!driver.needsReset && driver.usedIndex == 1)
    }

    @Test("rings outside RAM or misaligned are refused when the queue is made ready")
    func rings() throws {
        let driver = try Driver(VirtioEntropy())
        for (offset, value) in [(0x80, 0x1008), (0x84, 1), (0x90, 0x2001), (0xA0, 0x3002), (0xA4, 0xFFFF_FFFF)]
            as [(UInt32, UInt32)]
        {
            driver.reset()
            driver.device.put(0 as UInt32, at: 0x44)
            driver.device.put(8 as UInt32, at: 0x38)
            driver.device.put(0x1000 as UInt32, at: 0x80)
            driver.device.put(0x2000 as UInt32, at: 0x90)
            driver.device.put(0x3000 as UInt32, at: 0xA0)
            driver.device.put(value, at: offset)
            driver.device.put(1 as UInt32, at: 0x44)
            #expect(driver.needsReset && driver.device.get(UInt32.self, at: 0x44) == 0)
        }
    }

    @Test("rings full of anything are survived")
    func fuzz() throws {
        var random = SplitMix64(seed: 3)
        let disk = try Disk(sectors: 8)
        let backends: [any VirtioBackend] = [
            try VirtioBlock(path: disk.path, isReadOnly: false), VirtioEntropy(),
            VirtioConsole(output: SerialOutput(.none)),
        ]
        let limit = ContinuousClock.now + .seconds(4)
        for backend in backends {
            let driver = try Driver(backend, features: 1 << 32 | 1 << 28)
            for _ in 0..<50_000 where ContinuousClock.now < limit {
                for index in 0..<8 as Range<UInt64> {
                    driver.descriptor(
                        index,
                        UInt64.random(in: 0..<0x11_0000, using: &random) & ~UInt64.random(in: 0...15, using: &random),
                        UInt32.random(in: 0..<4096, using: &random) & ~15, UInt16.random(in: 0..<8, using: &random),
                        UInt16.random(in: 0..<9, using: &random))
                }
                driver.memory.store(UInt32.random(in: 0..<14, using: &random), at: 0x4000)
                driver.descriptor(0, 0x4000, 16, 1, 1)
                driver.offer(UInt16.random(in: 0..<8, using: &random))
                driver.notify()
                if driver.needsReset { driver.reset(1 << 32 | UInt64.random(in: 0..<4, using: &random) << 28) }
            }
        }
    }

    @Test("transport registers written in any order are survived")
    func registerFuzz() throws {
        var random = SplitMix64(seed: 4)
        let driver = try Driver(VirtioEntropy())
        let limit = ContinuousClock.now + .seconds(2)
        for _ in 0..<300_000 where ContinuousClock.now < limit {
            let offset = UInt32.random(in: 0..<0x120, using: &random) & ~(Bool.random(using: &random) ? 3 : 0)
            if Bool.random(using: &random) {
                driver.device.put(
                    UInt32.random(in: 0...UInt32.max, using: &random) >> UInt32.random(in: 0..<32, using: &random),
                    at: offset
                )
            } else {
                _ = driver.device.get(UInt32.self, at: offset)
            }
        }
    }
}
