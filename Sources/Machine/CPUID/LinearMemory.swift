import CLinuxKVM
import KVM

/// Guest memory as the vCPU's current page tables show it (KVM_TRANSLATE, kvm/api.rst 4.15).
struct LinearMemory: ~Copyable {
    private let memory: GuestMemory

    init(_ memory: GuestMemory) {
        self.memory = memory
    }

    /// Reads `count` bytes; nil when a page of them is not mapped to RAM.
    func read(_ address: UInt64, count: Int, _ vcpu: borrowing VCPU) -> [UInt8]? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        while bytes.count < count {
            let next = address &+ UInt64(bytes.count)
            let inPage = min(count - bytes.count, 4096 - Int(next & 4095))
            guard let translation = try? vcpu.translate(next), translation.valid != 0,
                let slice = memory.slice(translation.physical_address, count: inPage)
            else { return nil }
            bytes.append(contentsOf: slice)
        }
        return bytes
    }

    /// Reads little-endian 64-bit words.
    func readWords(_ address: UInt64, count: Int, _ vcpu: borrowing VCPU) -> [UInt64]? {
        read(address, count: count * 8, vcpu)?.withUnsafeBytes { bytes in
            (0..<count).map { bytes.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self) }
        }
    }

    /// Length of the CPUID instruction at an address, its prefixes included; nil if there is none.
    ///
    /// Prefixes other than LOCK mean nothing to CPUID (SDM vol. 2A 2.1.1); 15 bytes are the longest instruction.
    func cpuidLength(at address: UInt64, longMode: Bool, _ vcpu: borrowing VCPU) -> UInt64? {
        for length in 2...15 {
            guard let bytes = read(address, count: length, vcpu) else { return nil }
            switch (bytes[length - 2], bytes[length - 1]) {
            case (0x0F, 0xA2): return UInt64(length)
            case (0x26, _), (0x2E, _), (0x36, _), (0x3E, _), (0x64...0x67, _), (0xF2, _), (0xF3, _): continue
            case (0x40...0x4F, 0x0F) where longMode: continue
            default: return nil
            }
        }
        return nil
    }
}
