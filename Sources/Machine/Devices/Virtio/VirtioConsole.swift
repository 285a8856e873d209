// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// A console with one port (virtio 1.2, 5.3).
final class VirtioConsole: VirtioBackend {
    static let deviceID: UInt32 = 3
    static let name = "virtio-console"

    let features: UInt64 = 0
    let queueSizes: [UInt16] = [64, 64]
    let configuration: [UInt8] = []

    static let receiveQueue = 0
    static let transmitQueue = 1
    static let receiveLimit = 4096

    /// Bytes worked off before others get their turn.
    private static let burst = 64 << 10

    private struct State {
        var chain = DescriptorChain()
        var transmission = Transmission()
        /// From outside, for the guest.
        var received: [UInt8] = []
    }

    /// What the guest is sending: a chain that is not over as long as its reader has no room for the rest.
    private struct Transmission {
        var chain = DescriptorChain()
        var isUnderWay = false
        /// The first of the chain's pieces that is not all sent, and how much of it is.
        var piece = 0
        var sent = 0
    }

    private let output: SerialOutput
    private let drained: @Sendable () -> Void
    private let waitForReader: @Sendable () -> Void
    private let state = Mutex(State())

    /// - Parameters:
    ///   - drained: called when the guest has taken all that was received.
    ///   - waitForReader: called when the output has no room: the transmit queue is to be worked off when it has.
    init(
        output: SerialOutput, drained: @escaping @Sendable () -> Void = {},
        waitForReader: @escaping @Sendable () -> Void = {}
    ) {
        self.output = output
        self.drained = drained
        self.waitForReader = waitForReader
    }

    func process(_ queue: inout SplitQueue, _ memory: GuestMemory) throws(QueueError) -> QueueProgress {
        if queue.index == Self.receiveQueue {
            // Not withLock: it does not carry a typed error out.
            var chain = state.withLock { state in
                var chain = DescriptorChain()
                swap(&chain, &state.chain)
                return chain
            }
            defer { state.withLock { swap(&chain, &$0.chain) } }
            return QueueProgress(gaveBack: try fill(&queue, &chain, memory))
        }
        var transmission = state.withLock { state in
            var transmission = Transmission()
            swap(&transmission, &state.transmission)
            return transmission
        }
        defer { state.withLock { swap(&transmission, &$0.transmission) } }
        return try transmit(&queue, &transmission, memory)
    }

    private func transmit(
        _ queue: inout SplitQueue, _ transmission: inout Transmission, _ memory: GuestMemory
    ) throws(QueueError) -> QueueProgress {
        var progress = QueueProgress()
        var budget = Self.burst
        while true {
            if !transmission.isUnderWay {
                guard try queue.pop(&transmission.chain, memory) else { return progress }
                (transmission.isUnderWay, transmission.piece, transmission.sent) = (true, 0, 0)
            }
            while transmission.piece < transmission.chain.readable.count {
                let vector = transmission.chain.readable[transmission.piece]
                let rest = vector.iov_len - transmission.sent
                let offered = min(rest, budget)
                let taken = output.offer(
                    UnsafeRawBufferPointer(
                        start: vector.iov_base.map { UnsafeRawPointer($0) + transmission.sent }, count: offered))
                transmission.sent += taken
                // Each piece costs something, empty ones too.
                budget -= max(taken, 64)
                if taken < offered {
                    progress.rest = .waiting
                    waitForReader()
                    return progress
                }
                if taken == rest {
                    (transmission.piece, transmission.sent) = (transmission.piece + 1, 0)
                }
                guard budget > 0 else {
                    progress.rest = .more
                    return progress
                }
            }
            transmission.isUnderWay = false
            queue.push(transmission.chain.head, written: 0, memory)
            progress.gaveBack = true
            budget -= 64
            guard budget > 0 else {
                progress.rest = .more
                return progress
            }
        }
    }

    func reset() {
        state.withLock { $0.transmission.isUnderWay = false }
    }

    private func fill(
        _ queue: inout SplitQueue, _ chain: inout DescriptorChain, _ memory: GuestMemory
    ) throws(QueueError) -> Bool {
        var done = false
        var chains = 0
        // Bounded by what was received, but for chains that take nothing of it.
        while chains < Self.receiveLimit, state.withLock({ !$0.received.isEmpty }), try queue.pop(&chain, memory) {
            chains += 1
            let written = state.withLock { state in
                let written = state.received.withUnsafeBytes { chain.write($0) }
                state.received.removeFirst(written)
                return written
            }
            queue.push(chain.head, written: written, memory)
            done = true
        }
        if done, state.withLock({ $0.received.isEmpty }) {
            drained()
        }
        return done
    }

    func wantsNotification(queue: Int) -> Bool {
        queue != Self.receiveQueue || state.withLock { !$0.received.isEmpty }
    }

    var receiveRoom: Int { state.withLock { Self.receiveLimit - $0.received.count } }

    /// Keeps bytes for the guest; the transport is to be told.
    func receive(_ bytes: some Sequence<UInt8>) {
        state.withLock { $0.received.append(contentsOf: bytes) }
    }
}
