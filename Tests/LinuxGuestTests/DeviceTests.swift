// SPDX-License-Identifier: Apache-2.0
import SeededRandom
import Synchronization
import Testing
@testable import Machine

@Suite("Devices")
struct DeviceTests {
    /// Keeps what a line did.
    private final class Line: Sendable {
        let states = Mutex<[Bool]>([])
        var set: InterruptLine { { [self] level in states.withLock { $0.append(level) } } }
        var history: [Bool] { states.withLock { $0 } }
    }

    @Test("UART: Linux's probe finds a 16550A")
    func uartProbe() {
        let uart = UART16550(output: SerialOutput(.none))
        // serial8250 autoconfig(): interrupt enable register has 4 bits, loopback wires the modem lines.
        uart.put(0x0F as UInt8, at: 1)
        #expect(uart.get(UInt8.self, at: 1) == 0x0F)
        uart.put(0x00 as UInt8, at: 1)
        #expect(uart.get(UInt8.self, at: 1) == 0)
        uart.put(0x1A as UInt8, at: 4)
        #expect(uart.get(UInt8.self, at: 6) & 0xF0 == 0x90)
        uart.put(0x01 as UInt8, at: 2)
        #expect(uart.get(UInt8.self, at: 2) >> 6 == 3)
        uart.put(0x80 as UInt8, at: 3)
        uart.put(0x1234 as UInt16, at: 0)
        #expect(uart.get(UInt16.self, at: 0) == 0x1234)
    }

    @Test("UART: loopback sends to itself, and 17 bytes overrun")
    func uartLoopback() {
        let output = SerialOutput(.capture)
        let uart = UART16550(output: output)
        uart.put(0x10 as UInt8, at: 4)
        for byte in 0..<17 as Range<UInt8> { uart.put(byte, at: 0) }
        #expect(uart.get(UInt8.self, at: 5) == 0x63)
        #expect(uart.get(UInt8.self, at: 5) == 0x61)
        #expect((0..<16).map { _ in uart.get(UInt8.self, at: 0) } == Array(0..<16))
        #expect(uart.get(UInt8.self, at: 5) == 0x60)
        #expect(output.captured.isEmpty)
    }

    @Test("UART: the line follows what is pending and enabled")
    func uartInterrupts() {
        let line = Line()
        let uart = UART16550(output: SerialOutput(.capture), interrupt: line.set)
        uart.put(0x02 as UInt8, at: 1)
        #expect(line.history == [true])
        #expect(uart.get(UInt8.self, at: 2) == 0x02)  // identified, thereby cleared
        #expect(line.history == [true, false])
        uart.put(0x41 as UInt8, at: 0)
        #expect(line.history == [true, false, true])
        uart.put(0x00 as UInt8, at: 1)
        #expect(line.history == [true, false, true, false])
        uart.receive([0x61, 0x62])
        #expect(line.history.count == 4)
        uart.put(0x01 as UInt8, at: 1)
        #expect(line.history.last == true)
        #expect(uart.get(UInt8.self, at: 2) == 0x04)
        #expect(uart.get(UInt8.self, at: 0) == 0x61)
        #expect(line.history.last == true)
        #expect(uart.get(UInt8.self, at: 0) == 0x62)
        #expect(line.history.last == false)
        #expect(uart.get(UInt8.self, at: 2) == 0x01)
    }

    @Test("UART: a guest that never reads loses bytes, we keep no more than the limit")
    func uartFlood() {
        let uart = UART16550(output: SerialOutput(.none))
        #expect(uart.receiveRoom == 0, "nobody listens")
        uart.put(0x01 as UInt8, at: 1)
        uart.put(0x08 as UInt8, at: 4)
        #expect(uart.receiveRoom == UART16550.receiveLimit)
        uart.receive([UInt8](repeating: 0x55, count: 3 * UART16550.receiveLimit))
        #expect(uart.receiveRoom == 0)
        #expect(uart.get(UInt8.self, at: 5) & 0x03 == 0x03)
    }

