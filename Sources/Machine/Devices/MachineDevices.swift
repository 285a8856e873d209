// SPDX-License-Identifier: Apache-2.0
import CLinux
import CLinuxKVM
import Glibc
import KVM
import Linux
import Synchronization

/// What a PC has beyond its fixed parts.
public struct DeviceConfiguration: Sendable {
    public struct Disk: Sendable {
        public var path: String
        public var isReadOnly: Bool

        public init(path: String, isReadOnly: Bool) {
            self.path = path
            self.isReadOnly = isReadOnly
        }
    }

    /// Which device the guest's console is.
    public enum Console: String, CaseIterable, Sendable {
        /// The UART at 0x3F8.
        case serial
        /// A virtio console, and no UART.
        case virtio
        /// Neither.
        case none
    }

    /// What the ACPI tables announce.
    public enum ACPI: String, CaseIterable, Sendable {
        /// Hardware-reduced ACPI: processors, I/O APIC, console and virtio devices. A guest leaves the rest alone.
        case reduced
        /// A PC's fixed hardware as well: PM1 registers, PM timer, 8259s, 8254, real-time clock.
        case full
    }

    public var acpi = ACPI.reduced
    public var console = Console.serial
    public var disks: [Disk] = []
    /// Names of tap interfaces, a virtio network card each.
    public var taps: [String] = []
    /// A virtio entropy source.
    public var entropy = false
    /// Notifications through ioeventfd and interrupts through irqfd: a thread of the VMM does the work, the vCPU goes
    /// on without a userspace exit.
    public var eventDescriptors = true
    /// Where the console's input comes from.
    public var input: Int32?
    /// Takes messages about devices that had to stop.
    public var report: @Sendable (String) -> Void = { _ in }

    public init() {}

    var virtioCount: Int { disks.count + taps.count + (console == .virtio ? 1 : 0) + (entropy ? 1 : 0) }

    /// What the ACPI tables tell of the virtio devices, as many as there are interrupts for.
    var virtio: [ACPITables.VirtioDevice] {
        zip(0..<virtioCount, virtioGSIs).map { index, gsi in
            ACPITables.VirtioDevice(address: MachineDevices.virtioWindow + UInt64(index) << 12, gsi: gsi)
        }
    }

    /// Pins of the I/O APIC that nothing else has: a PC's, or all but number 0 (an invalid interrupt to Linux) and those
    /// before the UART's.
    var virtioGSIs: [UInt32] {
        switch (acpi, console) {
        case (.full, _): Array(16...23) + [5, 6, 7, 10, 11, 12, 14, 15]
        case (.reduced, .serial): Array(5...23)
        case (.reduced, .virtio), (.reduced, .none): Array(1...23)
        }
    }

    /// Pins up to the last in use: each costs a Linux guest some twenty accesses as it starts.
    var pinsInUse: Int {
        Int(max(virtio.map(\.gsi).max() ?? 0, console == .serial ? UART16550.irq : 0)) + 1
    }
}

/// The devices of one machine, and the thread that works for them.
struct MachineDevices {
    /// virtio-mmio transports, 4 KiB each, next to the I/O APIC.
    static let virtioWindow = IOAPIC.address + 0x1000

    let platform: Platform
    /// Threads that work for the devices: one for each disk, which may be slow, and one for all else. None: nothing to
    /// wait for.
    let loops: [EventLoop]
    let input: ConsoleInput?
    let messages: GuestMessages
    /// Where split chips leave it to us.
    let ioAPIC: IOAPIC?

    /// The least that a bare-metal guest finds: a UART for polling and the exit port.
    init(bareMetal output: SerialOutput, marker: BootMarker, extension more: (any MachineExtension)? = nil) {
        loops = []
        messages = GuestMessages()
        input = nil
        ioAPIC = nil
        platform = Platform(
            ports: [
                (UART16550.ports, UART16550(output: output)),
                (ExitPort.port...ExitPort.port, ExitPort()),
                (BootMarkerPort.port...BootMarkerPort.port, BootMarkerPort(marker)),
            ] + (more?.ports ?? []),
            slots: more?.registers ?? [], window: more?.window ?? 0)
    }

