// SPDX-License-Identifier: Apache-2.0
import KVM
import Synchronization

/// An I/O APIC in the VMM, for machines that have only their local APICs in the kernel (Intel 82093AA data sheet, 3; the
/// EOI register and version 0x20 as in its successors).
///
/// Unmasked pins are routes of KVM's as well, so that an irqfd reaches a processor without coming by here.
final class IOAPIC: Device {
    static let address: UInt64 = 0xFEC0_0000
    /// Pins of a PC's.
    static let pcPins = 24
    private static let version: UInt32 = 0x20

    /// A message-signalled interrupt (SDM vol. 3A 11.11).
    struct Message: Equatable {
        let address: UInt64
        let data: UInt32
    }

    /// What an entry of the redirection table says.
    struct Entry: Equatable {
        private(set) var bits: UInt64 = Self.masked

        private static let masked: UInt64 = 1 << 16
        /// Delivery status and remote IRR.
        private static let readOnly: UInt64 = 1 << 12 | remoteIRR
        private static let remoteIRR: UInt64 = 1 << 14

        var vector: UInt8 { UInt8(truncatingIfNeeded: bits) }
        var isMasked: Bool { bits & Self.masked != 0 }
        var isLevelTriggered: Bool { bits >> 15 & 1 == 1 }

        /// A level-triggered interrupt has been accepted by a processor and not ended.
        var isInService: Bool {
            get { bits & Self.remoteIRR != 0 }
            set { bits = newValue ? bits | Self.remoteIRR : bits & ~Self.remoteIRR }
        }

        mutating func write(_ value: UInt32, high: Bool) {
            if high {
                bits = bits & 0xFFFF_FFFF | UInt64(value) << 32
            } else {
                bits = bits & (~0xFFFF_FFFF | Self.readOnly) | UInt64(value) & ~Self.readOnly
                if !isLevelTriggered {
                    isInService = false
                }
            }
        }

        /// Nil for ExtINT: there is no 8259 to ask for the vector.
        var message: Message? {
            let mode = bits >> 8 & 7
            guard mode != 7 else { return nil }
            let lowestPriority: UInt64 = mode == 1 ? 1 << 3 : 0
            let address = 0xFEE0_0000 | (bits >> 56) << 12 | lowestPriority | (bits >> 11 & 1) << 2
            let level: UInt64 = isLevelTriggered ? 1 << 15 | 1 << 14 : 0
            return Message(address: address, data: UInt32(truncatingIfNeeded: bits & 0x7FF | level))
        }
    }

    private struct State {
        var select: UInt8 = 0
        var id: UInt32 = 0
        var entries: [Entry]
        /// Lines that are up, a bit a pin.
        var lines: UInt32 = 0
        var routes: [GSIRoute] = []
    }

    let pins: Int
    private let state: Mutex<State>
    private let deliver: @Sendable (Message) -> Void
    private let setRoutes: @Sendable ([GSIRoute]) -> Void

    /// - Parameters:
    ///   - pins: 1 to 32; GSI n is pin n.
    ///   - deliver: KVM_SIGNAL_MSI.
    ///   - setRoutes: KVM_SET_GSI_ROUTING.
    init(
        pins: Int, deliver: @escaping @Sendable (Message) -> Void, setRoutes: @escaping @Sendable ([GSIRoute]) -> Void
    ) {
        self.pins = min(max(1, pins), 32)
        self.deliver = deliver
        self.setRoutes = setRoutes
        state = Mutex(State(entries: [Entry](repeating: Entry(), count: self.pins)))
    }

    // MARK: Registers

    func read(_ offset: UInt32, _ data: UnsafeMutableRawBufferPointer) {
        let value = state.withLock { state in
            switch offset {
            case 0x00: UInt32(state.select)
            case 0x10: register(state)
            default: 0 as UInt32
            }
        }
        for index in data.indices {
            data[index] = index < 4 ? UInt8(truncatingIfNeeded: value >> (UInt32(index) * 8)) : 0
        }
    }

    private func register(_ state: State) -> UInt32 {
        switch state.select {
        case 0, 2: return state.id
        case 1: return Self.version | UInt32(pins - 1) << 16
        default:
            guard let pin = pin(state.select) else { return 0 }
            return UInt32(truncatingIfNeeded: state.entries[pin].bits >> (state.select & 1 == 1 ? 32 : 0))
        }
    }

    /// The pin whose entry a register is half of.
    private func pin(_ register: UInt8) -> Int? {
        guard register >= 0x10, Int(register - 0x10) / 2 < pins else { return nil }
        return Int(register - 0x10) / 2
    }

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        var value: UInt32 = 0
        for (index, byte) in data.prefix(4).enumerated() {
            value |= UInt32(byte) << (UInt32(index) * 8)
        }
        state.withLock { state in
            switch offset {
            case 0x00: state.select = UInt8(truncatingIfNeeded: value)
            case 0x10 where state.select == 0: state.id = value & 0x0F00_0000
            case 0x10:
                guard let pin = pin(state.select) else { return }
                state.entries[pin].write(value, high: state.select & 1 == 1)
                updateRoutes(&state)
                service(pin, &state)
            case 0x40: end(UInt8(truncatingIfNeeded: value), &state)
            default: break
            }
        }
        return nil
    }

    // MARK: Interrupts

    /// Raises or lowers a pin. An edge that comes while the pin is masked is lost.
    func set(pin: Int, level: Bool) {
        guard pin >= 0, pin < pins else { return }
        state.withLock { state in
            let rises = level && state.lines >> UInt32(pin) & 1 == 0
            state.lines = state.lines & ~(1 << UInt32(pin)) | (level ? 1 << UInt32(pin) : 0)
            let entry = state.entries[pin]
            if entry.isLevelTriggered {
                service(pin, &state)
            } else if rises, !entry.isMasked, let message = entry.message {
                deliver(message)
            }
        }
    }

    /// A processor has ended an interrupt: KVM_EXIT_IOAPIC_EOI.
    func endOfInterrupt(vector: UInt8) {
        state.withLock { end(vector, &$0) }
    }

    private func end(_ vector: UInt8, _ state: inout State) {
        for pin in 0..<pins where state.entries[pin].isInService && state.entries[pin].vector == vector {
            state.entries[pin].isInService = false
            service(pin, &state)
        }
    }

    /// Sends a level-triggered interrupt whose line is up and that no processor has.
    private func service(_ pin: Int, _ state: inout State) {
        let entry = state.entries[pin]
        guard state.lines >> UInt32(pin) & 1 == 1, entry.isLevelTriggered, !entry.isMasked, !entry.isInService,
            let message = entry.message
        else { return }
        state.entries[pin].isInService = true
        deliver(message)
    }

    /// Level-triggered pins stay routes while they are masked: KVM tells of the end of an interrupt by them.
    private func updateRoutes(_ state: inout State) {
        var routes: [GSIRoute] = []
        for (pin, entry) in state.entries.enumerated() where !entry.isMasked || entry.isLevelTriggered {
            guard let message = entry.message else { continue }
            routes.append(.msi(gsi: UInt32(pin), address: message.address, data: message.data))
        }
        guard routes != state.routes else { return }
        state.routes = routes
        setRoutes(routes)
    }
}

extension IOAPIC {
    /// One that works through KVM. Neither call can fail in a machine with split chips.
    convenience init(pins: Int, vm: SharedVM) {
        self.init(
            pins: pins,
            deliver: { message in _ = try? vm.machine.signalMSI(address: message.address, data: message.data) },
            setRoutes: { routes in try? vm.machine.setGSIRouting(routes) })
    }
}
