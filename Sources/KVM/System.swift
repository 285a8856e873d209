// SPDX-License-Identifier: Apache-2.0
import CLinux
import CLinuxKVM
import Glibc
import Linux

/// `/dev/kvm`: what this host offers, and the way to a virtual machine (kvm/api.rst 4.1 to 4.5).
///
/// ```swift
/// let system = try System()
/// let vm = try system.createVM()
/// print(system.check(.maxVCPUs), "vCPUs at most")
/// ```
public struct System: ~Copyable, Sendable {
    /// Of /dev/kvm.
    public let fd: FileDescriptor
    /// Bytes to map of a vCPU's descriptor: `kvm_run`, the port data page and the coalesced ring.
    public let runPageSize: Int

    /// The API version that this module speaks; fixed since Linux 2.6.22.
    public static let apiVersion: Int32 = 12

    /// Opens KVM and checks that it is KVM.
    /// - Throws: `KVMError` with a remedy for whatever keeps a user from `/dev/kvm`.
    public init(path: String = "/dev/kvm") throws(KVMError) {
        let number = Self.openRetrying(path)
        guard number >= 0 else {
            let error = errno
            throw KVMError(call: "open \(path)", errno: error, remedy: Self.remedy(path: path, errno: error))
        }
        let fd = FileDescriptor(owning: number)
        let version: Int32
        do throws(KVMError) {
            version = try fd.control("KVM_GET_API_VERSION", VMTALLY_KVM_GET_API_VERSION)
        } catch {
            // Of another device, or of a kernel that refuses a call that cannot fail.
            guard error.errno == ENOTTY || error.errno == EINVAL else { throw error }
            throw KVMError(call: error.call, errno: error.errno, remedy: "\(path) is not KVM's device.")
        }
        guard version == Self.apiVersion else {
            throw KVMError(
                call: "KVM_GET_API_VERSION", errno: ENOTSUP,
                remedy: "This kernel speaks KVM API \(version), not \(Self.apiVersion): use Linux 2.6.22 or newer.")
        }
        let size = try fd.control("KVM_GET_VCPU_MMAP_SIZE", VMTALLY_KVM_GET_VCPU_MMAP_SIZE)
        guard Int(size) >= MemoryLayout<kvm_run>.size else {
            throw KVMError(
                call: "KVM_GET_VCPU_MMAP_SIZE", errno: EPROTO,
                remedy: "The kernel's vCPU page of \(size) bytes is smaller than struct kvm_run.")
        }
        self.fd = fd
        self.runPageSize = Int(size)
    }

    private init(fd: consuming FileDescriptor, runPageSize: Int) {
        self.fd = fd
        self.runPageSize = runPageSize
    }

    /// The same through a descriptor of its own, for a thread that may outlive this one.
    public func duplicate() throws(KVMError) -> System {
        let number = fcntl(fd.rawValue, F_DUPFD_CLOEXEC, 0)
        guard number >= 0 else { throw KVMError(call: "fcntl(F_DUPFD_CLOEXEC)", errno: errno) }
        return System(fd: FileDescriptor(owning: number), runPageSize: runPageSize)
    }

    /// The value of a capability for this host; 0 when absent, mostly 1 when present, sometimes a limit.
    public func check(_ capability: Capability) -> Int32 {
        fd.check(capability)
    }

    /// What CPUID KVM can give a guest on this host (4.46).
    public func supportedCPUID() throws(KVMError) -> CPUIDTable {
        try CPUIDTable(of: fd, "KVM_GET_SUPPORTED_CPUID", VMTALLY_KVM_GET_SUPPORTED_CPUID, capacity: 128)
    }

    /// CPUID features that KVM emulates though the processor lacks them (4.88).
    public func emulatedCPUID() throws(KVMError) -> CPUIDTable {
        try CPUIDTable(of: fd, "KVM_GET_EMULATED_CPUID", VMTALLY_KVM_GET_EMULATED_CPUID, capacity: 16)
    }

    /// The MSRs that a vCPU has and that belong into its saved state (4.3).
    public func msrIndices() throws(KVMError) -> [UInt32] {
        try msrList("KVM_GET_MSR_INDEX_LIST", VMTALLY_KVM_GET_MSR_INDEX_LIST)
    }

