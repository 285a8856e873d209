// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// QEMU's fw_cfg in ports, the old interface without DMA (QEMU, docs/specs/fw_cfg.rst): how images made for QEMU's
/// `-kernel` learn of processors and memory.
final class FirmwareConfiguration: Device {
    /// Selector (16 bits) and data (8 bits).
    static let ports: ClosedRange<UInt16> = 0x510...0x511

    private enum Key {
        static let signature: UInt16 = 0x00
        static let id: UInt16 = 0x01
        static let ramSize: UInt16 = 0x03
        static let cpus: UInt16 = 0x05
        static let maximumCPUs: UInt16 = 0x0F
        static let directory: UInt16 = 0x19
        static let firstFile: UInt16 = 0x20
    }

    private struct State {
        var key: UInt16 = 0
        var offset = 0
    }

    private let items: [UInt16: [UInt8]]
    private let state = Mutex(State())

    /// - Parameter files: names of up to 55 bytes and contents.
    init(cpus: Int, memory: UInt64, files: [(String, [UInt8])] = []) {
        var items: [UInt16: [UInt8]] = [
            Key.signature: Array("QEMU".utf8),
            Key.id: [1, 0, 0, 0],
            Key.ramSize: Self.littleEndian(memory),
            Key.cpus: Self.littleEndian(UInt16(clamping: cpus)),
            Key.maximumCPUs: Self.littleEndian(UInt16(clamping: cpus)),
        ]
        var directory = Self.littleEndian(UInt32(files.count).byteSwapped)
        for (index, (name, contents)) in files.enumerated() {
            let key = Key.firstFile + UInt16(index)
            items[key] = contents
            directory += Self.littleEndian(UInt32(contents.count).byteSwapped)
            directory += Self.littleEndian(key.byteSwapped) + [0, 0]
            let text = Array(name.utf8.prefix(55))
            directory += text + [UInt8](repeating: 0, count: 56 - text.count)
        }
        items[Key.directory] = directory
        self.items = items
    }

    private static func littleEndian<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.add(value)
        return bytes
    }

    /// Each byte read from the data port is the next of the selected item; past its end there are zeros.
    func read(_ offset: UInt32, _ data: UnsafeMutableRawBufferPointer) {
        data.initializeMemory(as: UInt8.self, repeating: 0)
        guard offset == 1, let first = data.indices.first else { return }
        state.withLock { state in
            guard let item = items[state.key], state.offset < item.count else { return }
            data[first] = item[state.offset]
            state.offset += 1
        }
    }

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        guard offset == 0, data.count == 2 else { return nil }
        state.withLock { $0 = State(key: data.loadUnaligned(as: UInt16.self)) }
        return nil
    }
}
