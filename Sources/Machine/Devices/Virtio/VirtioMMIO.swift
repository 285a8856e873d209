// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization

/// What stands behind a virtio transport.
protocol VirtioBackend: AnyObject, Sendable {
    /// virtio 1.2, chapter 5.
    static var deviceID: UInt32 { get }
    /// As messages call it.
    static var name: String { get }

    /// Device-specific feature bits.
    var features: UInt64 { get }
    /// Entries that each queue may have.
    var queueSizes: [UInt16] { get }
    /// Configuration space.
    var configuration: [UInt8] { get }

    /// A request may wait in a system call, as for a disk. No vCPU's thread does such work.
    var mayBlock: Bool { get }

    /// Works off a bounded part of a queue. The transport holds its lock.
    func process(_ queue: inout SplitQueue, _ memory: GuestMemory) throws(QueueError) -> QueueProgress

    /// Whether this queue is of use now: a queue for what comes from outside is not while nothing waits for a buffer.
    func wantsNotification(queue: Int) -> Bool

    /// The driver accepted these features.
    func activate(features: UInt64)

    /// The driver reset the device.
    func reset()
}

extension VirtioBackend {
    var mayBlock: Bool { false }
    func wantsNotification(queue: Int) -> Bool { true }
    func activate(features: UInt64) {}
    func reset() {}
}

/// How far a backend came with a queue.
struct QueueProgress {
    /// What is left of what the driver had made available.
    enum Rest {
        case nothing
        /// More than was to be done at once: others have their turn first.
        case more
        /// The backend itself sees to it that work goes on.
        case waiting
    }

    /// Something was given back to the driver.
    var gaveBack = false
    var rest = Rest.nothing
}

/// A virtio device behind memory-mapped registers (virtio 1.2, 4.2.2).
///
/// A driver that breaks a rule of the rings gets DEVICE_NEEDS_RESET, the user a message; nothing else stops.
final class VirtioMMIO: Device {
    /// Offset that a driver writes a queue's number to; an ioeventfd can stand there.
    static let notifyOffset: UInt64 = 0x50

    private enum Status {
        static let featuresOK: UInt32 = 8
        static let driverOK: UInt32 = 4
        static let needsReset: UInt32 = 0x40
    }

    private enum Interrupt {
        static let usedBuffer: UInt32 = 1
        static let configurationChange: UInt32 = 2
    }

    private static let versionOne: UInt64 = 1 << 32
    private static let indirectDescriptors: UInt64 = 1 << 28
    private static let eventIndex: UInt64 = 1 << 29

    private struct State {
        var status: UInt32 = 0
        var deviceFeaturesSelect: UInt32 = 0
        var driverFeaturesSelect: UInt32 = 0
        var driverFeatures: UInt64 = 0
        var queueSelect: UInt32 = 0
        var queues: [SplitQueue]
    }

    let backend: any VirtioBackend
    private let state: Mutex<State>
    /// Outside the lock: a vCPU that serves an interrupt does not wait for a request in progress.
    private let interruptStatus = Atomic<UInt32>(0)
    private let memory: GuestMemory
    private let interrupt: @Sendable () -> Void
    private let report: @Sendable (String) -> Void
    private let isOver: @Sendable () -> Bool
    /// Has another thread go on with a queue; nil: whoever notifies does all of the work.
    private let handOver: (@Sendable (Int) -> Void)?
    private let features: UInt64

    /// - Parameters:
    ///   - interrupt: sends one edge.
    ///   - report: takes messages for the user.
    ///   - isOver: the run has ended: nobody waits for the device any more.
    ///   - handOver: has another thread call ``work(_:)``.
    init(
        _ backend: any VirtioBackend, memory: GuestMemory, interrupt: @escaping @Sendable () -> Void,
        report: @escaping @Sendable (String) -> Void, isOver: @escaping @Sendable () -> Bool = { false },
        handOver: (@Sendable (Int) -> Void)? = nil
    ) {
        self.backend = backend
        self.memory = memory
        self.interrupt = interrupt
        self.report = report
        self.isOver = isOver
        self.handOver = handOver
        features = backend.features | Self.versionOne | Self.indirectDescriptors | Self.eventIndex
        state = Mutex(
            State(queues: backend.queueSizes.enumerated().map { SplitQueue(index: $0.offset, maximum: $0.element) }))
    }

