// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// A 16550A UART. Its transmitter takes no time: a byte written has left when the write is done.
///
/// Registers, interrupts and loopback as in National Semiconductor's PC16550D data sheet, section 8.
final class UART16550: ByteDevice {
    static let ports: ClosedRange<UInt16> = 0x3F8...0x3FF
    /// ISA interrupt of the first port.
    static let irq: UInt32 = 4
    static let registerCount: UInt32 = 8

    /// Bytes that wait for the guest, beyond the chip's 16: the guest cannot tell from a sender that is quick.
    static let receiveLimit = 4096
    private static let looksOfPolling = 16
    /// Depth of the chip's own FIFO, which loopback fills.
    private static let fifoDepth = 16

    private struct Registers {
        var interruptEnable: UInt8 = 0
        var fifoEnabled = false
        var lineControl: UInt8 = 0
        var modemControl: UInt8 = 0
        var scratch: UInt8 = 0
        var divisor: UInt16 = 1
        /// Received, from `receivedStart` on not yet read.
        var received: [UInt8] = []
        var receivedStart = 0
        var overrun = false
        /// The transmitter has become empty since the guest last saw it in the identification register.
        var transmitterEmptied = false
        /// State of the interrupt line.
        var line = false
        /// Reads of the line status one after the other, with nothing received and nothing sent between them: what a
        /// program does that waits for a key. A driver that is about to send looks once.
        var looks = 0

        /// Bit 7 of the line control register turns registers 0 and 1 into the divisor latch.
        var divisorLatchAccess: Bool { lineControl & 0x80 != 0 }
        var loopback: Bool { modemControl & 0x10 != 0 }
        /// The guest wants an interrupt for what it receives. OUT2 lets interrupts through to a PC's interrupt
        /// controller: a driver that only probes the chip does not set it.
        var listens: Bool { interruptEnable & 1 != 0 && modemControl & 0x18 == 0x08 }
        var polls: Bool { looks >= UART16550.looksOfPolling }
        var dataReady: Bool { receivedStart < received.count }

        /// Bits 0 to 3 of the interrupt identification register, highest priority first (table 5).
        var interrupt: UInt8 {
            if interruptEnable & 4 != 0, overrun { return 0x6 }
            if interruptEnable & 1 != 0, dataReady { return 0x4 }
            if interruptEnable & 2 != 0, transmitterEmptied { return 0x2 }
            return 0x1
        }

        mutating func take() -> UInt8 {
            let byte = received[receivedStart]
            receivedStart += 1
            if receivedStart == received.count {
                received.removeAll(keepingCapacity: true)
                receivedStart = 0
            }
            return byte
        }

        mutating func put(_ byte: UInt8, limit: Int) {
            if received.count - receivedStart < limit {
                received.append(byte)
            } else {
                overrun = true
            }
        }

        var modemStatus: UInt8 {
            guard loopback else { return 0xB0 }  // carrier, data set ready, clear to send
            // RTS, DTR, OUT1, OUT2 come back as CTS, DSR, RI, DCD.
            let control = modemControl
            return control << 3 & 0x10 | control << 5 & 0x20 | control << 4 & 0x40 | control << 4 & 0x80
        }
    }

    private let registers = Mutex(Registers())
    private let output: SerialOutput
    private let interrupt: InterruptLine?
    private let drained: @Sendable () -> Void

    /// - Parameters:
    ///   - interrupt: the line; without one the port is for polling.
    ///   - drained: called when the guest has read the last byte received, or has begun to listen or to poll.
    init(output: SerialOutput, interrupt: InterruptLine? = nil, drained: @escaping @Sendable () -> Void = {}) {
        self.output = output
        self.interrupt = interrupt
        self.drained = drained
    }

    func read(_ register: UInt32) -> UInt8 {
        registers.withLock { registers in
            defer { update(&registers) }
            if register != 5, !registers.polls { registers.looks = 0 }
            switch register {
            case 0:
                guard !registers.divisorLatchAccess else { return UInt8(truncatingIfNeeded: registers.divisor) }
                guard registers.dataReady else { return 0 }
                let byte = registers.take()
                if !registers.dataReady {
                    drained()
                }
                return byte
            case 1:
                return registers.divisorLatchAccess
                    ? UInt8(truncatingIfNeeded: registers.divisor >> 8) : registers.interruptEnable
            case 2:
                let pending = registers.interrupt
                if pending == 0x2 {
                    registers.transmitterEmptied = false
                }
                return pending | (registers.fifoEnabled ? 0xC0 : 0)
            case 3: return registers.lineControl
            case 4: return registers.modemControl
            case 5:
                // Transmitter holding and shift registers empty.
                let status: UInt8 = 0x60 | (registers.dataReady ? 1 : 0) | (registers.overrun ? 2 : 0)
                registers.overrun = false
                if !registers.dataReady, !registers.polls {
                    registers.looks += 1
                    if registers.polls { drained() }
                }
                return status
            case 6: return registers.modemStatus
            default: return registers.scratch
            }
        }
    }

    /// A write to register 0.
    func transmit(_ byte: UInt8) {
        let sends = registers.withLock { registers in
            guard !registers.divisorLatchAccess, !registers.loopback else { return false }
            registers.transmitterEmptied = true
            if !registers.polls { registers.looks = 0 }
            update(&registers)
            return true
        }
        if sends {
            output.send(byte)
        } else {
            _ = write(0, byte)
        }
    }

    func write(_ register: UInt32, _ value: UInt8) -> GuestRequest? {
        let sends = registers.withLock { registers in
            let listened = registers.listens
            defer {
                update(&registers)
                if registers.listens, !listened {
                    drained()
                }
            }
            switch register {
            case 0 where registers.divisorLatchAccess:
                registers.divisor = registers.divisor & 0xFF00 | UInt16(value)
            case 0:
                registers.transmitterEmptied = true
                guard registers.loopback else { return true }
                registers.put(value, limit: Self.fifoDepth)
            case 1 where registers.divisorLatchAccess:
                registers.divisor = registers.divisor & 0x00FF | UInt16(value) << 8
            case 1:
                registers.looks = 0
                // Turning the interrupt on while the transmitter is empty raises it.
                if value & 2 != 0, registers.interruptEnable & 2 == 0 {
                    registers.transmitterEmptied = true
                }
                registers.interruptEnable = value & 0x0F
            case 2:
                registers.fifoEnabled = value & 1 == 1
                registers.looks = 0
                if value & 2 != 0 {
                    registers.received.removeAll(keepingCapacity: true)
                    registers.receivedStart = 0
                }
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
        return nil
    }

    /// Room for bytes from outside: none before the guest wants to be told of them or waits for one, for its driver empties
    /// the FIFO as it starts.
    var receiveRoom: Int {
        registers.withLock { registers in
            registers.listens || registers.polls
                ? Self.receiveLimit - (registers.received.count - registers.receivedStart) : 0
        }
    }

    /// Bytes from outside, as many as ``receiveRoom`` said; the guest in loopback does not get them.
    func receive(_ bytes: some Sequence<UInt8>) {
        registers.withLock { registers in
            guard !registers.loopback else { return }
            for byte in bytes {
                registers.put(byte, limit: Self.receiveLimit)
            }
            update(&registers)
        }
    }

    /// Sets the interrupt line to what the registers say; KVM hears of it only when it changes.
    private func update(_ registers: inout Registers) {
        let level = registers.interrupt != 0x1
        if level != registers.line {
            registers.line = level
            setLine(level)
        }
    }

    @inline(never)
    private func setLine(_ level: Bool) {
        interrupt?(level)
    }
}
