import Synchronization

/// A 16550 UART at 0x3F8, polled: the transmitter is always ready, nothing is ever received.
///
/// Registers as in the PC16550D data sheet, table 2.
final class UART16550: Sendable {
    static let ports: ClosedRange<UInt16> = 0x3F8...0x3FF

    private struct Registers {
        var interruptEnable: UInt8 = 0
        var fifoEnabled = false
        var lineControl: UInt8 = 0
        var modemControl: UInt8 = 0
        var scratch: UInt8 = 0
        var divisor: UInt16 = 1

        /// Bit 7 of the line control register turns registers 0 and 1 into the divisor latch.
        var divisorLatchAccess: Bool { lineControl & 0x80 != 0 }
    }

    private let registers = Mutex(Registers())
    private let output: SerialOutput

    init(output: SerialOutput) {
        self.output = output
    }

    /// Reads register 0 to 7.
    func read(_ register: UInt16) -> UInt8 {
        registers.withLock { registers in
            switch register {
            case 0: registers.divisorLatchAccess ? UInt8(truncatingIfNeeded: registers.divisor) : 0
            case 1:
                registers.divisorLatchAccess
                    ? UInt8(truncatingIfNeeded: registers.divisor >> 8) : registers.interruptEnable
            case 2: registers.fifoEnabled ? 0xC1 : 0x01  // no interrupt pending
            case 3: registers.lineControl
            case 4: registers.modemControl
            case 5: 0x60  // transmitter holding and shift registers empty
            case 6: 0xB0  // carrier, data set ready, clear to send
            default: registers.scratch
            }
        }
    }

    /// Writes register 0 to 7.
    func write(_ register: UInt16, _ value: UInt8) {
        let sends = registers.withLock { registers in
            switch register {
            case 0:
                guard registers.divisorLatchAccess else { return true }
                registers.divisor = registers.divisor & 0xFF00 | UInt16(value)
            case 1 where registers.divisorLatchAccess:
                registers.divisor = registers.divisor & 0x00FF | UInt16(value) << 8
            case 1: registers.interruptEnable = value & 0x0F
            case 2: registers.fifoEnabled = value & 1 == 1
            case 3: registers.lineControl = value
            case 4: registers.modemControl = value & 0x1F
            case 7: registers.scratch = value
            default: break
            }
            return false
        }
        if sends {
            output.send(value)
        }
    }
}