    /// Queues that a driver can notify.
    var queueCount: Int { backend.queueSizes.count }

    /// The state, for as short as `body` takes. Who has it may be in the middle of a request, a slow disk's: the end of
    /// the run calls off the wait for it.
    ///
    /// - Returns: nil at the end of the run.
    private func withState<R>(_ body: (inout State) -> R) -> R? {
        var pause: UInt32 = 1
        while true {
            if let result = state.withLockIfAvailable({ body(&$0) }) {
                return result
            }
            guard !isOver() else { return nil }
            usleep(pause)
            pause = min(pause * 2, 1000)
        }
    }

    // MARK: Registers

    func read(_ offset: UInt32, _ data: UnsafeMutableRawBufferPointer) {
        if offset >= 0x100 {
            readConfiguration(Int(offset) - 0x100, data)
            return
        }
        // The driver uses 32-bit accesses below the configuration space; others find nothing.
        let value = data.count == 4 && offset % 4 == 0 ? register(offset) : 0
        for index in data.indices {
            data[index] = index < 4 ? UInt8(truncatingIfNeeded: value >> (UInt32(index) * 8)) : 0
        }
    }

    private func register(_ offset: UInt32) -> UInt32 {
        if offset == 0x60 {
            return interruptStatus.load(ordering: .acquiring)
        }
        let value: UInt32? = withState { state in
            let queue = Int(state.queueSelect) < state.queues.count ? state.queues[Int(state.queueSelect)] : nil
            return switch offset {
            case 0x00: 0x7472_6976  // "virt"
            case 0x04: 2
            case 0x08: type(of: backend).deviceID
            case 0x0C: 0x4C54_4D56  // "VMTL"
            case 0x10:
                state.deviceFeaturesSelect < 2
                    ? UInt32(truncatingIfNeeded: features >> (UInt64(state.deviceFeaturesSelect) * 32)) : 0
            case 0x34: UInt32(queue?.maximum ?? 0)
            case 0x44: queue?.isReady == true ? 1 : 0
            case 0x70: state.status
            case 0xB0, 0xB4, 0xB8, 0xBC: .max  // no shared memory
            default: 0  // ConfigGeneration among them: the configuration never changes
            }
        }
        return value ?? 0
    }