    /// The MSRs that tell a host's features (4.3); `featureMSRs(_:)` reads them.
    public func featureMSRIndices() throws(KVMError) -> [UInt32] {
        try msrList("KVM_GET_MSR_FEATURE_INDEX_LIST", VMTALLY_KVM_GET_MSR_FEATURE_INDEX_LIST)
    }

    /// The values of feature MSRs, in the order of `indices` (4.18).
    /// - Throws: `KVMError` that names the first index that KVM refuses.
    public func featureMSRs(_ indices: [UInt32]) throws(KVMError) -> [UInt64] {
        try fd.readMSRs(indices)
    }

    /// A new machine with no memory and no vCPUs (4.2).
    /// - Parameter type: `KVM_X86_DEFAULT_VM` (0), or one that `KVM_CAP_VM_TYPES` lists.
    public func createVM(type: UInt = 0) throws(KVMError) -> VirtualMachine {
        let number = try fd.control("KVM_CREATE_VM", VMTALLY_KVM_CREATE_VM, type)
        return VirtualMachine(fd: FileDescriptor(owning: number), runPageSize: runPageSize)
    }

    private func msrList(_ name: String, _ request: UInt) throws(KVMError) -> [UInt32] {
        var capacity = 512
        while true {
            let buffer = FlexibleBuffer(header: kvm_msr_list.self, element: UInt32.self, count: capacity)
            let header = buffer.header(kvm_msr_list.self)
            header.pointee.nmsrs = UInt32(capacity)
            do throws(KVMError) {
                try fd.control(name, request, buffer.base)
            } catch {
                // The kernel has written how many there are.
                let wanted = Int(header.pointee.nmsrs)
                guard error.errno == E2BIG, wanted > capacity, wanted <= 1 << 16 else { throw error }
                capacity = wanted
                continue
            }
            let count = min(Int(header.pointee.nmsrs), capacity)
            let indices = buffer.elements(after: kvm_msr_list.self, UInt32.self)
            return Array(UnsafeBufferPointer(start: indices, count: count))
        }
    }

    private static func openRetrying(_ path: String) -> Int32 {
        while true {
            let number = open(path, O_RDWR | O_CLOEXEC)
            if number >= 0 || errno != EINTR { return number }
        }
    }

    /// Whether being in the file's group is enough to open it.
    private static func isOpenToGroup(_ path: String) -> Bool {
        var status = stat()
        let needed: mode_t = 0o060
        return stat(path, &status) == 0 && status.st_mode & needed == needed && status.st_gid != 0
    }

    static func remedy(path: String, errno: Int32) -> String? {
        switch errno {
        case ENOENT, ENODEV, ENXIO:
            """
            KVM is not loaded, or this machine has no hardware virtualization. Load it: `sudo modprobe kvm_intel` \
            (Intel) or `sudo modprobe kvm_amd` (AMD). If that fails, turn on VT-x or SVM in the firmware; inside a \
            virtual machine, turn on nested virtualization on its host; inside a container, pass the device through \
            (`--device \(path)`).
            """
        case EACCES where !isOpenToGroup(path), EPERM where !isOpenToGroup(path):
            """
            \(path) is root's alone: be root, or give it to a group, `sudo groupadd -f kvm && sudo chgrp kvm \(path) && \
            sudo chmod 660 \(path)`, and join that, `sudo usermod -aG kvm "$USER"`. Inside a container, pass the device \
            through (`--device \(path)`).
            """
        case EACCES, EPERM:
            """
            Join the group that owns \(path), then log in again: `sudo usermod -aG kvm "$USER"`. Inside a container, \
            pass the device through (`--device \(path)`).
            """
        default: nil
        }
    }
}

extension FileDescriptor {
    /// `KVM_CHECK_EXTENSION` (4.4), on the system or a machine; an error counts as absent.
    func check(_ capability: Capability) -> Int32 {
        max(0, vmtally_ioctl(rawValue, VMTALLY_KVM_CHECK_EXTENSION, UInt(UInt32(bitPattern: capability.rawValue))))
    }
}
