// SPDX-License-Identifier: Apache-2.0
import KVM
import SeededRandom
import Synchronization
import Testing
@testable import Machine

@Suite("I/O APIC")
struct IOAPICTests {
    /// Keeps what the chip sends and routes.
    private final class Bus: Sendable {
        let messages = Mutex<[IOAPIC.Message]>([])
        let routes = Mutex<[[GSIRoute]]>([])

        func chip(pins: Int = 24) -> IOAPIC {
            IOAPIC(
                pins: pins, deliver: { [self] message in messages.withLock { $0.append(message) } },
                setRoutes: { [self] routes in self.routes.withLock { $0.append(routes) } })
        }

        var sent: [IOAPIC.Message] { messages.withLock { $0 } }
        var lastRoutes: [GSIRoute]? { routes.withLock { $0.last } }
    }

    private func set(_ chip: IOAPIC, pin: UInt8, low: UInt32, destination: UInt32 = 0) {
        for (register, value) in [(0x11 + 2 * pin, destination << 24), (0x10 + 2 * pin, low)] {
            chip.put(UInt32(register), at: 0)
            chip.put(value, at: 0x10)
        }
    }

    private func get(_ chip: IOAPIC, _ register: UInt8) -> UInt32 {
        chip.put(UInt32(register), at: 0)
        return chip.get(at: 0x10)
    }

    private static let masked: UInt32 = 1 << 16
    private static let level: UInt32 = 1 << 15

    @Test(
        "registers: identity, version, pins; entries start masked and keep what may be written", arguments: [2, 24, 32])
    func registers(pins: Int) {
        let chip = Bus().chip(pins: pins)
        #expect(get(chip, 1) == 0x20 | UInt32(pins - 1) << 16)
        chip.put(0 as UInt32, at: 0)
        chip.put(0xFFFF_FFFF as UInt32, at: 0x10)
        #expect(get(chip, 0) == 0x0F00_0000)
        #expect(get(chip, UInt8(0x10 + 2 * (pins - 1))) == Self.masked)
        #expect(get(chip, UInt8(0x10 + 2 * pins)) == 0, "past the last pin")
        set(chip, pin: 1, low: 0xFFFF_FFFF, destination: 0xAB)
        #expect(get(chip, 0x12) == 0xFFFF_AFFF && get(chip, 0x13) == 0xAB00_0000, "status bits are the chip's")
        set(chip, pin: 119, low: 0)
    }

    @Test("an edge is sent once, and lost while the pin is masked")
    func edge() {
        let bus = Bus()
        let chip = bus.chip()
        set(chip, pin: 5, low: Self.masked | 0x31)
        chip.set(pin: 5, level: true)
        #expect(bus.sent.isEmpty && bus.routes.withLock { $0.isEmpty })
        set(chip, pin: 5, low: 0x31, destination: 3)
        #expect(bus.sent.isEmpty, "the line was up already")
        #expect(bus.lastRoutes == [.msi(gsi: 5, address: 0xFEE0_3000, data: 0x31)])
        chip.set(pin: 5, level: false)
        chip.set(pin: 5, level: true)
        chip.set(pin: 5, level: true)
        #expect(bus.sent == [IOAPIC.Message(address: 0xFEE0_3000, data: 0x31)])
        chip.endOfInterrupt(vector: 0x31)
        #expect(bus.sent.count == 1)
        set(chip, pin: 5, low: Self.masked | 0x31)
        #expect(bus.lastRoutes == [])
        chip.set(pin: 24, level: true)
        chip.set(pin: -1, level: true)
    }

    @Test("a level is sent again after its end while the line is up", arguments: [false, true])
    func level(byRegister: Bool) {
        let bus = Bus()
        let chip = bus.chip()
        func end() {
            if byRegister {
                chip.put(0x42 as UInt32, at: 0x40)
            } else {
                chip.endOfInterrupt(vector: 0x42)
            }
        }
        set(chip, pin: 9, low: Self.level | 0x42)
        chip.set(pin: 9, level: true)
        chip.set(pin: 9, level: true)
        #expect(bus.sent == [IOAPIC.Message(address: 0xFEE0_0000, data: 0xC042)])
        #expect(get(chip, 0x22) & 1 << 14 != 0, "remote IRR")
        end()
        #expect(bus.sent.count == 2)
        set(chip, pin: 9, low: Self.masked | Self.level | 0x42)
        #expect(bus.lastRoutes?.count == 1, "its end must still be told")
        end()
        #expect(bus.sent.count == 2 && get(chip, 0x22) & 1 << 14 == 0)
        set(chip, pin: 9, low: Self.level | 0x42)
        #expect(bus.sent.count == 3, "unmasked while up")
        chip.set(pin: 9, level: false)
        end()
        #expect(bus.sent.count == 3)
    }

    @Test("destination and delivery modes are in the message; ExtINT has no vector to send")
    func modes() {
        let bus = Bus()
        let chip = bus.chip()
        for (low, message) in [
            (0x0000_0931 as UInt32, IOAPIC.Message(address: 0xFEE0_100C, data: 0x131)),
            (0x0000_0431, IOAPIC.Message(address: 0xFEE0_1000, data: 0x431)),
        ] {
            set(chip, pin: 1, low: low, destination: 1)
            chip.set(pin: 1, level: true)
            chip.set(pin: 1, level: false)
            #expect(bus.sent.last == message)
        }
        set(chip, pin: 1, low: 0x731)
        chip.set(pin: 1, level: true)
        #expect(bus.sent.count == 2 && bus.lastRoutes == [])
    }

    @Test("registers written in any order are survived")
    func fuzz() {
        var random = SplitMix64(seed: 6)
        let bus = Bus()
        let chip = bus.chip()
        for _ in 0..<20_000 {
            chip.put(UInt32.random(in: 0..<0x60, using: &random), at: 0)
            chip.put(UInt32.random(in: 0...UInt32.max, using: &random), at: Bool.random(using: &random) ? 0x10 : 0x40)
            chip.set(pin: Int.random(in: 0..<26, using: &random), level: Bool.random(using: &random))
            _ = chip.get(UInt64.self, at: UInt32.random(in: 0..<0x1000, using: &random))
        }
        #expect(!bus.sent.isEmpty)
    }
}
