// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc

extension VirtualMachine {
    /// Maps `size` bytes of the caller's memory into the guest at `guestAddress`, or removes the slot with `size` 0
    /// (4.35).
    ///
    /// The memory at `host` must stay mapped until the slot is removed or the machine and its vCPUs are gone. All three
    /// of `guestAddress`, `size` and `host` are page-aligned. For memory with an owner: ``GuestRAM``.
    /// - Parameter flags: `KVM_MEM_LOG_DIRTY_PAGES`, `KVM_MEM_READONLY` (writes then exit as MMIO).
    public func setMemoryRegion(
        slot: UInt32, flags: UInt32 = 0, guestAddress: UInt64, size: UInt64, host: UnsafeMutableRawPointer?
    ) throws(KVMError) {
        var region = kvm_userspace_memory_region(
            slot: slot, flags: flags, guest_phys_addr: guestAddress, memory_size: size,
            userspace_addr: UInt64(UInt(bitPattern: host)))
        try slotSizes.withLock { (sizes) throws(KVMError) in
            try fd.control("KVM_SET_USER_MEMORY_REGION", VMTALLY_KVM_SET_USER_MEMORY_REGION, with: &region)
            sizes.removeAll { $0.slot == slot }
            if size > 0 { sizes.append((slot, size)) }
        }
    }

    /// The pages written since the last call, for a slot with `KVM_MEM_LOG_DIRTY_PAGES`: bit n of the array is the
    /// slot's page n (4.8). Unless `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` is on, reading clears.
    /// - Throws: ENOENT for a slot that has no memory or does not log.
    public func dirtyLog(slot: UInt32) throws(KVMError) -> [UInt64] {
        try slotSizes.withLock { (sizes) throws(KVMError) -> [UInt64] in
            guard let size = sizes.first(where: { $0.slot == slot })?.bytes else {
                throw KVMError(call: "KVM_GET_DIRTY_LOG", errno: ENOENT, remedy: "Slot \(slot) has no memory.")
            }
            let words = Int((size / 4096 + 63) / 64)
            let bitmap = FlexibleBuffer(byteCount: words * 8)
            var request = kvm_dirty_log()
            request.slot = slot
            request.dirty_bitmap = bitmap.base
            try fd.control("KVM_GET_DIRTY_LOG", VMTALLY_KVM_GET_DIRTY_LOG, with: &request)
            return Array(UnsafeBufferPointer(start: bitmap.header(UInt64.self), count: words))
        }
    }
}
