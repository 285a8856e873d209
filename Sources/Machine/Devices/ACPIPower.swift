// SPDX-License-Identifier: Apache-2.0
import Glibc
import Linux
import Synchronization

/// ACPI's fixed hardware in ports: events, sleep, reset and the timer (ACPI 6.5, 4.8.3 and 4.8.4).
///
/// Hardware-reduced ACPI uses the sleep control and reset registers alone. The others lie where QEMU's i440FX machine has
/// them, for guests that were written for that. No event raises the interrupt: there are no buttons, and the timer's carry
/// is to be polled.
final class ACPIPower: Device {
    static let ports: ClosedRange<UInt16> = 0x600...0x60F
    /// PM1 status, and from the third byte on PM1 enable.
    static let eventPort: UInt16 = 0x600
    static let controlPort: UInt16 = 0x604
    static let timerPort: UInt16 = 0x608
    static let sleepControlPort: UInt16 = 0x60C
    static let sleepStatusPort: UInt16 = 0x60D
    static let resetPort: UInt16 = 0x60E
    /// What to write to the reset register.
    static let resetValue: UInt8 = 1
    /// SLP_TYP of S5, as the DSDT's \_S5 says.
    static let softOff: UInt8 = 5
    /// The system control interrupt, level-triggered.
    static let irq: UInt32 = 9

    private static let timerHertz: UInt64 = 3_579_545
    /// Half the period of its 24 bits: the carry is TMR_STS.
    private static let timerCarry: UInt64 = 1 << 23
    private let start = monotonicNanoseconds()

    private struct Registers {
        var enable: UInt16 = 0
        var control: UInt16 = 0
        /// Carries of the timer that the guest has cleared.
        var carriesSeen: UInt64 = 0
    }

    private let registers = Mutex(Registers())

    private var ticks: UInt64 {
        let nanoseconds = monotonicNanoseconds() &- start
        let (seconds, rest) = nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
        return seconds &* Self.timerHertz &+ rest * Self.timerHertz / 1_000_000_000
    }

    func read(_ offset: UInt32, _ data: UnsafeMutableRawBufferPointer) {
        let ticks = ticks
        let bytes = registers.withLock { registers in
            var bytes: [UInt8] = []
            bytes.add(ticks / Self.timerCarry != registers.carriesSeen ? 1 : 0 as UInt16)
            bytes.add(registers.enable)
            bytes.add(registers.control | 1)  // SCI_EN: there is no other mode
            bytes.add(0 as UInt16)
            bytes.add(UInt32(ticks & 0xFF_FFFF))  // 24 bits, as FADT's TMR_VAL_EXT is clear
            return bytes
        }
        for index in data.indices {
            let place = Int(offset) + index
            data[index] = place < bytes.count ? bytes[place] : 0
        }
    }

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        for (index, byte) in data.enumerated() {
            if let request = write(offset &+ UInt32(truncatingIfNeeded: index), byte) {
                return request
            }
        }
        return nil
    }

    private func write(_ offset: UInt32, _ value: UInt8) -> GuestRequest? {
        switch UInt16(truncatingIfNeeded: offset) + Self.ports.lowerBound {
        case Self.eventPort where value & 1 != 0:
            registers.withLock { $0.carriesSeen = ticks / Self.timerCarry }
        case Self.eventPort + 2:
            registers.withLock { $0.enable = $0.enable & 0xFF00 | UInt16(value) }
        case Self.eventPort + 3:
            registers.withLock { $0.enable = $0.enable & 0x00FF | UInt16(value) << 8 }
        case Self.controlPort:
            registers.withLock { $0.control = $0.control & 0xFF00 | UInt16(value) }
        case Self.controlPort + 1:
            registers.withLock { $0.control = $0.control & 0x00FF | UInt16(value & ~0x20) << 8 }
            // SLP_EN is bit 13, SLP_TYP bits 10 to 12. QEMU's \_S5 has type 0, ours 5; both mean off.
            return value & 0x20 != 0 && [0, Self.softOff].contains(value >> 2 & 7) ? .powerOff : nil
        case Self.sleepControlPort where value & 0x20 != 0:
            return value >> 2 & 7 == Self.softOff ? .powerOff : nil
        case Self.resetPort where value == Self.resetValue:
            return .reset
        default: break
        }
        return nil
    }
}