    /// What Linux drives.
    ///
    /// - Parameters:
    ///   - splitPins: pins of the I/O APIC, if it is ours to give.
    ///   - isTest: with ports that raise interrupts.
    init(
        pc configuration: DeviceConfiguration, cpus: Int, splitPins: Int?, isTest: Bool, output: SerialOutput,
        memory: GuestMemory, vm: SharedVM, control: RunControl, marker: BootMarker
    ) throws(MachineError) {
        guard configuration.virtio.count == configuration.virtioCount else {
            throw .refused(
                .devices, "\(configuration.virtioCount) virtio devices", "give \(configuration.virtio.count) at most")
        }
        let ioAPIC = splitPins.map { IOAPIC(pins: $0, vm: vm) }
        self.ioAPIC = ioAPIC
        func line(_ gsi: UInt32) -> InterruptLine {
            guard let ioAPIC else { return vm.line(gsi: gsi) }
            return { ioAPIC.set(pin: Int(gsi), level: $0) }
        }
        var ports: [(ClosedRange<UInt16>, any Device)] = [
            (ExitPort.port...ExitPort.port, ExitPort()),
            (BootMarkerPort.port...BootMarkerPort.port, BootMarkerPort(marker)),
            (StatusPort.port...StatusPort.port, StatusPort(control)),
            (KeyboardController.ports, KeyboardController()),
            (RealTimeClock.ports, RealTimeClock(memory: memory.size)),
            (SystemControlPort.ports, SystemControlPort()),
            (ResetControlPort.ports, ResetControlPort()),
            (ACPIPower.ports, ACPIPower()),
            (FirmwareConfiguration.ports, FirmwareConfiguration(cpus: cpus, memory: memory.size)),
        ]
        if isTest {
            ports.append((InterruptTestPorts.ports, InterruptTestPorts(lines: (0..<24).map(line))))
        }
        var backends: [any VirtioBackend] = []
        let loop = try EventLoop.make()
        let isOver: @Sendable () -> Bool = { control.isOver }
        let report = GuestMessages(configuration.report)
        messages = report
        // A file as input cannot be waited for: it is read when there may be room.
        let more = try EventDescriptor.make()
        let inputIsFile = configuration.input.map(Self.isFile) ?? false
        let drained: @Sendable () -> Void = { [input = configuration.input, weak loop] in
            guard let input else { return }
            if inputIsFile {
                more.signal()
            } else {
                loop?.rearm(input)
            }
        }
        var room: @Sendable () -> Int = { 0 }
        var deliver: @Sendable (ArraySlice<UInt8>) -> Void = { _ in }
        var console: VirtioConsole?
        var waitForReader: EventDescriptor?
        switch configuration.console {
        case .serial:
            let uart = UART16550(output: output, interrupt: line(UART16550.irq), drained: drained)
            ports.append((UART16550.ports, uart))
            room = { uart.receiveRoom }
            deliver = { uart.receive($0) }
        case .virtio:
            let writable = try EventDescriptor.make()
            waitForReader = writable
            let device = VirtioConsole(output: output, drained: drained) { [weak loop] in
                let waits = output.descriptor.map { loop?.whenWritable($0) { _ in writable.signal() } ?? false }
                if waits != true { writable.signal() }
            }
            backends.append(device)
            room = { device.receiveRoom }
            console = device
        case .none: break
        }
        for disk in configuration.disks {
            let device = try VirtioBlock(path: disk.path, isReadOnly: disk.isReadOnly, isOver: isOver)
            if device.excess > 0 {
                configuration.report(
                    "disk \(disk.path): the last \(device.excess) bytes are less than a sector of 512, and not part of the disk"
                )
            }
            backends.append(device)
        }
        if configuration.entropy {
            backends.append(VirtioEntropy())
        }
        for (index, tap) in configuration.taps.enumerated() {
            backends.append(
                VirtioNetwork(descriptor: try VirtioNetwork.openTap(tap), index: index) { [weak loop] descriptor in
                    loop?.rearm(descriptor)
                })
        }
        var transports: [VirtioMMIO] = []
        var loops = [loop]
        for (index, backend) in backends.enumerated() {
            let own = backend.mayBlock ? try EventLoop.make() : loop
            if own !== loop {
                loops.append(own)
            }
            transports.append(
                try Self.connect(
                    backend, configuration.virtio[index], memory, vm, line, own,
                    byEvents: configuration.eventDescriptors, report: report.take, isOver: isOver))
        }
        if let waitForReader, let transport = transports.first {
            try loop.watch(waitForReader.rawValue) { loop in
                waitForReader.clear()
                loop.rearm(waitForReader.rawValue)
                transport.notify(VirtioConsole.transmitQueue)
            }
        }
        if let console, let transport = transports.first {
            deliver = { bytes in
                console.receive(bytes)
                transport.notify(VirtioConsole.receiveQueue)
            }
        }
        for transport in transports {
            guard let network = transport.backend as? VirtioNetwork else { continue }
            try loop.watch(network.descriptor) { _ in transport.notify(VirtioNetwork.receiveQueue) }
        }
        platform =
            if let ioAPIC {
                Platform(ports: ports, slots: [ioAPIC] + transports, window: IOAPIC.address)
            } else {
                Platform(ports: ports, slots: transports, window: Self.virtioWindow)
            }
        self.loops = loops
        guard let descriptor = configuration.input else {
            input = nil
            return
        }
        let input = ConsoleInput(descriptor, room: room, deliver: deliver) { control.finish(.quit) }
        self.input = input
        if inputIsFile {
            try loop.watch(more.rawValue) { loop in
                more.clear()
                loop.rearm(more.rawValue)
                if input.take() { more.signal() }
            }
            more.signal()
        } else {
            try loop.watch(descriptor) { loop in
                if input.take() { loop.rearm(descriptor) }
            }
        }
    }

