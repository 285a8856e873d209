// SPDX-License-Identifier: Apache-2.0
import Glibc

/// Zeroed memory of this process, to be a guest's RAM. Pages cost nothing until touched.
///
/// ```swift
/// let ram = try GuestRAM(byteCount: 4096)
/// try ram.write([0xF4], at: 0)  // hlt
/// try vm.setMemoryRegion(slot: 0, guestAddress: 0x1000, ram)
/// ```
public struct GuestRAM: ~Copyable, Sendable {
    /// In this process.
    public nonisolated(unsafe) let base: UnsafeMutableRawPointer
    /// Bytes.
    public let byteCount: Int

    /// - Parameter byteCount: a multiple of 4,096.
    public init(byteCount: Int) throws(KVMError) {
        let mapping = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let mapping, mapping != MAP_FAILED else { throw KVMError(call: "mmap", errno: errno) }
        base = mapping
        self.byteCount = byteCount
    }

    deinit {
        munmap(base, byteCount)
    }

    /// Copies bytes to an offset.
    ///
    /// - Throws: EFAULT when they do not fit.
    public func write(_ bytes: [UInt8], at offset: Int) throws(KVMError) {
        guard offset >= 0, offset <= byteCount, bytes.count <= byteCount - offset else {
            throw KVMError(call: "write to guest RAM", errno: EFAULT)
        }
        (base + offset).copyMemory(from: bytes, byteCount: bytes.count)
    }
}

extension VirtualMachine {
    /// Maps all of `ram`, which must outlive the machine and its vCPUs, into the guest (4.35).
    public func setMemoryRegion(slot: UInt32, guestAddress: UInt64, _ ram: borrowing GuestRAM) throws(KVMError) {
        try setMemoryRegion(slot: slot, guestAddress: guestAddress, size: UInt64(ram.byteCount), host: ram.base)
    }
}
