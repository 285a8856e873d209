import CLinuxKVM
import Glibc

/// What answers a guest's port and memory accesses: one UART, the exit port, and nothing else.
///
/// An address that no device claims reads as all ones and ignores writes, as an ISA bus without a card does.
final class Platform: Sendable {
    /// QEMU's isa-debug-exit: a write of v ends the run with status (v << 1) | 1.
    static let exitPort: UInt16 = 0xF4

    private let uart: UART16550

    init(output: SerialOutput) {
        uart = UART16550(output: output)
    }

    /// KVM_EXIT_IO (kvm/api.rst 5): `count` accesses of `size` bytes each, their data in the run page.
    ///
    /// - Returns: false for a write to the exit port, which is for the caller: see ``exitStatus(_:)``.
    @inline(__always)
    func portAccess(_ page: UnsafeMutablePointer<kvm_run>) -> Bool {
        let io = page.pointee.io
        if UART16550.ports.contains(io.port) {
            uartAccess(page)
        } else if io.direction == UInt8(KVM_EXIT_IO_IN) {
            allOnes(page)
        } else {
            return io.port != Self.exitPort
        }
        return true
    }

    /// KVM_EXIT_MMIO: up to 8 bytes in the run page. No device has registers in memory yet.
    @inline(__always)
    func memoryAccess(_ page: UnsafeMutablePointer<kvm_run>) {
        if page.pointee.mmio.is_write == 0 {
            vmtally_answer_mmio(page, .max)
        }
    }

    /// A 2- or 4-byte access reaches as many registers, one byte each, as on an 8-bit bus.
    @inline(never)
    private func uartAccess(_ page: UnsafeMutablePointer<kvm_run>) {
        let io = page.pointee.io
        let data = UnsafeMutableRawPointer(page) + Int(io.data_offset)
        for access in 0..<Int(io.count) {
            for byte in 0..<Int(io.size) {
                let port = io.port &+ UInt16(byte)
                let place = data + access * Int(io.size) + byte
                let claimed = UART16550.ports.contains(port)
                if io.direction == UInt8(KVM_EXIT_IO_IN) {
                    place.storeBytes(of: claimed ? uart.read(port & 7) : 0xFF, as: UInt8.self)
                } else if claimed {
                    uart.write(port & 7, place.load(as: UInt8.self))
                }
            }
        }
    }

    /// A read that nobody answers.
    @inline(never)
    private func allOnes(_ page: UnsafeMutablePointer<kvm_run>) {
        let io = page.pointee.io
        memset(UnsafeMutableRawPointer(page) + Int(io.data_offset), 0xFF, Int(io.size) &* Int(io.count))
    }

    /// The status that a write to the exit port ends the run with.
    static func exitStatus(_ page: UnsafeMutablePointer<kvm_run>) -> UInt32 {
        let io = page.pointee.io
        let data = UnsafeRawBufferPointer(start: UnsafeRawPointer(page) + Int(io.data_offset), count: Int(io.size))
        return data.reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) } << 1 | 1
    }
}