    /// What epoll(7) cannot wait for.
    private static func isFile(_ descriptor: Int32) -> Bool {
        var status = stat()
        return fstat(descriptor, &status) == 0 && [S_IFREG, S_IFDIR, S_IFBLK].contains(status.st_mode & S_IFMT)
    }

    /// Stops the threads. One that hangs in a system call, for a disk that does not answer, is left to the end of the
    /// process: nobody waits for it, and all that it may touch lives as long as it does.
    static func stop(_ running: [(loop: EventLoop, thread: Thread)]) {
        let deadline = monotonicNanoseconds() + 50_000_000
        running.forEach { $0.loop.stop() }
        for (loop, thread) in running {
            if loop.hasStopped(by: deadline) {
                thread.join()
            } else {
                thread.detach()
            }
        }
    }

    /// Puts a transport before a backend and wires it to KVM.
    ///
    /// - Parameter byEvents: by ioeventfd and irqfd; else a vCPU's thread takes notifications.
    private static func connect(
        _ backend: any VirtioBackend, _ place: ACPITables.VirtioDevice, _ memory: GuestMemory, _ vm: SharedVM,
        _ line: (UInt32) -> InterruptLine, _ loop: EventLoop, byEvents: Bool,
        report: @escaping @Sendable (String) -> Void, isOver: @escaping @Sendable () -> Bool
    ) throws(MachineError) -> VirtioMMIO {
        let interrupt: @Sendable () -> Void
        if byEvents {
            let event = try EventDescriptor.make()
            try lifted { () throws(KVMError) in try vm.machine.registerIRQFD(event.rawValue, gsi: place.gsi) }
            interrupt = { event.signal() }
        } else {
            let line = line(place.gsi)
            interrupt = {
                line(true)
                line(false)
            }
        }
        var events: [EventDescriptor] = []
        for _ in backend.queueSizes {
            events.append(try EventDescriptor.make())
        }
        let transport = VirtioMMIO(
            backend, memory: memory, interrupt: interrupt, report: report, isOver: isOver,
            handOver: { [events] in events[$0].signal() })
        for (queue, event) in events.enumerated() {
            if byEvents {
                try lifted { () throws(KVMError) in
                    try vm.machine.registerIOEvent(
                        event.rawValue, address: place.address + VirtioMMIO.notifyOffset, length: 4, in: .memory,
                        match: UInt64(queue))
                }
            }
            try loop.watch(event.rawValue) { loop in
                event.clear()
                loop.rearm(event.rawValue)
                if transport.work(queue) { event.signal() }
            }
        }
        return transport
    }
}

extension EventDescriptor {
    fileprivate static func make() throws(MachineError) -> EventDescriptor {
        try lifted { () throws(SystemError) in try EventDescriptor() }
    }
}

extension EventLoop {
    fileprivate static func make() throws(MachineError) -> EventLoop {
        try lifted { () throws(SystemError) in try EventLoop() }
    }

    fileprivate func watch(_ descriptor: Int32, _ handler: @escaping Handler) throws(MachineError) {
        _ = try lifted { () throws(SystemError) in try add(descriptor, handler) }
    }
}

/// Messages that a guest can cause, the first few of which are passed on.
final class GuestMessages: Sendable {
    static let limit = 8

    private let pass: @Sendable (String) -> Void
    private let count = Atomic(0)

    init(_ pass: @escaping @Sendable (String) -> Void = { _ in }) {
        self.pass = pass
    }

    @Sendable func take(_ message: String) {
        guard count.add(1, ordering: .relaxed).oldValue < Self.limit else { return }
        pass(message)
    }

    /// Messages that were not passed on.
    var withheld: Int { max(0, count.load(ordering: .relaxed) - Self.limit) }
}

/// A machine that devices can hold on to.
package final class SharedVM: Sendable {
    package let machine: VirtualMachine

    init(_ machine: consuming VirtualMachine) {
        self.machine = machine
    }

    /// A line of the in-kernel chips. Setting one cannot fail in a machine that has them.
    func line(gsi: UInt32) -> InterruptLine {
        { [self] level in try? machine.irqLine(gsi: gsi, level: level) }
    }
}
