// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc
import Linux

extension VCPU {
    /// The values of MSRs, in the order of `indices` (4.18).
    ///
    /// ```swift
    /// let lstar: UInt32 = 0xC000_0082
    /// try vcpu.setMSRs([(index: lstar, value: 0xFFFF_8000_0000_1000)])
    /// let entry = try vcpu.msrs([lstar])[0]
    /// ```
    ///
    /// - Throws: `KVMError` that names the first index that KVM refuses.
    public func msrs(_ indices: [UInt32]) throws(KVMError) -> [UInt64] {
        try fd.readMSRs(indices)
    }

    /// Writes MSRs in order (4.19).
    /// - Throws: `KVMError` that names the first index that KVM refuses; those before it are written.
    public func setMSRs(_ values: [(index: UInt32, value: UInt64)]) throws(KVMError) {
        let entries = values.map { kvm_msr_entry(index: $0.index, reserved: 0, data: $0.value) }
        _ = try fd.transferMSRs("KVM_SET_MSRS", VMTALLY_KVM_SET_MSRS, entries)
    }
}

extension FileDescriptor {
    func readMSRs(_ indices: [UInt32]) throws(KVMError) -> [UInt64] {
        let entries = indices.map { kvm_msr_entry(index: $0, reserved: 0, data: 0) }
        return try transferMSRs("KVM_GET_MSRS", VMTALLY_KVM_GET_MSRS, entries).map(\.data)
    }

    /// KVM stops at the first MSR that it refuses and returns how many it did. It takes at most 255 at a time
    /// (MAX_IO_MSRS in msr_io(), arch/x86/kvm/x86.c).
    fileprivate func transferMSRs(
        _ name: String, _ request: UInt, _ entries: [kvm_msr_entry]
    ) throws(KVMError) -> [kvm_msr_entry] {
        var result: [kvm_msr_entry] = []
        result.reserveCapacity(entries.count)
        while result.count < entries.count {
            let chunk = entries[result.count..<min(entries.count, result.count + 255)]
            let buffer = FlexibleBuffer(header: kvm_msrs.self, element: kvm_msr_entry.self, count: chunk.count)
            buffer.header(kvm_msrs.self).pointee.nmsrs = UInt32(chunk.count)
            let room = buffer.elements(after: kvm_msrs.self, kvm_msr_entry.self)
            for (index, entry) in chunk.enumerated() { (room + index).initialize(to: entry) }
            let done = min(Int(try control(name, request, buffer.base)), chunk.count)
            result.append(contentsOf: UnsafeBufferPointer(start: room, count: done))
            guard done == chunk.count else {
                let refused = "0x" + String(entries[result.count].index, radix: 16)
                throw KVMError(
                    call: "\(name)(\(refused))", errno: EINVAL,
                    remedy: "KVM refused MSR \(refused), after \(result.count) of \(entries.count).")
            }
        }
        return result
    }
}
