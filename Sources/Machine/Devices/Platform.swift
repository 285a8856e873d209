// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc
import KVM

/// What answers a guest's port and memory accesses.
///
/// An address that no device claims reads as all ones and ignores writes, as an ISA bus without a card does. That way
/// takes no lock and counts no reference: two loads and a compare.
final class Platform: @unchecked Sendable {
    /// Ports from here on belong to nobody.
    private static let portLimit = 0x2020

    /// For each port the number of its device in `claims`, counted from 1; 0: nobody's. Not changed after `init`.
    private let owners: UnsafeMutablePointer<UInt8>
    private let claims: DeviceTable
    /// A window of 4 KiB slots, one a device.
    private let slots: DeviceTable
    private let windowBase: UInt64
    private let windowSize: UInt64
    /// Kept by `claims`, and used without a retain.
    private let uart: Unmanaged<UART16550>?

    /// - Parameters:
    ///   - ports: devices and the ports that they claim, below 0x2020, at most 255.
    ///   - slots: devices with registers in memory, 4 KiB each, one after the other from `window` on.
    init(ports: [(ClosedRange<UInt16>, any Device)], slots: [any Device] = [], window: UInt64 = 0) {
        owners = .allocate(capacity: Self.portLimit)
        owners.initialize(repeating: 0, count: Self.portLimit)
        for (index, (range, _)) in ports.enumerated() {
            for port in range {
                owners[Int(port)] = UInt8(index + 1)
            }
        }
        claims = DeviceTable(ports.map { ($0.0.lowerBound, $0.1) })
        self.slots = DeviceTable(slots.map { (0, $0) })
        windowBase = window
        windowSize = UInt64(slots.count) << 12
        uart = ports.lazy.compactMap { $0.1 as? UART16550 }.first.map(Unmanaged.passUnretained)
    }

    deinit {
        owners.deallocate()
        claims.deallocate()
        slots.deallocate()
    }

    /// KVM_EXIT_IO (kvm/api.rst 5): `count` accesses of `size` bytes each, their data in the run page.
    ///
    /// - Returns: false when a device claims the port: see ``claimedPortAccess(_:isRead:)``.
    @inline(__always)
    func portAccess(_ page: UnsafeMutablePointer<kvm_run>) -> Bool {
        let io = page.pointee.io
        guard Int(io.port) >= Self.portLimit || owners[Int(io.port)] == 0 else { return false }
        if io.direction == UInt8(KVM_EXIT_IO_IN) {
            allOnes(page)
        }
        return true
    }

    /// KVM_EXIT_MMIO: up to 8 bytes in the run page.
    ///
    /// - Returns: false when a device claims the address: see ``claimedMemoryAccess(_:isRead:)``.
    @inline(__always)
    func memoryAccess(_ page: UnsafeMutablePointer<kvm_run>) -> Bool {
        guard page.pointee.mmio.phys_addr &- windowBase >= windowSize else { return false }
        if page.pointee.mmio.is_write == 0 {
            vmtally_answer_mmio(page, .max)
        }
        return true
    }

    /// What most exits of a guest with a serial console are: bytes written to the UART's data register.
    ///
    /// - Returns: false for any other access.
    @inline(never)
    func uartAccess(_ page: UnsafeMutablePointer<kvm_run>) -> Bool {
        let io = page.pointee.io
        guard io.port == UART16550.ports.lowerBound, io.size == 1, io.direction == UInt8(KVM_EXIT_IO_OUT), let uart
        else { return false }
        let bytes = UnsafeRawBufferPointer(start: UnsafeRawPointer(page) + Int(io.data_offset), count: Int(io.count))
        uart._withUnsafeGuaranteedRef { uart in
            for byte in bytes {
                uart.transmit(byte)
            }
        }
        return true
    }

    /// One or more accesses to a port, to its device if it has one.
    func claimedPortAccess(_ access: borrowing VCPU.PortAccess, isRead: Bool) -> GuestRequest? {
        guard Int(access.port) < Self.portLimit, owners[Int(access.port)] != 0 else {
            if isRead { access.answer(.max) }
            return nil
        }
        let (port, size, data) = (access.port, access.size, access.data)
        return claims.with(Int(owners[Int(port)]) - 1) { base, device in
            let offset = UInt32(port - base)
            for start in stride(from: 0, to: data.count, by: size) {
                let bytes = UnsafeMutableRawBufferPointer(rebasing: data[start..<min(start + size, data.count)])
                if isRead {
                    device.read(offset, bytes)
                } else if let request = device.write(offset, UnsafeRawBufferPointer(bytes)) {
                    return request
                }
            }
            return nil
        }
    }

    /// An access to memory that is not RAM, to its device if it has one.
    func claimedMemoryAccess(_ access: borrowing VCPU.MemoryAccess, isRead: Bool) -> GuestRequest? {
        let offset = access.address &- windowBase
        guard offset < windowSize else {
            if isRead { access.answer(.max) }
            return nil
        }
        let data = access.data
        return slots.with(Int(offset >> 12)) { _, device in
            guard isRead else { return device.write(UInt32(offset & 0xFFF), UnsafeRawBufferPointer(data)) }
            device.read(UInt32(offset & 0xFFF), data)
            return nil
        }
    }

    /// A read that nobody answers.
    @inline(never)
    private func allOnes(_ page: UnsafeMutablePointer<kvm_run>) {
        let io = page.pointee.io
        memset(UnsafeMutableRawPointer(page) + Int(io.data_offset), 0xFF, Int(io.size) &* Int(io.count))
    }
}

/// Devices by number. Whoever asks one counts no reference: the table keeps them all until ``deallocate()``.
private struct DeviceTable: @unchecked Sendable {
    /// An object of its own, for a constant of an object that is known to live is used without a retain.
    private final class Entry {
        /// The first address of what the device claims.
        let base: UInt16
        let device: any Device

        init(_ base: UInt16, _ device: any Device) {
            self.base = base
            self.device = device
        }
    }

    private let entries: UnsafeMutableBufferPointer<Unmanaged<Entry>>

    init(_ devices: [(UInt16, any Device)]) {
        entries = .allocate(capacity: devices.count)
        _ = entries.initialize(from: devices.map { Unmanaged.passRetained(Entry($0.0, $0.1)) })
    }

    func deallocate() {
        entries.forEach { $0.release() }
        entries.deallocate()
    }

    @inline(__always)
    func with(_ index: Int, _ body: (UInt16, any Device) -> GuestRequest?) -> GuestRequest? {
        guard entries.indices.contains(index) else { return nil }
        return entries[index]._withUnsafeGuaranteedRef { body($0.base, $0.device) }
    }
}
