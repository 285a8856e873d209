import Glibc

/// ACPI's fixed hardware in ports: sleep and reset, and the timer (ACPI 6.5, 4.8.3 and 4.8.4).
///
/// Hardware-reduced ACPI uses the sleep control and reset registers; the PM1 control register and the timer lie where
/// QEMU's i440FX machine has them, for guests that were written for that.
final class ACPIPower: Device {
    static let ports: ClosedRange<UInt16> = 0x600...0x60F
    static let timerPort: UInt16 = 0x608
    static let sleepControlPort: UInt16 = 0x60C
    static let sleepStatusPort: UInt16 = 0x60D
    static let resetPort: UInt16 = 0x60E
    /// What to write to the reset register.
    static let resetValue: UInt8 = 1
    /// SLP_TYP of S5, as the DSDT's \_S5 says.
    static let softOff: UInt8 = 5

    private static let timerHertz: UInt64 = 3_579_545
    private let start = monotonicNanoseconds()

    func read(_ offset: UInt32, _ data: UnsafeMutableRawBufferPointer) {
        data.initializeMemory(as: UInt8.self, repeating: 0)
        if offset == UInt32(Self.timerPort - Self.ports.lowerBound) {
            // 24 bits, as FADT's TMR_VAL_EXT is clear.
            let nanoseconds = monotonicNanoseconds() &- start
            let (seconds, rest) = nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
            let ticks = (seconds &* Self.timerHertz &+ rest * Self.timerHertz / 1_000_000_000) & 0xFF_FFFF
            for index in 0..<min(4, data.count) {
                data[index] = UInt8(truncatingIfNeeded: ticks >> (UInt64(index) * 8))
            }
        }
    }

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        guard let first = data.first else { return nil }
        switch UInt16(truncatingIfNeeded: offset) + Self.ports.lowerBound {
        case Self.sleepControlPort where first & 0x20 != 0:
            return first >> 2 & 7 == Self.softOff ? .powerOff : nil
        case Self.resetPort where first == Self.resetValue:
            return .reset
        case 0x604 where data.count >= 2 && data[1] & 0x20 != 0:
            // PM1_CNT: SLP_EN is bit 13, SLP_TYP bits 10 to 12. QEMU's \_S5 has type 0, ours 5; both mean off.
            return [0, Self.softOff].contains(data[1] >> 2 & 7) ? .powerOff : nil
        default:
            return nil
        }
    }
}
