// SPDX-License-Identifier: Apache-2.0
import CLinux
import CLinuxKVM
import Glibc
import Linux

/// A virtual processor. Its ioctls belong to one thread at a time; only `requestExit(runPage:)` is for others.
///
/// ```swift
/// let vcpu = try vm.createVCPU(id: 0)
/// try vcpu.setCPUID(try system.supportedCPUID())
/// while try vcpu.run({ exit in
///     if case .halt = exit { false } else { true }
/// }) {}
/// ```
public struct VCPU: ~Copyable, @unchecked Sendable {
    /// The vCPU's descriptor, for ioctls that have no method here.
    public let fd: FileDescriptor
    /// The structure shared with the kernel: what to do on the next `run()`, and why the last one returned (5).
    /// Valid as long as this vCPU lives.
    public let runPage: UnsafeMutablePointer<kvm_run>
    /// Bytes mapped at `runPage`. Port data lies at `io.data_offset` inside it.
    public let runPageSize: Int
    /// Page of the coalesced ring in the mapping; 0 when there is none.
    let coalescedPage: Int
    /// Bytes of an XSAVE area on this machine.
    let xsaveSize: Int

    init(fd: consuming FileDescriptor, runPageSize: Int, coalescedPage: Int, xsaveSize: Int) throws(KVMError) {
        let mapping = mmap(nil, runPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.rawValue, 0)
        guard let mapping, mapping != MAP_FAILED else { throw KVMError(call: "mmap of a vCPU", errno: errno) }
        self.fd = fd
        self.runPage = mapping.assumingMemoryBound(to: kvm_run.self)
        self.runPageSize = runPageSize
        self.coalescedPage = coalescedPage
        self.xsaveSize = xsaveSize
    }

    deinit {
        munmap(runPage, runPageSize)
    }

    /// Runs the guest until it exits to us: one `KVM_RUN` and nothing else, for this is the hot path (4.10).
    ///
    /// Returns 0 with `runPage.pointee.exit_reason` filled, or -errno: -EINTR after a signal or `requestExit` (nothing
    /// is lost, call again), -EAGAIN from a vCPU that waits for its start-up IPI. After any error `exit_reason` says
    /// nothing about this call (but -EFAULT with KVM_EXIT_MEMORY_FAULT does).
    @inlinable
    public func run() -> Int32 {
        vmtally_ioctl(fd.rawValue, VMTALLY_KVM_RUN, 0)
    }

    /// Makes the next or the present `run()` return -EINTR without running guest code, until `cancelExitRequest`.
    ///
    /// Safe on any thread as long as the vCPU lives. A vCPU that is inside the guest looks at the flag only on its way
    /// in: from another thread set the flag first, then send the vCPU's thread a signal that has a handler and that the
    /// thread does not block, as threads of libdispatch and of Swift's concurrency do (kvm/api.rst 5).
    public static func requestExit(runPage: UnsafeMutablePointer<kvm_run>) {
        vmtally_set_immediate_exit(runPage, 1)
    }

    /// Takes `requestExit` back.
    ///
    /// With the flag set, `run()` still finishes a pending port or MMIO access first: that brings a vCPU's registers up
    /// to date before they are read after KVM_EXIT_IO.
    public static func cancelExitRequest(runPage: UnsafeMutablePointer<kvm_run>) {
        vmtally_set_immediate_exit(runPage, 0)
    }

    /// Turns on a capability of this vCPU alone, as `KVM_CAP_HYPERV_SYNIC` (4.37).
    public func enable(_ capability: Capability, _ args: UInt64...) throws(KVMError) {
        try fd.enable(capability, args)
    }

    /// This vCPU's own counters (4.133).
    public func statistics() throws(KVMError) -> BinaryStats {
        try BinaryStats(of: fd)
    }
}