    private func readConfiguration(_ offset: Int, _ data: UnsafeMutableRawBufferPointer) {
        let bytes = backend.configuration
        for index in data.indices {
            data[index] = offset + index < bytes.count ? bytes[offset + index] : 0
        }
    }

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        guard data.count == 4, offset % 4 == 0, offset < 0x100 else { return nil }
        let value = data.loadUnaligned(as: UInt32.self)
        switch offset {
        case 0x50: notify(Int(value))
        case 0x64: interruptStatus.bitwiseAnd(~value, ordering: .acquiringAndReleasing)
        default: withState { write(offset, value, &$0) }
        }
        return nil
    }

    private func write(_ offset: UInt32, _ value: UInt32, _ state: inout State) {
        switch offset {
        case 0x14: state.deviceFeaturesSelect = value
        case 0x24: state.driverFeaturesSelect = value
        case 0x20 where state.driverFeaturesSelect < 2 && state.status & Status.featuresOK == 0:
            let shift = UInt64(state.driverFeaturesSelect) * 32
            state.driverFeatures = state.driverFeatures & ~(0xFFFF_FFFF << shift) | UInt64(value) << shift
        case 0x30: state.queueSelect = value
        case 0x70: setStatus(value, &state)
        default:
            guard Int(state.queueSelect) < state.queues.count else { return }
            setQueue(offset, value, &state)
        }
    }

    private func setQueue(_ offset: UInt32, _ value: UInt32, _ state: inout State) {
        let place = Int(state.queueSelect)
        if offset == 0x44 {
            guard value & 1 == 1 else { return state.queues[place].reset() }
            do throws(QueueError) {
                try state.queues[place].check(memory)
                state.queues[place].isReady = true
                state.queues[place].usesEventIndex = state.driverFeatures & Self.eventIndex != 0
            } catch {
                fail(error, &state)
            }
            return
        }
        // 4.2.2.2: while a queue is ready its driver changes nothing of it.
        guard !state.queues[place].isReady else { return }
        func half(_ address: UInt64) -> UInt64 {
            offset & 4 == 0
                ? address & 0xFFFF_FFFF_0000_0000 | UInt64(value) : address & 0xFFFF_FFFF | UInt64(value) << 32
        }
        switch offset {
        case 0x38: state.queues[place].size = UInt16(clamping: value)
        case 0x80, 0x84: state.queues[place].descriptors = half(state.queues[place].descriptors)
        case 0x90, 0x94: state.queues[place].available = half(state.queues[place].available)
        case 0xA0, 0xA4: state.queues[place].used = half(state.queues[place].used)
        default: break
        }
    }

    private func setStatus(_ value: UInt32, _ state: inout State) {
        if value == 0 {
            state = State(queues: state.queues)
            for index in state.queues.indices {
                state.queues[index].reset()
            }
            interruptStatus.store(0, ordering: .releasing)
            backend.reset()
            return
        }
        var value = value & 0xFF & ~Status.needsReset | state.status & Status.needsReset
        let isAcceptable = state.driverFeatures & ~features == 0 && state.driverFeatures & Self.versionOne != 0
        if !isAcceptable {
            value &= ~Status.featuresOK
        }
        if value & Status.driverOK != 0, state.status & Status.driverOK == 0 {
            backend.activate(features: state.driverFeatures)
            for index in state.queues.indices where state.queues[index].isReady {
                _ = state.queues[index].request(notification: backend.wantsNotification(queue: index), memory)
            }
        }
        state.status = value
    }

    // MARK: Queues

    /// Portions of one call: a driver that refills its ring while it is worked off does not keep the thread.
    private static let portions = 8

    /// The driver has notified a queue, or something has come from outside for it.
    func notify(_ queue: Int) {
        guard (0..<queueCount).contains(queue) else { return }
        guard let handOver else {
            while work(queue) {}
            return
        }
        if backend.mayBlock || work(queue) {
            handOver(queue)
        }
    }

    /// Works off a bounded part of a queue.
    ///
    /// - Returns: whether there is more to do, after others have had their turn.
    func work(_ queue: Int) -> Bool {
        let (interrupts, goesOn) = withState { step(queue, &$0) } ?? (false, false)
        if interrupts {
            interrupt()
        }
        return goesOn
    }

    private func step(_ queue: Int, _ state: inout State) -> (interrupts: Bool, goesOn: Bool) {
        guard state.status & Status.driverOK != 0, state.status & Status.needsReset == 0,
            queue >= 0, queue < state.queues.count, state.queues[queue].isReady
        else { return (false, false) }
        do throws(QueueError) {
            var gaveBack = false
            var rest = QueueProgress.Rest.more
            for _ in 0..<Self.portions where rest == .more && !isOver() {
                _ = state.queues[queue].request(notification: false, memory)
                let progress = try backend.process(&state.queues[queue], memory)
                gaveBack = gaveBack || progress.gaveBack
                rest = progress.rest
                if rest == .nothing,
                    state.queues[queue].request(notification: backend.wantsNotification(queue: queue), memory)
                {
                    rest = .more
                }
            }
            guard gaveBack, state.queues[queue].wantsInterrupt(memory) else { return (false, rest == .more) }
            interruptStatus.bitwiseOr(Interrupt.usedBuffer, ordering: .acquiringAndReleasing)
            return (true, rest == .more)
        } catch {
            fail(error, &state)
            return (false, false)
        }
    }

    /// Stops the device until the driver resets it (2.1.2).
    private func fail(_ error: QueueError, _ state: inout State) {
        report("\(type(of: backend).name) stops: \(error)")
        state.status |= Status.needsReset
        if state.status & Status.driverOK != 0 {
            interruptStatus.bitwiseOr(Interrupt.configurationChange, ordering: .acquiringAndReleasing)
            interrupt()
        }
    }
}
