// SPDX-License-Identifier: Apache-2.0
/// A port for each pin of the I/O APIC: writing 1 or 0 raises or lowers its line, as QEMU's pc-testdev has it for
/// programs that test interrupt controllers.
final class InterruptTestPorts: Device {
    static let ports: ClosedRange<UInt16> = 0x2000...0x2017

    private let lines: [InterruptLine]

    init(lines: [InterruptLine]) {
        self.lines = lines
    }

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        if let level = data.first, lines.indices.contains(Int(offset)) {
            lines[Int(offset)](level != 0)
        }
        return nil
    }
}
