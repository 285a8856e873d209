// SPDX-License-Identifier: Apache-2.0
import CLinux
import ExitStats
import Glibc
import KVM
import Linux
import Machine
import Synchronization

/// The host's end of one bench VM: gives its guest blocks of iterations, and reads the tally around each.
///
/// A block: the guest's OUT to the ready port ends with a request in guest memory; the guest marks the beginning, runs
/// the iterations, marks the end, and is ready again. Between the two marks lie the iterations' exits, the end mark's
/// own, and the other vCPU's arrival at the ready port where it took part.
final class BenchHost: MachineExtension {
    /// Why there is no block.
    enum Stop: Error {
        /// The guest cannot run it on this processor.
        case refused
        /// It did not end in time.
        case stuck
        /// The run has ended.
        case ended
    }

    /// What the tally and the kernel counted in one block, and its samples.
    struct Block {
        var tally: ExitCounts
        var kernel: KernelCounters
        var hardware: ExitCounts?
        /// Between the marks, ns.
        var nanoseconds: UInt64
        /// TSC cycles modulo 2^32.
        var samples: [UInt32]
    }

    private struct Reading {
        var tally: ExitCounts
        var kernel: KernelCounters
        /// When the guest left off, or went on, ns.
        var time: UInt64
    }

    private struct State {
        var request = BenchRequest()
        var begin: Reading?
        var end: Reading?
        var refused = false
        /// vCPUs that are at the ready port.
        var waiting: Set<Int> = []
        var hasEnded = false
        var pinned: Set<Int> = []
    }

    /// Writes to it signal an eventfd that nobody reads.
    static let eventPort: UInt16 = 0x2100
    static let eventAddress: UInt64 = 0xD200_0000
    /// Writes to it pile up in the ring.
    static let coalescedPort: UInt16 = 0x2200
    static let coalescedAddress: UInt64 = 0xD300_0000

    let cpus: Int
    private let haltPoll: UInt64?
    private let pins: [Int32]
    private let event: EventDescriptor
    /// Lets a vCPU leave the ready port.
    private let go: [EventDescriptor]
    /// Told of each vCPU's arrival at the ready port, and of the run's end.
    private let arrivals: EventDescriptor
    /// Told of the other vCPU's arrival, for vCPU 0.
    private let otherArrived: EventDescriptor
    /// Set once, before the guest runs.
    private let attachments = Mutex(nil as MachineParts?)
    private let state = Mutex(State())

    /// - Parameters:
    ///   - haltPoll: how long KVM polls before a halted vCPU sleeps, ns; nil: its default.
    ///   - pins: the host CPU of each vCPU; those that have none go where the scheduler likes.
    init(cpus: Int, haltPoll: UInt64?, pins: [Int32]) throws(MachineError) {
        self.cpus = cpus
        self.haltPoll = haltPoll
        self.pins = pins
        do throws(SystemError) {
            event = try EventDescriptor()
            arrivals = try EventDescriptor()
            otherArrived = try EventDescriptor()
            var go: [EventDescriptor] = []
            for _ in 0..<cpus {
                go.append(try EventDescriptor())
            }
            self.go = go
        } catch {
            throw .system(error)
        }
    }

    /// Gives it the machine, before that runs, and wires up what the guest finds there.
    func attach(_ parts: MachineParts) {
        let vm = parts.vm
        // What a kernel lacks of these makes the guest's access an ordinary one, which the tally shows.
        try? vm.machine.registerIOEvent(event.rawValue, address: UInt64(Self.eventPort), length: 1, in: .port)
        try? vm.machine.registerIOEvent(event.rawValue, address: Self.eventAddress, length: 4, in: .memory)
        try? vm.machine.registerCoalescedZone(address: UInt64(Self.coalescedPort), size: 1, in: .port)
        try? vm.machine.registerCoalescedZone(address: Self.coalescedAddress, size: 4096, in: .memory)
        if let haltPoll {
            try? vm.machine.enable(.haltPoll, haltPoll)
        }
        attachments.withLock { $0 = parts }
    }

    var ports: [(ClosedRange<UInt16>, any Device)] { [(BenchPorts.range, BenchPorts(self))] }
    var registers: [any Device] { [BenchRegisters(self)] }
    var window: UInt64 { BenchLayout.device }

