import GuestCPU

/// The UART at 0x3F8 (16550), by polling: the guest's only way to speak. Every port access is a VM exit.
struct Serial {
    private static let base: UInt16 = 0x3F8
    private static let lineStatus = base + 5
    /// Line status, bit 5: the transmitter's FIFO is empty.
    private static let transmitterEmpty: UInt8 = 1 << 5
    /// Bytes that an empty FIFO takes: the line status is asked for once for so many.
    private static let fifoSize = 16

    private var room = 0

    /// 8 data bits, no parity, no interrupts, FIFOs on and empty.
    init() {
        guest_out8(Self.base + 1, 0)
        guest_out8(Self.base + 3, 0x03)
        guest_out8(Self.base + 2, 0x07)
    }

    @inline(never)
    mutating func put(byte: UInt8) {
        if room == 0 {
            while guest_in8(Self.lineStatus) & Self.transmitterEmpty == 0 { guest_pause() }
            room = Self.fifoSize
        }
        guest_out8(Self.base, byte)
        room -= 1
    }

    @inline(never)
    mutating func put(_ text: StaticString) {
        for index in 0..<text.utf8CodeUnitCount {
            put(byte: text.utf8Start[index])
        }
    }

    /// Decimal, in full.
    @inline(never)
    mutating func put(_ value: UInt64) {
        var divisor: UInt64 = 1
        while value / divisor >= 10 { divisor *= 10 }
        while divisor > 0 {
            put(byte: UInt8(truncatingIfNeeded: 0x30 + value / divisor % 10))
            divisor /= 10
        }
    }

    @inline(never)
    mutating func put(_ value: Bool) { put(value ? "true" : "false") }

    /// `0x` and 16 hexadecimal digits.
    @inline(never)
    mutating func put(hexadecimal value: UInt64) {
        put("0x")
        for shift in stride(from: UInt64(60), through: 0, by: -4) {
            let digit = UInt8(truncatingIfNeeded: value >> shift & 0xF)
            put(byte: digit < 10 ? 0x30 + digit : 0x57 + digit)
        }
    }

    @inline(never)
    mutating func put(spaces count: Int) {
        for _ in 0..<max(0, count) { put(byte: 0x20) }
    }

    /// Text, then spaces up to the width.
    @inline(never)
    mutating func put(_ text: StaticString, width: Int) {
        put(text)
        put(spaces: width - text.utf8CodeUnitCount)
    }

    /// Spaces, then decimal digits, up to the width.
    @inline(never)
    mutating func put(_ value: UInt64, width: Int) {
        var digits = 1
        var rest = value
        while rest >= 10 {
            rest /= 10
            digits += 1
        }
        put(spaces: width - digits)
        put(value)
    }
}
