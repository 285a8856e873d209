// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import KVM
@testable import Machine

/// One exit as KVM describes it in the run page.
enum SeenExit: Equatable, Sendable {
    /// One OUT, or several elements of a string of them.
    case out(port: UInt16, size: Int, data: [UInt8])
    case input(port: UInt16, size: Int, count: Int)
    case read(UInt64, count: Int)
    case write(UInt64, [UInt8])
    case other(Int32)

    /// KVM_EXIT_*
    var reason: Int32 {
        switch self {
        case .out, .input: KVM_EXIT_IO
        case .read, .write: KVM_EXIT_MMIO
        case .other(let reason): reason
        }
    }

    /// A byte sent to the serial port.
    var isSerial: Bool {
        if case .out(port: 0x3F8, size: 1, _) = self { true } else { false }
    }
}

/// Runs a guest exit by exit, answered by the VMM's own devices, and writes down what KVM says at each.
struct Stepper: ~Copyable {
    private let bare: BareVCPU
    private let bus = PortBus()

    init(_ guest: TinyGuest) throws {
        bare = try BareVCPU(guest)
    }

    /// What the guest sent to its serial port.
    var serial: [UInt8] { bus.output.captured }

    /// Runs until the first exit that is neither a port nor a memory access; at most `limit` exits.
    func run(limit: Int = 10_000) -> [SeenExit] {
        var seen: [SeenExit] = []
        while seen.count < limit {
            let result = bare.vcpu.run()
            guard result == 0 else {
                seen.append(.other(result))
                break
            }
            let exit = Self.describe(bare.vcpu.runPage)
            seen.append(exit)
            switch exit {
            case .out, .input: bus.platform.handlePort(bare.vcpu.runPage)
            case .read, .write: bus.platform.handleMemory(bare.vcpu.runPage)
            case .other: return seen
            }
        }
        return seen
    }

    private static func describe(_ page: UnsafeMutablePointer<kvm_run>) -> SeenExit {
        switch Int32(page.pointee.exit_reason) {
        case KVM_EXIT_IO:
            let io = page.pointee.io
            let size = Int(io.size)
            let count = Int(io.count)
            guard io.direction == UInt8(KVM_EXIT_IO_OUT) else {
                return .input(port: io.port, size: size, count: count)
            }
            let data = UnsafeRawPointer(page) + Int(io.data_offset)
            return .out(
                port: io.port, size: size, data: Array(UnsafeRawBufferPointer(start: data, count: size * count)))
        case KVM_EXIT_MMIO:
            let mmio = page.pointee.mmio
            guard mmio.is_write != 0 else {
                return .read(mmio.phys_addr, count: Int(mmio.len))
            }
            return .write(mmio.phys_addr, withUnsafeBytes(of: mmio.data) { Array($0.prefix(Int(mmio.len))) })
        case let reason:
            return .other(reason)
        }
    }
}
