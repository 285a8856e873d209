/// QEMU's isa-debug-exit: a write of v ends the run with status (v << 1) | 1. Reads as all ones.
final class ExitPort: Device {
    static let port: UInt16 = 0xF4

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        .exit(status: data.reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) } << 1 | 1)
    }
}
