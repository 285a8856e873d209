// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc
import Synchronization

/// An entropy source (virtio 1.2, 5.4): the host's getrandom(2).
final class VirtioEntropy: VirtioBackend {
    static let deviceID: UInt32 = 4
    static let name = "virtio-rng"

    /// At most this much a request, and a portion, so that no driver keeps us busy for long.
    private static let limit = 64 << 10

    let features: UInt64 = 0
    let queueSizes: [UInt16] = [64]
    let configuration: [UInt8] = []

    func process(_ queue: inout SplitQueue, _ memory: GuestMemory) throws(QueueError) -> QueueProgress {
        var chain = DescriptorChain()
        var progress = QueueProgress()
        var total = 0
        while true {
            guard total < Self.limit else {
                progress.rest = .more
                return progress
            }
            guard try queue.pop(&chain, memory) else { return progress }
            var written = 0
            for vector in chain.writable where written < Self.limit {
                guard let base = vector.iov_base else { continue }
                let count = vmtally_getrandom(base, min(vector.iov_len, Self.limit - written))
                written += max(0, count)
                guard count == vector.iov_len else { break }
            }
            queue.push(chain.head, written: written, memory)
            progress.gaveBack = true
            total += max(written, 64)
        }
    }
}
