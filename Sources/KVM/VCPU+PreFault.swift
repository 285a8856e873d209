// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc

extension VCPU {
    /// Maps guest physical memory before the guest touches it: KVM_PRE_FAULT_MEMORY (4.143, Linux 6.11).
    ///
    /// It maps as a read would. So that stores do not fault either, the host's pages must be there and writable:
    /// MADV_POPULATE_WRITE.
    ///
    /// - Parameters:
    ///   - address: a multiple of the page size, in a memory slot.
    ///   - size: bytes, likewise.
    /// - Throws: EOPNOTSUPP without nested paging, ENOENT outside of all slots, ENOTTY before Linux 6.11.
    public func preFault(address: UInt64, size: UInt64) throws(KVMError) {
        var range = vmtally_pre_fault_memory(gpa: address, size: size, flags: 0, padding: (0, 0, 0, 0, 0))
        var failures = 0
        while range.size > 0 {
            let left = range.size
            do throws(KVMError) {
                try fd.control("KVM_PRE_FAULT_MEMORY", VMTALLY_KVM_PRE_FAULT_MEMORY, with: &range)
            } catch {
                // Interrupted, or beside a change of the slots: what is done is taken off the range.
                failures = range.size < left ? 0 : failures + 1
                guard error.errno == EINTR || error.errno == EAGAIN, failures < 1000 else { throw error }
            }
        }
    }
}
