// SPDX-License-Identifier: Apache-2.0
/// A device that claims ports or memory. Any vCPU's thread may call it, several at a time.
package protocol Device: AnyObject, Sendable {
    /// Fills `data`: 1, 2, 4 or 8 bytes from `offset`, which counts from the start of what the device claims.
    func read(_ offset: UInt32, _ data: UnsafeMutableRawBufferPointer)

    /// Takes `data` as the guest wrote it.
    ///
    /// - Returns: the guest's wish that the run end.
    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest?
}

extension Device {
    /// Without anything to read, all ones.
    package func read(_ offset: UInt32, _ data: UnsafeMutableRawBufferPointer) {
        data.initializeMemory(as: UInt8.self, repeating: 0xFF)
    }
}

/// How a guest asks for the end of its run.
package enum GuestRequest: Equatable {
    /// QEMU's isa-debug-exit; the status is (value << 1) | 1.
    case exit(status: UInt32)
    case powerOff
    case reset
    /// Its boot is over, and that is all that was wanted.
    case marker

    var end: RunEnd {
        switch self {
        case .exit(let status): .exited(status: status)
        case .powerOff: .powerOff(status: 0)
        case .reset: .reset
        case .marker: .marker
        }
    }
}

/// A device with registers of one byte each: a wider access reaches as many of them, as on an 8-bit bus.
protocol ByteDevice: Device {
    /// Registers past the last read as all ones and ignore writes.
    static var registerCount: UInt32 { get }

    func read(_ register: UInt32) -> UInt8
    func write(_ register: UInt32, _ value: UInt8) -> GuestRequest?
}

extension ByteDevice {
    func read(_ offset: UInt32, _ data: UnsafeMutableRawBufferPointer) {
        for index in data.indices {
            let register = offset &+ UInt32(truncatingIfNeeded: index)
            data[index] = register < Self.registerCount ? read(register) : 0xFF
        }
    }

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        for index in data.indices {
            let register = offset &+ UInt32(truncatingIfNeeded: index)
            if register < Self.registerCount, let request = write(register, data[index]) {
                return request
            }
        }
        return nil
    }
}

/// Raises (true) or lowers an interrupt line.
typealias InterruptLine = @Sendable (Bool) -> Void