    /// Runs one block. For one thread.
    ///
    /// - Parameters:
    ///   - milliseconds: how long the block may take; the guest's start, before the first one, six times as long.
    ///   - prepare: work on guest memory while no vCPU runs.
    func run(
        _ request: BenchRequest, milliseconds: Int, prepare: (GuestMemory) -> Void = { _ in }
    ) throws(Stop) -> Block {
        try wait(until: deadline(milliseconds: milliseconds * 6))
        guard let memory = attachments.withLock({ $0?.memory }) else { throw .ended }
        prepare(memory)
        let size = MemoryLayout<BenchRequest>.size
        guard let room = memory.slice(BenchLayout.request, count: size) else { throw .ended }
        room.storeBytes(of: request, as: BenchRequest.self)
        let used = request.usesPeer == 0 ? 0..<1 : 0..<2
        state.withLock { state in
            state.request = request
            state.begin = nil
            state.end = nil
            state.refused = false
            state.waiting.subtract(used)
        }
        for index in used.reversed() {
            go[index].signal()
        }
        try wait(until: deadline(milliseconds: milliseconds))
        let (begin, end) = try state.withLock { (state) throws(Stop) in
            guard !state.refused else { throw .refused }
            guard let begin = state.begin, let end = state.end else { throw .ended }
            return (begin, end)
        }
        let kernel = end.kernel.difference(since: begin.kernel)
        let samples = memory.slice(BenchLayout.samples, count: Int(request.iterations) * 4)
        return Block(
            tally: end.tally.difference(since: begin.tally), kernel: kernel,
            hardware: attachments.withLock { $0?.host.exits(kernel) },
            nanoseconds: end.time - min(begin.time, end.time),
            samples: samples.map { Array($0.bindMemory(to: UInt32.self)) } ?? [])
    }

    /// Waits until all vCPUs are at the ready port.
    private func wait(until deadline: UInt64) throws(Stop) {
        while true {
            let (ready, ended) = state.withLock { ($0.waiting.count == cpus, $0.hasEnded) }
            if ended { throw .ended }
            if ready { return }
            let now = monotonicNanoseconds()
            guard now < deadline else { throw .stuck }
            _ = arrivals.wait(milliseconds: Int((deadline - now + 999_999) / 1_000_000))
        }
    }

    /// The run has ended, or is to end: vCPUs at the ready port leave it and stop.
    func end() {
        state.withLock { $0.hasEnded = true }
        arrivals.signal()
        otherArrived.signal()
        go.forEach { $0.signal() }
    }

    // What follows is called by the vCPUs' threads, from the exit path.

    /// A vCPU is at the ready port.
    func ready(_ index: UInt32) -> GuestRequest? {
        guard index < UInt32(cpus) else { return .exit(status: 0) }
        let index = Int(index)
        let isFirst = state.withLock { state in
            state.waiting.insert(index)
            return state.pinned.insert(index).inserted
        }
        if isFirst, index < pins.count {
            _ = vmtally_pin_thread(pins[index])
        }
        arrivals.signal()
        if index == 1 {
            otherArrived.signal()
        }
        _ = go[index].wait(milliseconds: 0)
        return state.withLock { $0.hasEnded } ? .exit(status: 0) : nil
    }

    func mark(_ mark: UInt32) {
        switch mark {
        case BenchLayout.markBegin:
            otherArrived.clear()
            var reading = read()
            reading.time = monotonicNanoseconds()
            state.withLock { $0.begin = reading }
        case BenchLayout.markEnd:
            let time = monotonicNanoseconds()
            if state.withLock({ $0.request.usesPeer == 1 && !$0.waiting.contains(1) && !$0.hasEnded }) {
                _ = otherArrived.wait(milliseconds: 1000)
            }
            var reading = read()
            reading.time = time
            state.withLock { $0.end = reading }
        default:
            state.withLock { $0.refused = true }
        }
    }

    /// What there is to measure of a snapshot of the tally, on the exit path.
    func snapshot() {
        for tally in attachments.withLock({ $0?.tallies }) ?? [] {
            _ = tally.snapshot()
        }
    }

    private func read() -> Reading {
        attachments.withLock { attachments in
            attachments?.ring?.drain { _ in }
            let tally = (attachments?.tallies ?? []).map { $0.snapshot() }.sum() ?? .none(of: .vmm, .kvm)
            return Reading(tally: tally, kernel: attachments?.statistics.read() ?? KernelCounters(), time: 0)
        }
    }
}

/// The ports of a bench VM.
final class BenchPorts: Device {
    static let range = BenchLayout.identityPort...BenchLayout.identityPort + BenchLayout.portCount - 1

    private let host: BenchHost

    init(_ host: BenchHost) {
        self.host = host
    }

    func read(_ offset: UInt32, _ data: UnsafeMutableRawBufferPointer) {
        let value = offset == 0 ? BenchLayout.identity : .max
        for index in data.indices {
            data[index] = UInt8(truncatingIfNeeded: value >> (UInt32(index & 3) * 8))
        }
    }

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        let value = data.value
        switch offset {
        case UInt32(BenchLayout.readyPort - BenchLayout.identityPort): return host.ready(value)
        case UInt32(BenchLayout.markPort - BenchLayout.identityPort): host.mark(value)
        default: break
        }
        return nil
    }
}

/// Its page in memory.
final class BenchRegisters: Device {
    private let host: BenchHost

    init(_ host: BenchHost) {
        self.host = host
    }

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        switch UInt64(offset) {
        case 0: host.mark(data.value)
        case BenchLayout.snapshotOffset: host.snapshot()
        default: break
        }
        return nil
    }
}

extension UnsafeRawBufferPointer {
    /// Up to four bytes, little-endian.
    fileprivate var value: UInt32 {
        prefix(4).reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }
}
