// SPDX-License-Identifier: Apache-2.0
/// QEMU's isa-debug-exit: a write of v ends the run with status (v << 1) | 1. Reads as all ones.
final class ExitPort: Device {
    static let port: UInt16 = 0xF4

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        .exit(status: data.reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) } << 1 | 1)
    }
}

/// Port 0xF6: the byte written last is the status of a run that ends by the guest's power-off. Reads as all ones.
final class StatusPort: Device {
    static let port: UInt16 = ExitPort.port + 2

    private let control: RunControl

    init(_ control: RunControl) {
        self.control = control
    }

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        if let status = data.first { control.guestStatus = status }
        return nil
    }
}
