// SPDX-License-Identifier: Apache-2.0
@testable import Machine

/// A bzImage with nothing but a valid header and some code.
struct SyntheticKernel {
    var bytes: [UInt8]
    static let codeStart = 5 * 512

    init(code: Int = 4096) {
        bytes = [UInt8](repeating: 0, count: Self.codeStart + code)
        set(4 as UInt8, at: 0x1F1)  // setup_sects
        set(UInt32(code / 16), at: 0x1F4)  // syssize
        set(0xAA55 as UInt16, at: 0x1FE)
        set(0x66 as UInt8, at: 0x201)
        bytes.replaceSubrange(0x202..<0x206, with: "HdrS".utf8)
        set(0x020F as UInt16, at: 0x206)
        set(1 as UInt8, at: 0x211)
        set(0x7FFF_FFFF as UInt32, at: 0x22C)
        set(0x20_0000 as UInt32, at: 0x230)
        set(1 as UInt8, at: 0x234)
        set(1 as UInt16, at: 0x236)
        set(2047 as UInt32, at: 0x238)
        set(0x100_0000 as UInt64, at: 0x258)
        set(0x10_0000 as UInt32, at: 0x260)
        for index in Self.codeStart..<bytes.count {
            bytes[index] = UInt8(truncatingIfNeeded: index)
        }
    }

    mutating func set<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
        bytes.withUnsafeMutableBytes { $0.storeBytes(of: value, toByteOffset: offset, as: T.self) }
    }

    /// Copies that the caller never frees: tests are short.
    var buffer: UnsafeRawBufferPointer { .copy(bytes) }
}

extension UnsafeRawBufferPointer {
    static func copy(_ bytes: [UInt8]) -> UnsafeRawBufferPointer {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 16)
        memory.copyBytes(from: bytes)
        return UnsafeRawBufferPointer(memory)
    }
}

extension Device {
    func get<T: FixedWidthInteger>(_ type: T.Type = T.self, at offset: UInt32) -> T {
        var value: T = 0
        withUnsafeMutableBytes(of: &value) { read(offset, $0) }
        return value
    }

    @discardableResult
    func put<T: FixedWidthInteger>(_ value: T, at offset: UInt32) -> GuestRequest? {
        withUnsafeBytes(of: value) { write(offset, $0) }
    }
}
