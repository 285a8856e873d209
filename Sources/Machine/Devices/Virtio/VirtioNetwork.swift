// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc
import Linux
import Synchronization

/// A network card on a tap interface (virtio 1.2, 5.1), without offloads: plain Ethernet frames go both ways.
final class VirtioNetwork: VirtioBackend {
    static let deviceID: UInt32 = 1
    static let name = "virtio-net"

    static let receiveQueue = 0
    /// `struct virtio_net_hdr`, of which only num_buffers is used.
    private static let headerSize = 12
    private static let frameLimit = 65536
    /// Frames worked off before others get their turn; the rest follows at once.
    private static let burst = 256

    private static let hasAddress: UInt64 = 1 << 5

    private struct State {
        var chain = DescriptorChain()
        /// Header and frame that wait for a buffer of the guest; empty: none.
        var pending: [UInt8] = []
    }

    let features = hasAddress
    let queueSizes: [UInt16] = [256, 256]
    let configuration: [UInt8]
    /// The interface. Readable: a frame has come.
    private let file: FileDescriptor

    var descriptor: Int32 { file.rawValue }

    private let state = Mutex(State())
    private let drained: @Sendable () -> Void

    /// - Parameters:
    ///   - descriptor: gives and takes a frame a call; owned from here on.
    ///   - drained: called when the descriptor is to be waited for.
    init(descriptor file: consuming FileDescriptor, index: Int, drained: @escaping @Sendable (Int32) -> Void) {
        let descriptor = file.rawValue
        self.file = file
        self.drained = { drained(descriptor) }
        // Locally administered; QEMU's prefix for guests is another.
        configuration = [0x02, 0x56, 0x4D, 0x54, 0x00, UInt8(truncatingIfNeeded: index)]
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
    }

    /// Opens a tap interface; one that does not exist is made, given the right to.
    ///
    /// - Throws: ``MachineError/system(_:)``.
    static func openTap(_ name: String) throws(MachineError) -> FileDescriptor {
        let text = Array(name.utf8)
        guard !text.isEmpty, text.count < 16, !text.contains(0) else {
            throw .refused(.network, "'\(name)' is not an interface", "give a name of 1 to 15 bytes")
        }
        let file = try lifted { () throws(SystemError) in try FileDescriptor(opening: "/dev/net/tun", O_RDWR) }
        // struct ifreq: name, then flags IFF_TAP | IFF_NO_PI.
        var request = text + [UInt8](repeating: 0, count: 40 - text.count)
        request[16] = 0x02
        request[17] = 0x10
        let tunSetInterface: UInt = 0x4004_54CA
        let result = request.withUnsafeMutableBytes {
            vmtally_ioctl_pointer(file.rawValue, tunSetInterface, $0.baseAddress)
        }
        guard result >= 0 else { throw .system(SystemError("tap interface \(name)", errno: -result)) }
        return file
    }

    func process(_ queue: inout SplitQueue, _ memory: GuestMemory) throws(QueueError) -> QueueProgress {
        var state = state.withLock { kept in
            var state = State()
            swap(&state, &kept)
            return state
        }
        defer { self.state.withLock { swap(&state, &$0) } }
        return queue.index == Self.receiveQueue
            ? QueueProgress(gaveBack: try receive(&queue, &state, memory))
            : try transmit(&queue, &state.chain, memory)
    }

    func wantsNotification(queue: Int) -> Bool {
        queue != Self.receiveQueue || state.withLock { !$0.pending.isEmpty }
    }

    /// A frame that came before the driver has been reported, to nobody: from here on one can be taken.
    func activate(features: UInt64) {
        drained()
    }

    func reset() {
        state.withLock { $0.pending.removeAll() }
    }

    private func receive(
        _ queue: inout SplitQueue, _ state: inout State, _ memory: GuestMemory
    ) throws(QueueError) -> Bool {
        var done = false
        for _ in 0..<Self.burst {
            if state.pending.isEmpty {
                var frame = [UInt8](repeating: 0, count: Self.headerSize + Self.frameLimit)
                frame[10] = 1  // num_buffers
                let count = frame.withUnsafeMutableBytes {
                    read(descriptor, $0.baseAddress.map { $0 + Self.headerSize }, Self.frameLimit)
                }
                guard count > 0 else { break }
                state.pending = Array(frame.prefix(Self.headerSize + count))
            }
            // Without a buffer the frame waits until the driver notifies this queue.
            guard try queue.pop(&state.chain, memory) else { return done }
            // A frame that does not fit is cut off, as the driver gave too little.
            let written = state.pending.withUnsafeBytes { state.chain.write($0) }
            queue.push(state.chain.head, written: written, memory)
            state.pending.removeAll(keepingCapacity: true)
            done = true
        }
        drained()
        return done
    }

    private func transmit(
        _ queue: inout SplitQueue, _ chain: inout DescriptorChain, _ memory: GuestMemory
    ) throws(QueueError) -> QueueProgress {
        var progress = QueueProgress()
        for _ in 0..<Self.burst {
            guard try queue.pop(&chain, memory) else { return progress }
            var header: (UInt64, UInt32) = (0, 0)
            let complete = withUnsafeMutableBytes(of: &header) {
                chain.read(into: UnsafeMutableRawBufferPointer(rebasing: $0[0..<Self.headerSize]))
            }
            guard complete else {
                throw queue.error("descriptor \(chain.head): the packet is shorter than its header")
            }
            // An interface that is down or full loses the frame, as a cable does.
            if chain.readableCount <= Self.frameLimit, !chain.readable.isEmpty {
                _ = writev(descriptor, chain.readable, Int32(min(chain.readable.count, 1024)))
            }
            queue.push(chain.head, written: 0, memory)
            progress.gaveBack = true
        }
        progress.rest = .more
        return progress
    }
}
