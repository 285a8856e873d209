// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc
import Linux
import Synchronization

/// A virtual machine: its memory, its interrupt controllers, its vCPUs. Any thread may use it.
///
/// The kernel keeps the machine until this and all its vCPUs' descriptors are closed.
public struct VirtualMachine: ~Copyable, Sendable {
    /// The machine's descriptor, for ioctls that have no method here.
    public let fd: FileDescriptor
    /// Bytes that a vCPU maps; `KVM_GET_VCPU_MMAP_SIZE`.
    let runPageSize: Int
    /// Bytes of each memory slot, so that a dirty log's buffer is as large as what the kernel writes.
    let slotSizes = Mutex<[(slot: UInt32, bytes: UInt64)]>([])

    init(fd: consuming FileDescriptor, runPageSize: Int) {
        self.fd = fd
        self.runPageSize = runPageSize
    }

    /// The value of a capability for this machine; 0 when absent. May differ from the host's.
    public func check(_ capability: Capability) -> Int32 {
        fd.check(capability)
    }

    /// Turns a capability on, with up to four arguments as kvm/api.rst section 7 defines them for it (4.37).
    public func enable(_ capability: Capability, _ args: UInt64...) throws(KVMError) {
        try fd.enable(capability, args)
    }

    /// Adds vCPU `id`, 0 and up; on x86 the id is its initial APIC id (4.7).
    public func createVCPU(id: Int32) throws(KVMError) -> VCPU {
        let number = try fd.control("KVM_CREATE_VCPU", VMTALLY_KVM_CREATE_VCPU, UInt(bitPattern: Int(id)))
        return try VCPU(
            fd: FileDescriptor(owning: number), runPageSize: runPageSize,
            coalescedPage: Int(check(.coalescedMMIO)), xsaveSize: max(4096, Int(check(.xsave2))))
    }

    /// Which vCPU id starts in the running state, the others waiting for INIT and SIPI; before any vCPU exists (4.41).
    public func setBootVCPU(id: UInt32) throws(KVMError) {
        try fd.control("KVM_SET_BOOT_CPU_ID", VMTALLY_KVM_SET_BOOT_CPU_ID, UInt(id))
    }

    /// The guest's kvmclock, in nanoseconds (4.29).
    public func clock() throws(KVMError) -> kvm_clock_data {
        try fd.read("KVM_GET_CLOCK", VMTALLY_KVM_GET_CLOCK, into: kvm_clock_data())
    }

    /// Sets the guest's kvmclock (4.30). Of `flags` only `KVM_CLOCK_REALTIME` may be set.
    public func setClock(_ clock: kvm_clock_data) throws(KVMError) {
        var clock = clock
        try fd.control("KVM_SET_CLOCK", VMTALLY_KVM_SET_CLOCK, with: &clock)
    }

    /// The machine's own counters (4.133).
    public func statistics() throws(KVMError) -> BinaryStats {
        try BinaryStats(of: fd)
    }
}

extension FileDescriptor {
    /// `KVM_ENABLE_CAP`, on a machine or a vCPU.
    func enable(_ capability: Capability, _ arguments: [UInt64]) throws(KVMError) {
        let call = "KVM_ENABLE_CAP(\(capability.name))"
        guard arguments.count <= 4 else {
            throw KVMError(call: call, errno: E2BIG, remedy: "A capability takes at most 4 arguments.")
        }
        var request = kvm_enable_cap()
        request.cap = UInt32(bitPattern: capability.rawValue)
        withUnsafeMutableBytes(of: &request.args) { room in
            for (index, argument) in arguments.enumerated() {
                room.storeBytes(of: argument, toByteOffset: index * 8, as: UInt64.self)
            }
        }
        try control(call, VMTALLY_KVM_ENABLE_CAP, with: &request)
    }
}
