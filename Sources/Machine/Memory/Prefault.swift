// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVM
import Linux

/// What became of the wish that the guest's RAM be there before its first instruction.
public enum Prefault: Equatable, Sendable {
    /// Pages of the host, mapped into the guest by KVM_PRE_FAULT_MEMORY (Linux 6.11).
    case mapped
    /// Pages of the host, which the guest's first touches still have to map; and why no more.
    case populated(String)
}

extension GuestMemory {
    /// Gives every page of RAM a page of the host.
    ///
    /// - Throws: ``MachineError/refused(_:)`` when there are not enough, or before Linux 5.14.
    func populate() throws(MachineError) {
        let populateWrite: Int32 = 23  // MADV_POPULATE_WRITE, which Debian 12's C library does not name
        let chunk: UInt64 = 64 << 20
        for start in stride(from: 0, to: size, by: Int(chunk)) {
            let count = Int(min(chunk, size - start))
            var error: Int32 = 0
            repeat {
                error = madvise(host + Int(start), count, populateWrite) == 0 ? 0 : errno
            } while error == EINTR || error == EAGAIN
            guard error == 0 else {
                throw .refused(
                    .memory, "cannot be populated: \(describe(errno: error))",
                    error == EINVAL ? "that takes Linux 5.14" : "give the guest less")
            }
        }
    }

    /// Has KVM map all of RAM, which must be populated: pages of the host that are not there yet would be mapped read-only.
    ///
    /// - Returns: why it did not; nil when it did.
    func map(into vcpu: borrowing VCPU) -> String? {
        do throws(KVMError) {
            try vcpu.preFault(address: 0, size: lowSize)
            if size > lowSize {
                try vcpu.preFault(address: Self.holeEnd, size: size - lowSize)
            }
            return nil
        } catch {
            return "\(error)"
        }
    }
}
