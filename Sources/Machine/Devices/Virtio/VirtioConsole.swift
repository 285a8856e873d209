import Synchronization

/// A console with one port (virtio 1.2, 5.3).
final class VirtioConsole: VirtioBackend {
    static let deviceID: UInt32 = 3
    static let name = "virtio-console"

    let features: UInt64 = 0
    let queueSizes: [UInt16] = [64, 64]
    let configuration: [UInt8] = []

    static let receiveQueue = 0
    static let receiveLimit = 4096

    private struct State {
        var chain = DescriptorChain()
        /// From outside, for the guest.
        var received: [UInt8] = []
    }

    private let output: SerialOutput
    private let drained: @Sendable () -> Void
    private let state = Mutex(State())

    /// - Parameter drained: called when the guest has taken all that was received.
    init(output: SerialOutput, drained: @escaping @Sendable () -> Void = {}) {
        self.output = output
        self.drained = drained
    }

    func process(_ queue: inout SplitQueue, _ memory: GuestMemory) throws(QueueError) -> Bool {
        // Not withLock: it does not carry a typed error out.
        var chain = state.withLock { state in
            var chain = DescriptorChain()
            swap(&chain, &state.chain)
            return chain
        }
        defer { state.withLock { swap(&chain, &$0.chain) } }
        return queue.index == Self.receiveQueue
            ? try fill(&queue, &chain, memory) : try transmit(&queue, &chain, memory)
    }

    private func transmit(
        _ queue: inout SplitQueue, _ chain: inout DescriptorChain, _ memory: GuestMemory
    ) throws(QueueError) -> Bool {
        var done = false
        while try queue.pop(&chain, memory) {
            for vector in chain.readable {
                output.send(UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len))
            }
            queue.push(chain.head, written: 0, memory)
            done = true
        }
        return done
    }

    private func fill(
        _ queue: inout SplitQueue, _ chain: inout DescriptorChain, _ memory: GuestMemory
    ) throws(QueueError) -> Bool {
        var done = false
        while state.withLock({ !$0.received.isEmpty }), try queue.pop(&chain, memory) {
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
