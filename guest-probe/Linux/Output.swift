// SPDX-License-Identifier: Apache-2.0
import LinuxSystem

/// Text on its way to a descriptor.
struct Output {
    private let descriptor: Int32
    private let buffer = system_text_buffer().unsafelyUnwrapped
    private var used = 0

    init(_ descriptor: Int32) {
        self.descriptor = descriptor
    }

    mutating func put(_ text: StaticString) {
        put(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    mutating func put(_ bytes: UnsafeBufferPointer<UInt8>) {
        for byte in bytes { put(byte: byte) }
    }

    /// A null-terminated text.
    mutating func put(_ text: UnsafePointer<CChar>) {
        var next = text
        while next.pointee != 0 {
            put(byte: UInt8(bitPattern: next.pointee))
            next += 1
        }
    }

    /// A text inside a JSON string.
    mutating func put(escaped text: UnsafePointer<CChar>) {
        var next = text
        while next.pointee != 0 {
            let byte = UInt8(bitPattern: next.pointee)
            if byte < 0x20 {
                put("\\u00")
                put(byte: byte >> 4 + 0x30)
                put(byte: byte & 15 < 10 ? byte & 15 + 0x30 : byte & 15 + 0x57)
            } else {
                if byte == 0x22 || byte == 0x5C { put(byte: 0x5C) }
                put(byte: byte)
            }
            next += 1
        }
    }

    /// A number, with commas between groups of three digits unless `plain`, right-aligned: where there is a width, at least one
    /// space comes before it.
    mutating func put(_ value: UInt64, width: Int = 0, plain: Bool = false) {
        var digits: InlineArray<32, UInt8> = .init(repeating: 0)
        var rest = value
        var count = 0
        var group = 0
        repeat {
            if group == 3, !plain {
                digits[count] = 0x2C
                count += 1
                group = 0
            }
            digits[count] = UInt8(truncatingIfNeeded: rest % 10) + 0x30
            count += 1
            group += 1
            rest /= 10
        } while rest > 0
        if width > 0 { pad(max(1, width - count)) }
        while count > 0 {
            count -= 1
            put(byte: digits[count])
        }
    }

    /// A number with so many of its last digits behind a point.
    mutating func put(_ value: UInt64, decimals: Int, width: Int = 0) {
        var unit: UInt64 = 1
        for _ in 0..<decimals { unit *= 10 }
        put(value / unit, width: width - decimals - 1)
        put(byte: 0x2E)
        var rest = value % unit
        for _ in 0..<decimals {
            unit /= 10
            put(byte: UInt8(truncatingIfNeeded: rest / unit) + 0x30)
            rest %= unit
        }
    }

    /// A text, left-aligned, and at least one space.
    mutating func put(_ text: StaticString, width: Int) {
        put(text)
        pad(max(1, width - text.utf8CodeUnitCount))
    }

    mutating func pad(_ count: Int) {
        var count = count
        while count > 0 {
            put(byte: 0x20)
            count -= 1
        }
    }

    mutating func put(byte: UInt8) {
        if used == Int(SYSTEM_TEXT_SIZE) { flush() }
        buffer[used] = byte
        used += 1
    }

    /// Writes what is there. A reader that went away gets no more; what standard output does not take is noted.
    mutating func flush() {
        var start = 0
        while start < used {
            let written = system_write(descriptor, buffer + start, used - start)
            guard written > 0 || written == -4 else {
                if descriptor == 1 { system_note_lost_output() }
                break
            }
            start += max(0, written)
        }
        used = 0
    }
}
