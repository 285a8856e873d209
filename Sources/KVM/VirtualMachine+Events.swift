// SPDX-License-Identifier: Apache-2.0
import CLinux
import CLinuxKVM
import Glibc

/// Ports or physical memory.
public enum AddressSpace: Sendable {
    case port, memory
}

/// Guest accesses and interrupts that need no exit to userspace: through eventfds, and through the coalesced ring.
extension VirtualMachine {
    /// Makes guest writes to `address` signal an eventfd instead of exiting (4.59).
    ///
    /// ```swift
    /// let notified = eventfd(0, Int32(EFD_CLOEXEC))
    /// try vm.registerIOEvent(notified, address: 0xD000_0050, length: 4, in: .memory)
    /// ```
    ///
    /// - Parameters:
    ///   - length: bytes of the write: 1, 2, 4, 8, or 0 for any (memory and, since Linux 4.4, ports).
    ///   - match: only writes of this value; the others exit.
    public func registerIOEvent(
        _ event: Int32, address: UInt64, length: UInt32, in space: AddressSpace, match: UInt64? = nil
    ) throws(KVMError) {
        try setIOEvent(event, address, length, space, match, flags: 0)
    }

    /// Undoes `registerIOEvent` with the same arguments.
    public func deregisterIOEvent(
        _ event: Int32, address: UInt64, length: UInt32, in space: AddressSpace, match: UInt64? = nil
    ) throws(KVMError) {
        try setIOEvent(event, address, length, space, match, flags: 1 << UInt32(kvm_ioeventfd_flag_nr_deassign))
    }

    private func setIOEvent(
        _ event: Int32, _ address: UInt64, _ length: UInt32, _ space: AddressSpace, _ match: UInt64?, flags: UInt32
    ) throws(KVMError) {
        var request = kvm_ioeventfd()
        request.fd = event
        request.addr = address
        request.len = length
        request.flags = flags
        if space == .port { request.flags |= 1 << UInt32(kvm_ioeventfd_flag_nr_pio) }
        if let match {
            request.flags |= 1 << UInt32(kvm_ioeventfd_flag_nr_datamatch)
            request.datamatch = match
        }
        try fd.control("KVM_IOEVENTFD", VMTALLY_KVM_IOEVENTFD, with: &request)
    }

    /// Makes a signal of an eventfd raise an interrupt (4.75); needs in-kernel chips.
    /// - Parameter resample: for a level-triggered line: the eventfd that KVM signals when the guest acknowledges.
    public func registerIRQFD(_ event: Int32, gsi: UInt32, resample: Int32? = nil) throws(KVMError) {
        var request = kvm_irqfd()
        request.fd = UInt32(bitPattern: event)
        request.gsi = gsi
        if let resample {
            request.flags = UInt32(KVM_IRQFD_FLAG_RESAMPLE)
            request.resamplefd = UInt32(bitPattern: resample)
        }
        try fd.control("KVM_IRQFD", VMTALLY_KVM_IRQFD, with: &request)
    }

    /// Undoes `registerIRQFD`.
    public func deregisterIRQFD(_ event: Int32, gsi: UInt32) throws(KVMError) {
        var request = kvm_irqfd()
        request.fd = UInt32(bitPattern: event)
        request.gsi = gsi
        request.flags = UInt32(KVM_IRQFD_FLAG_DEASSIGN)
        try fd.control("KVM_IRQFD", VMTALLY_KVM_IRQFD, with: &request)
    }

    /// Lets guest writes to `size` bytes from `address` pile up in a ring, without an exit until it is full (4.116).
    /// `VCPU.drainCoalescedWrites(_:)` empties it.
    public func registerCoalescedZone(address: UInt64, size: UInt32, in space: AddressSpace) throws(KVMError) {
        var zone = Self.zone(address, size, space)
        try fd.control("KVM_REGISTER_COALESCED_MMIO", VMTALLY_KVM_REGISTER_COALESCED_MMIO, with: &zone)
    }

    /// Undoes `registerCoalescedZone`.
    public func deregisterCoalescedZone(address: UInt64, size: UInt32, in space: AddressSpace) throws(KVMError) {
        var zone = Self.zone(address, size, space)
        try fd.control("KVM_UNREGISTER_COALESCED_MMIO", VMTALLY_KVM_UNREGISTER_COALESCED_MMIO, with: &zone)
    }

    private static func zone(_ address: UInt64, _ size: UInt32, _ space: AddressSpace) -> kvm_coalesced_mmio_zone {
        var zone = kvm_coalesced_mmio_zone()
        zone.addr = address
        zone.size = size
        zone.pio = space == .port ? 1 : 0
        return zone
    }
}

/// A guest write that did not exit at once.
public struct CoalescedWrite: Equatable, Sendable {
    /// Ports, or memory.
    public let space: AddressSpace
    /// The port, or the guest physical address.
    public let address: UInt64
    /// Little-endian, 1 to 8 bytes.
    public let data: [UInt8]
}

extension VCPU {
    /// Where the machine's coalesced writes pile up, as mapped with this vCPU; nil without that capability.
    public var coalescedRing: CoalescedRing? {
        let pageSize = CoalescedRing.pageSize
        guard coalescedPage > 0, (coalescedPage + 1) * pageSize <= runPageSize else { return nil }
        return CoalescedRing(base: UnsafeMutableRawPointer(runPage) + coalescedPage * pageSize)
    }

    /// Takes the coalesced writes of the whole machine in order, oldest first; how many. One thread at a time.
    @discardableResult
    public func drainCoalescedWrites(_ body: (CoalescedWrite) -> Void) -> Int {
        coalescedRing?.drain(body) ?? 0
    }
}

/// The ring of a machine's coalesced writes. Valid as long as the vCPU that it was mapped with.
public struct CoalescedRing: @unchecked Sendable {
    fileprivate static let pageSize = 4096

    fileprivate let base: UnsafeMutableRawPointer

    /// Takes the writes in order, oldest first; how many. One thread at a time.
    @discardableResult
    public func drain(_ body: (CoalescedWrite) -> Void) -> Int {
        let pageSize = Self.pageSize
        let ring = base.assumingMemoryBound(to: UInt32.self)
        let headerSize = MemoryLayout<kvm_coalesced_mmio_ring>.size
        let writes = (base + headerSize).assumingMemoryBound(to: kvm_coalesced_mmio.self)
        // KVM_COALESCED_MMIO_MAX
        let capacity = UInt32((pageSize - headerSize) / MemoryLayout<kvm_coalesced_mmio>.stride)

        // The first word is ours, the second the kernel's.
        var first = ring[0] % capacity
        let last = vmtally_load_acquire(ring + 1) % capacity
        var count = 0
        while first != last {
            let write = writes[Int(first)]
            let data = withUnsafeBytes(of: write.data) { Array($0.prefix(Int(min(write.len, 8)))) }
            body(CoalescedWrite(space: write.pio == 1 ? .port : .memory, address: write.phys_addr, data: data))
            first = (first + 1) % capacity
            vmtally_store_release(ring, first)
            count += 1
        }
        return count
    }
}
