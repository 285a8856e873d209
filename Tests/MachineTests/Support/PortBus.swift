// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import KVM
@testable import Machine

/// The VMM's devices as KVM_RUN's exits reach them, by made-up run pages. Needs no KVM.
final class PortBus {
    let output = SerialOutput(.capture)
    let platform: Platform
    private let page: UnsafeMutableRawPointer
    private static let dataOffset = 4096

    init() {
        platform = MachineDevices(bareMetal: output, marker: BootMarker()).platform
        page = .allocate(byteCount: 8192, alignment: 4096)
        page.initializeMemory(as: UInt8.self, repeating: 0, count: 8192)
    }

    deinit {
        page.deallocate()
    }

    private var run: UnsafeMutablePointer<kvm_run> { page.assumingMemoryBound(to: kvm_run.self) }

    private func access(_ port: UInt16, direction: Int32, size: Int, count: Int) {
        run.pointee.exit_reason = UInt32(KVM_EXIT_IO)
        run.pointee.io.direction = UInt8(direction)
        run.pointee.io.port = port
        run.pointee.io.size = UInt8(size)
        run.pointee.io.count = UInt32(count)
        run.pointee.io.data_offset = UInt64(Self.dataOffset)
        platform.handlePort(run)
    }

    /// OUT of one element, or of several of `size` bytes each.
    func out(_ port: UInt16, _ data: [UInt8], size: Int? = nil) {
        (page + Self.dataOffset).copyMemory(from: data, byteCount: data.count)
        let size = size ?? data.count
        access(port, direction: KVM_EXIT_IO_OUT, size: size, count: data.count / size)
    }

    /// IN of `count` elements, out of a page that holds something else before.
    func input(_ port: UInt16, size: Int = 1, count: Int = 1) -> [UInt8] {
        (page + Self.dataOffset).initializeMemory(as: UInt8.self, repeating: 0x5A, count: 4096)
        access(port, direction: KVM_EXIT_IO_IN, size: size, count: count)
        return Array(UnsafeRawBufferPointer(start: page + Self.dataOffset, count: size * count))
    }

    /// A register of the first serial port.
    func uart(_ register: UInt16) -> UInt8 {
        input(0x3F8 + register).first ?? 0
    }

    func uart(_ register: UInt16, _ value: UInt8) {
        out(0x3F8 + register, [value])
    }

    /// A read from memory that is not RAM.
    func readMemory(_ address: UInt64, count: Int) -> [UInt8] {
        run.pointee.exit_reason = UInt32(KVM_EXIT_MMIO)
        run.pointee.mmio.phys_addr = address
        run.pointee.mmio.len = UInt32(count)
        run.pointee.mmio.is_write = 0
        platform.handleMemory(run)
        return withUnsafeBytes(of: run.pointee.mmio.data) { Array($0.prefix(count)) }
    }
}

extension Platform {
    /// What the exit loop and RareExits do with KVM_EXIT_IO, but for the end of a run.
    func handlePort(_ page: UnsafeMutablePointer<kvm_run>) {
        if !portAccess(page), !uartAccess(page) {
            switch VCPU.Exit(page) {
            case .portIn(let access): _ = claimedPortAccess(access, isRead: true)
            case .portOut(let access): _ = claimedPortAccess(access, isRead: false)
            default: break
            }
        }
    }

    /// Likewise with KVM_EXIT_MMIO.
    func handleMemory(_ page: UnsafeMutablePointer<kvm_run>) {
        if !memoryAccess(page) {
            switch VCPU.Exit(page) {
            case .mmioRead(let access): _ = claimedMemoryAccess(access, isRead: true)
            case .mmioWrite(let access): _ = claimedMemoryAccess(access, isRead: false)
            default: break
            }
        }
    }
}
