// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// The UART at 0x3F8 (16550), by polling: the guest's only way to speak. Every port access is a VM exit.
///
/// Text gathers in memory and goes out in whole FIFOs by REP OUTSB: where a VMM runs ring 0 in an emulator, every
/// instruction costs microseconds, and those between two bytes would take longer than the exits.
struct Serial: ~Copyable {
    private static let base: UInt16 = 0x3F8
    private static let lineStatus = base + 5
    /// Line status, bit 5: the transmitter's FIFO is empty.
    private static let transmitterEmpty: UInt8 = 1 << 5
    /// Bytes that an empty FIFO takes: the line status is asked for once for so many.
    private static let fifoSize = 16

    private let start: UnsafeMutablePointer<UInt8>
    private let end: UnsafeMutablePointer<UInt8>
    private var next: UnsafeMutablePointer<UInt8>

    /// 8 data bits, no parity, no interrupts, FIFOs on and empty.
    init() {
        guest_out8(Self.base + 1, 0)
        guest_out8(Self.base + 3, 0x03)
        guest_out8(Self.base + 2, 0x07)
        start = guest_text_buffer()
        end = start + Int(GUEST_TEXT_BUFFER_SIZE)
        next = start
    }

    deinit { send() }

    mutating func flush() {
        send()
        next = start
    }

    @inline(never)
    private borrowing func send() {
        var from = start
        while from < next {
            while guest_in8(Self.lineStatus) & Self.transmitterEmpty == 0 { guest_pause() }
            let count = min(Self.fifoSize, next - from)
            guest_rep_out8(Self.base, from, count)
            from += count
        }
    }

    /// - Parameter count: at most the buffer's size.
    @inline(never)
    private mutating func put(_ bytes: UnsafePointer<UInt8>, _ count: Int) {
        if count > end - next { flush() }
        guest_copy(next, bytes, count)
        next += count
    }

    @inline(__always)
    mutating func put(_ text: StaticString) {
        put(text.utf8Start, text.utf8CodeUnitCount)
    }

    /// Text, then spaces up to the width (of at most 24), at least one.
    @inline(never)
    mutating func put(_ text: StaticString, width: Int) {
        let spaces: StaticString = "                        "
        put(text)
        put(spaces.utf8Start, max(1, width - text.utf8CodeUnitCount))
    }

    /// Decimal, in full, after spaces up to the width: at least one where there is a width.
    mutating func put(_ value: UInt64, width: Int = 0) {
        put(value, radix: 10, fill: 0x20, width: width)
    }

    /// `0x` and 16 hexadecimal digits.
    mutating func put(hexadecimal value: UInt64) {
        put("0x")
        put(value, radix: 16, fill: 0x30, width: 16)
    }

    @inline(never)
    private mutating func put(_ value: UInt64, radix: UInt64, fill: UInt8, width: Int) {
        var text = InlineArray<24, UInt8>(repeating: fill)
        withUnsafeMutableBytes(of: &text) { text in
            guard let base = text.bindMemory(to: UInt8.self).baseAddress else { return }
            var rest = value
            var digits = 0
            repeat {
                digits &+= 1
                let digit = UInt8(truncatingIfNeeded: rest % radix)
                base[24 &- digits] = digit < 10 ? 0x30 &+ digit : 0x57 &+ digit
                rest /= radix
            } while rest > 0
            if width > 0 && fill == 0x20 && digits >= width { put(" ") }
            let count = max(digits, min(width, 24))
            put(base + (24 &- count), count)
        }
    }
}
