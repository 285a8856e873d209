// SPDX-License-Identifier: Apache-2.0
/// A guest that times exits itself, so that no VMM under test can favour itself: an ELF64 as `--guest` takes it.
///
/// It makes `chunks` times `exits` exits, unrolled 50 fold so that next to nothing but the exit is timed, and after each
/// chunk sends the TSC cycles that it took to the UART, 8 bytes, little-endian. Then it ends the run with status 0 << 1 | 1.
struct LoopGuest {
    /// What causes the exit.
    enum Exit: String, CaseIterable, Encodable {
        /// OUT to a port that no device claims.
        case portWrite = "OUT"
        /// A 4-byte write to an address that no device claims.
        case memoryWrite = "MMIO write"

        fileprivate var instruction: [UInt8] {
            switch self {
            case .portWrite: [0xE6, 0x80]  // out %al, $0x80
            case .memoryWrite: [0x89, 0x06]  // mov %eax, (%rsi)
            }
        }
    }

    static let unrolled = 50

    let elf: [UInt8]
    let chunks: Int
    let exits: Int

    /// - Parameter exits: in each chunk, a multiple of 50.
    init(_ exit: Exit, chunks: Int, exits: Int) {
        self.chunks = chunks
        self.exits = exits
        let body = (0..<Self.unrolled).flatMap { _ in exit.instruction }
        let readTSC: [UInt8] = [0x0F, 0x31, 0x48, 0xC1, 0xE2, 0x20, 0x48, 0x09, 0xD0]  // rdtsc; rax = rdx:rax
        let times = body + [0xFF, 0xCB, 0x0F, 0x85] + Self.displacement(-(body.count + 8))  // dec %ebx; jnz body
        let chunk: [UInt8] =
            [0xBB] + Self.bytes(UInt32(exits / Self.unrolled))  // mov $, %ebx
            + readTSC + [0x49, 0x89, 0xC5]  // mov %rax, %r13
            + times
            + readTSC + [0x4C, 0x29, 0xE8]  // sub %r13, %rax
            + [0xBA] + Self.bytes(0x3F8) + [0xB9] + Self.bytes(8)  // mov $0x3F8, %edx; mov $8, %ecx
            + [0xEE, 0x48, 0xC1, 0xE8, 0x08, 0xFF, 0xC9, 0x75, 0xF7]  // out %al, %dx; shr $8, %rax; dec %ecx; jnz
        let code: [UInt8] =
            [0xBE] + Self.bytes(0xC000_0000)  // mov $, %esi: no memory slot and no device
            + [0x41, 0xBC] + Self.bytes(UInt32(chunks))  // mov $, %r12d
            + chunk
            + [0x41, 0xFF, 0xCC, 0x0F, 0x85] + Self.displacement(-(chunk.count + 9))  // dec %r12d; jnz chunk
            + [0x31, 0xC0, 0xE6, 0xF4]  // xor %eax, %eax; out %al, $0xF4
        elf = Self.image(code)
    }

    /// A guest that sends one line feed, and ends: the first byte that a starting VMM passes on.
    static let firstByte = image([
        0x66, 0xBA, 0xF8, 0x03, 0xB0, 0x0A, 0xEE,  // mov $0x3F8, %dx; mov $'\n', %al; out %al, %dx
        0x30, 0xC0, 0xE6, 0xF4,  // xor %al, %al; out %al, $0xF4
    ])

    /// Cycles per exit in each chunk, from what the guest has sent; nil when that is not all.
    func cycles(_ serial: some Collection<UInt8>) -> [Double]? {
        guard serial.count == chunks * 8 else { return nil }
        let bytes = Array(serial)
        return (0..<chunks).map { chunk in
            let sum = bytes[chunk * 8..<chunk * 8 + 8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
            return Double(sum) / Double(exits)
        }
    }

    private static func bytes(_ value: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }

    private static func displacement(_ distance: Int) -> [UInt8] {
        bytes(UInt32(bitPattern: Int32(distance)))
    }

    /// One segment at 1 MiB that holds the code and is entered at its start.
    private static func image(_ code: [UInt8]) -> [UInt8] {
        let address: UInt32 = 0x10_0000
        func half(_ value: UInt16) -> [UInt8] { [UInt8(value & 0xFF), UInt8(value >> 8)] }
        func long(_ value: UInt32) -> [UInt8] { bytes(value) + bytes(0) }
        let headers: [[UInt8]] = [
            [0x7F, 0x45, 0x4C, 0x46, 2, 1, 1, 0] + long(0),  // ELF64, little-endian
            half(2) + half(62) + bytes(1) + long(address) + long(64) + long(0),  // executable, x86-64
            bytes(0) + half(64) + half(56) + half(1) + half(64) + half(0) + half(0),
            bytes(1) + bytes(5) + long(0x78) + long(address) + long(address),  // PT_LOAD, R-X
            long(UInt32(code.count)) + long(UInt32(code.count)) + long(8),
        ]
        return headers.flatMap { $0 } + code
    }
}