    @Test("every way to reset and to switch off")
    func endings() {
        #expect(KeyboardController().put(0xFE as UInt8, at: 0) == .reset)
        #expect(KeyboardController().put(0xAA as UInt8, at: 0) == nil)
        #expect(KeyboardController().get(UInt8.self, at: 0) & 2 == 0)
        #expect(SystemControlPort().put(0x01 as UInt8, at: 0) == .reset)
        #expect(SystemControlPort().put(0x02 as UInt8, at: 0) == nil)
        #expect(ResetControlPort().put(0x06 as UInt8, at: 0) == .reset)
        #expect(ResetControlPort().put(0x02 as UInt8, at: 0) == nil)
        let power = ACPIPower()
        #expect(power.put(0x34 as UInt8, at: 0xC) == .powerOff)
        #expect(power.put(0x14 as UInt8, at: 0xC) == nil)
        #expect(power.put(0x24 as UInt8, at: 0xC) == nil)
        #expect(power.put(0x01 as UInt8, at: 0xE) == .reset)
        #expect(power.put(0x2000 as UInt16, at: 4) == .powerOff)
        #expect(power.put(0x3400 as UInt16, at: 4) == .powerOff)
        #expect(power.put(0x0001 as UInt16, at: 4) == nil)
        #expect(ExitPort().put(3 as UInt32, at: 0) == .exit(status: 7))
        #expect(GuestRequest.reset.end.reason == "reset" && GuestRequest.reset.end.exitStatus == 0)
        #expect(GuestRequest.powerOff.end.reason == "power-off" && GuestRequest.powerOff.end.exitStatus == 0)
    }

    @Test("PM1 registers: ACPI mode, an enable that keeps its bits, a status that is cleared by ones")
    func fixedHardware() {
        let power = ACPIPower()
        #expect(power.get(UInt16.self, at: 4) == 1)
        power.put(0x1402 as UInt16, at: 4)
        #expect(power.get(UInt16.self, at: 4) == 0x1403)
        power.put(0x0120 as UInt16, at: 2)
        #expect(power.get(UInt32.self, at: 0) == 0x0120_0000)
        power.put(0xFFFF as UInt16, at: 0)
        #expect(power.get(UInt16.self, at: 0) == 0)
        #expect(power.put(0x20 as UInt8, at: 5) == .powerOff)
        #expect(power.get(UInt64.self, at: 0xC) == 0)
    }

    @Test("the ACPI timer has 24 bits and moves")
    func timer() {
        let power = ACPIPower()
        let first = power.get(UInt32.self, at: 8)
        var last = first
        for _ in 0..<1_000_000 where last == first { last = power.get(UInt32.self, at: 8) }
        #expect(last != first && last <= 0xFF_FFFF)
    }

    @Test("RTC: BCD, a plausible century, CMOS memory that keeps what it is given")
    func clock() {
        let clock = RealTimeClock(memory: 256 << 20)
        func register(_ index: UInt8) -> UInt8 {
            clock.put(index, at: 0)
            return clock.get(UInt8.self, at: 1)
        }
        #expect(register(0x32) == 0x20)
        #expect(register(0x00) & 0x0F < 10 && register(0x00) < 0x60)
        #expect(register(0x0A) & 0x80 == 0)
        #expect(register(0x0D) == 0x80)
        #expect(UInt16(register(0x35)) << 8 | UInt16(register(0x34)) == 240 << 4)
        clock.put(0x51 as UInt8, at: 0)
        clock.put(0x99 as UInt8, at: 1)
        #expect(register(0x51) == 0x99)
    }

    @Test("any sequence of register accesses is survived")
    func fuzz() {
        var random = SplitMix64(seed: 2)
        let devices: [any Device] = [
            UART16550(output: SerialOutput(.none), interrupt: { _ in }), RealTimeClock(memory: 1 << 30),
            KeyboardController(), ACPIPower(), SystemControlPort(), ResetControlPort(),
        ]
        let limit = ContinuousClock.now + .seconds(2)
        for _ in 0..<1_000_000 where ContinuousClock.now < limit {
            let device = devices[Int.random(in: 0..<devices.count, using: &random)]
            let offset = UInt32.random(in: 0..<16, using: &random)
            switch Int.random(in: 0..<6, using: &random) {
            case 0: _ = device.get(UInt8.self, at: offset)
            case 1: _ = device.get(UInt16.self, at: offset)
            case 2: _ = device.get(UInt32.self, at: offset)
            case 3: device.put(UInt8.random(in: 0...255, using: &random), at: offset)
            case 4: device.put(UInt16.random(in: 0...UInt16.max, using: &random), at: offset)
            default: device.put(UInt32.random(in: 0...UInt32.max, using: &random), at: offset)
            }
        }
    }
}
