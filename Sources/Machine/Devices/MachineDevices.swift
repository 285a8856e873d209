import KVM

/// The devices of one machine: which there are, and where.
struct MachineDevices {
    /// virtio-mmio transports, 4 KiB each; in the hole below 4 GiB.
    static let virtioWindow: UInt64 = 0xD000_0000
    /// Their interrupts: I/O APIC pins from here on.
    static let firstVirtioGSI: UInt32 = 5

    let platform: Platform
    let uart: UART16550

    /// The least that a bare-metal guest finds: a UART for polling and the exit port.
    init(bareMetal output: SerialOutput) {
        uart = UART16550(output: output)
        platform = Platform(ports: [
            (UART16550.ports, uart),
            (ExitPort.port...ExitPort.port, ExitPort()),
        ])
    }

    /// What Linux drives.
    init(pc output: SerialOutput, memory: GuestMemory, vm: SharedVM) {
        uart = UART16550(output: output, interrupt: vm.line(gsi: UART16550.irq))
        platform = Platform(ports: [
            (UART16550.ports, uart),
            (ExitPort.port...ExitPort.port, ExitPort()),
            (KeyboardController.ports, KeyboardController()),
            (RealTimeClock.ports, RealTimeClock(memory: memory.size)),
            (SystemControlPort.ports, SystemControlPort()),
            (ResetControlPort.ports, ResetControlPort()),
            (ACPIPower.ports, ACPIPower()),
        ])
    }
}

/// A machine that devices can hold on to.
final class SharedVM: Sendable {
    let machine: VirtualMachine

    init(_ machine: consuming VirtualMachine) {
        self.machine = machine
    }

    /// A line of the in-kernel chips. Setting one cannot fail in a machine that has them.
    func line(gsi: UInt32) -> InterruptLine {
        { [self] level in try? machine.irqLine(gsi: gsi, level: level) }
    }
}
