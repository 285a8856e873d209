import CLinux
import Glibc
import Synchronization

/// An entropy source (virtio 1.2, 5.4): the host's getrandom(2).
final class VirtioEntropy: VirtioBackend {
    static let deviceID: UInt32 = 4
    static let name = "virtio-rng"

    /// At most this much a request, so that no driver keeps us busy for long.
    private static let limit = 64 << 10

    let features: UInt64 = 0
    let queueSizes: [UInt16] = [64]
    let configuration: [UInt8] = []

    func process(_ queue: inout SplitQueue, _ memory: GuestMemory) throws(QueueError) -> Bool {
        var chain = DescriptorChain()
        var done = false
        while try queue.pop(&chain, memory) {
            var written = 0
            for vector in chain.writable where written < Self.limit {
                guard let base = vector.iov_base else { continue }
                let count = vmtally_getrandom(base, min(vector.iov_len, Self.limit - written))
                written += max(0, count)
                guard count == vector.iov_len else { break }
            }
            queue.push(chain.head, written: written, memory)
            done = true
        }
        return done
    }
}
