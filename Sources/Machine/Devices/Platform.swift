import CLinuxKVM
import Glibc

/// What answers a guest's port and memory accesses.
///
/// An address that no device claims reads as all ones and ignores writes, as an ISA bus without a card does. That way
/// takes no lock and counts no reference: two loads and a compare.
final class Platform: @unchecked Sendable {
    /// Ports from here on belong to nobody.
    private static let portLimit = 0x1000

    /// One device and the first address of what it claims.
    private struct Claim {
        let base: UInt16
        let device: any Device
    }

    /// For each port the place of its device in `claims`, counted from 1; 0: nobody's. Not changed after `init`.
    private let owners: UnsafeMutablePointer<UInt8>
    private let claims: [Claim]
    /// A window of 4 KiB slots, one a device.
    private let slots: [any Device]
    private let windowBase: UInt64
    private let windowSize: UInt64

    /// - Parameters:
    ///   - ports: devices and the ports that they claim, below 0x1000, at most 255.
    ///   - slots: devices with registers in memory, 4 KiB each, one after the other from `window` on.
    init(ports: [(ClosedRange<UInt16>, any Device)], slots: [any Device] = [], window: UInt64 = 0) {
        owners = .allocate(capacity: Self.portLimit)
        owners.initialize(repeating: 0, count: Self.portLimit)
        for (index, (range, _)) in ports.enumerated() {
            for port in range {
                owners[Int(port)] = UInt8(index + 1)
            }
        }
        claims = ports.map { Claim(base: $0.0.lowerBound, device: $0.1) }
        self.slots = slots
        windowBase = window
        windowSize = UInt64(slots.count) << 12
    }

    deinit {
        owners.deallocate()
    }

    /// KVM_EXIT_IO (kvm/api.rst 5): `count` accesses of `size` bytes each, their data in the run page.
    ///
    /// - Returns: false when a device claims the port: see ``claimedPortAccess(_:)``.
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
    /// - Returns: false when a device claims the address: see ``claimedMemoryAccess(_:)``.
    @inline(__always)
    func memoryAccess(_ page: UnsafeMutablePointer<kvm_run>) -> Bool {
        guard page.pointee.mmio.phys_addr &- windowBase >= windowSize else { return false }
        if page.pointee.mmio.is_write == 0 {
            vmtally_answer_mmio(page, .max)
        }
        return true
    }

    /// A port access that ``portAccess(_:)`` left.
    func claimedPortAccess(_ page: UnsafeMutablePointer<kvm_run>) -> GuestRequest? {
        let io = page.pointee.io
        let claim = claims[Int(owners[Int(io.port)]) - 1]
        let offset = UInt32(io.port - claim.base)
        let size = Int(io.size)
        var data = UnsafeMutableRawPointer(page) + Int(io.data_offset)
        for _ in 0..<io.count {
            let access = UnsafeMutableRawBufferPointer(start: data, count: size)
            if io.direction == UInt8(KVM_EXIT_IO_IN) {
                claim.device.read(offset, access)
            } else if let request = claim.device.write(offset, UnsafeRawBufferPointer(access)) {
                return request
            }
            data += size
        }
        return nil
    }

    /// A memory access that ``memoryAccess(_:)`` left.
    func claimedMemoryAccess(_ page: UnsafeMutablePointer<kvm_run>) -> GuestRequest? {
        let offset = page.pointee.mmio.phys_addr - windowBase
        let device = slots[Int(offset >> 12)]
        let access = UnsafeMutableRawBufferPointer(
            start: vmtally_mmio_data(page), count: min(8, Int(page.pointee.mmio.len)))
        if page.pointee.mmio.is_write == 0 {
            device.read(UInt32(offset & 0xFFF), access)
            return nil
        }
        return device.write(UInt32(offset & 0xFFF), UnsafeRawBufferPointer(access))
    }

    /// A read that nobody answers.
    @inline(never)
    private func allOnes(_ page: UnsafeMutablePointer<kvm_run>) {
        let io = page.pointee.io
        memset(UnsafeMutableRawPointer(page) + Int(io.data_offset), 0xFF, Int(io.size) &* Int(io.count))
    }
}
