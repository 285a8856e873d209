// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization

/// The MC146818 real-time clock and its CMOS memory, ports 0x70 and 0x71. It tells the host's time in UTC, never
/// updates while it is read, and raises no alarm.
final class RealTimeClock: ByteDevice {
    static let ports: ClosedRange<UInt16> = 0x70...0x71
    static let registerCount: UInt32 = 2
    static let centuryRegister: UInt8 = 0x32

    private struct State {
        var index: UInt8 = 0
        var memory: [UInt8]
    }

    private let state: Mutex<State>

    /// - Parameter memory: guest RAM, for the places where PC firmware leaves its size.
    init(memory: UInt64) {
        var bytes = [UInt8](repeating: 0, count: 128)
        let extended = min(memory >> 10, 64 << 10) - min(memory >> 10, 1 << 10)
        let above16M = min((memory - min(memory, 16 << 20)) >> 16, 0xFFFF)
        bytes[0x15] = 0x80  // 640 KiB
        bytes[0x16] = 0x02
        for place in [0x17, 0x30] {
            bytes[place] = UInt8(truncatingIfNeeded: min(extended, 0xFFFF))
            bytes[place + 1] = UInt8(truncatingIfNeeded: min(extended, 0xFFFF) >> 8)
        }
        bytes[0x34] = UInt8(truncatingIfNeeded: above16M)
        bytes[0x35] = UInt8(truncatingIfNeeded: above16M >> 8)
        bytes[0x0A] = 0x26  // 32,768 Hz, 1,024 Hz periodic; no update in progress
        bytes[0x0B] = 0x02  // 24 hours, BCD
        bytes[0x0D] = 0x80  // battery good
        state = Mutex(State(memory: bytes))
        // The C library reads the time zone's file the first time, which no sandbox lets it.
        _ = Self.time(0)
    }

    func read(_ register: UInt32) -> UInt8 {
        guard register == 1 else { return 0xFF }
        return state.withLock { state in
            Self.time(state.index) ?? state.memory[Int(state.index)]
        }
    }

    func write(_ register: UInt32, _ value: UInt8) -> GuestRequest? {
        state.withLock { state in
            if register == 0 {
                state.index = value & 0x7F
            } else if ![0x0A, 0x0B, 0x0C, 0x0D].contains(state.index) {
                state.memory[Int(state.index)] = value
            }
        }
        return nil
    }

    /// A register that tells the time, in BCD; nil for any other.
    private static func time(_ index: UInt8) -> UInt8? {
        guard [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, centuryRegister].contains(index) else { return nil }
        var now = time_t()
        var utc = tm()
        Glibc.time(&now)
        gmtime_r(&now, &utc)
        let value =
            switch index {
            case 0x00: utc.tm_sec
            case 0x02: utc.tm_min
            case 0x04: utc.tm_hour
            case 0x06: utc.tm_wday + 1
            case 0x07: utc.tm_mday
            case 0x08: utc.tm_mon + 1
            case 0x09: utc.tm_year % 100
            default: utc.tm_year / 100 + 19
            }
        return UInt8(truncatingIfNeeded: (value / 10) << 4 | value % 10)
    }
}
