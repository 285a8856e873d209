// SPDX-License-Identifier: Apache-2.0
/// The keyboard controller's status and command register, port 0x64, with nothing behind it but the reset line.
///
/// It says for ever that a byte waits to be read: a driver that looks for a controller flushes it, sees that it never
/// empties, and goes away after 32 reads instead of waiting half a second for an answer. That it never says that it
/// is busy lets a reset through at once. The data register, port 0x60, is nobody's.
final class KeyboardController: ByteDevice {
    static let ports: ClosedRange<UInt16> = 0x64...0x64
    static let registerCount: UInt32 = 1

    private static let outputBufferFull: UInt8 = 0x01
    /// Commands 0xF0 to 0xFF pulse output lines, those whose bit is clear; bit 0 is the processor's reset.
    private static let pulse: UInt8 = 0xF0

    func read(_ register: UInt32) -> UInt8 { Self.outputBufferFull }

    func write(_ register: UInt32, _ value: UInt8) -> GuestRequest? {
        value & 0xF1 == Self.pulse ? .reset : nil
    }
}

/// Port 0x92, "system control port A": bit 1 is the A20 line, bit 0 resets.
final class SystemControlPort: ByteDevice {
    static let ports: ClosedRange<UInt16> = 0x92...0x92
    static let registerCount: UInt32 = 1

    func read(_ register: UInt32) -> UInt8 { 0x02 }

    func write(_ register: UInt32, _ value: UInt8) -> GuestRequest? {
        value & 1 == 1 ? .reset : nil
    }
}

/// Port 0xCF9, the chipset's reset control register: bit 2 resets.
final class ResetControlPort: ByteDevice {
    static let ports: ClosedRange<UInt16> = 0xCF9...0xCF9
    static let registerCount: UInt32 = 1

    func read(_ register: UInt32) -> UInt8 { 0 }

    func write(_ register: UInt32, _ value: UInt8) -> GuestRequest? {
        value & 4 == 4 ? .reset : nil
    }
}
