// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import KVM

/// Guest memory as a vCPU's page tables show it.
///
/// In 64-bit mode the tables are walked here: KVM_TRANSLATE loads and unloads the vCPU at each call, which costs more
/// than the exit itself. Permissions do not matter for what is read. Other paging modes ask KVM (kvm/api.rst 4.15).
struct LinearMemory {
    let memory: GuestMemory
    let special: kvm_sregs

    /// Reads `count` bytes; nil when a page of them is not mapped to RAM.
    func read(_ address: UInt64, count: Int, _ vcpu: borrowing VCPU) -> [UInt8]? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        while bytes.count < count {
            let next = address &+ UInt64(bytes.count)
            let inPage = min(count - bytes.count, 4096 - Int(next & 4095))
            guard let physical = translate(next, vcpu), let slice = memory.slice(physical, count: inPage) else {
                return nil
            }
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

    /// Guest physical address of a linear one; nil when it is not mapped.
    func translate(_ address: UInt64, _ vcpu: borrowing VCPU) -> UInt64? {
        let longModeActive: UInt64 = 0x400
        guard special.efer & longModeActive != 0 else {
            guard let translation = try? vcpu.translate(address), translation.valid != 0 else { return nil }
            return translation.physical_address
        }
        return walk(address)?.physical
    }

    /// 4- or 5-level paging (SDM vol. 3A 5.5): the physical address, whether ring 3 may use it, and whether ring 0 may
    /// write it.
    func walk(_ address: UInt64) -> (physical: UInt64, isUser: Bool, isWritable: Bool)? {
        let addressBits: UInt64 = 0x000F_FFFF_FFFF_F000
        let fiveLevels = special.cr4 & 1 << 12 != 0
        var table = special.cr3 & addressBits
        var isUser = true
        var isWritable = true
        for shift in stride(from: UInt64(fiveLevels ? 48 : 39), through: 12, by: -9) {
            guard let entry = memory.load(UInt64.self, at: table + (address >> shift & 0x1FF) * 8), entry & 1 == 1
            else {
                return nil
            }
            isUser = isUser && entry & 4 != 0
            isWritable = isWritable && entry & 2 != 0
            let isPage = shift == 12 || (entry & 0x80 != 0 && shift <= 30)
            if isPage {
                let offset = (1 << shift) - 1 as UInt64
                // Without CR0.WP ring 0 writes where it likes.
                let writable = isWritable || special.cr0 & 1 << 16 == 0
                return (entry & addressBits & ~offset | address & offset, isUser, writable)
            }
            table = entry & addressBits
        }
        return nil
    }

    /// Gate 13 of the IDT in 64-bit mode (SDM vol. 3A 7.14.1); nil where there is no such IDT, or events do not go through
    /// it (CR4.FRED).
    func faultGate() -> FaultGate? {
        let longModeActive = special.efer & 0x400 != 0
        let address = special.idt.base &+ 13 * 16
        guard longModeActive, special.cr4 & 1 << 32 == 0, special.idt.limit >= 14 * 16 - 1,
            let page = walk(address), let low = memory.load(UInt64.self, at: page.physical),
            // An IDT need not be aligned.
            let rest = address & 0xFFF <= 0xFF0 ? page.physical + 8 : walk(address &+ 8)?.physical,
            let high = memory.load(UInt32.self, at: rest)
        else { return nil }
        let isPresent = low >> 47 & 1 == 1
        let isInterruptOrTrap = low >> 40 & 0xE == 0xE
        let handler = low & 0xFFFF | low >> 32 & 0xFFFF_0000 | UInt64(high) << 32
        return FaultGate(
            address: address, isWritable: page.isWritable, handler: isPresent && isInterruptOrTrap ? handler : nil)
    }

    /// Length of the CPUID instruction at an address, its prefixes included; nil if there is none.
    ///
    /// Prefixes other than LOCK mean nothing to CPUID (SDM vol. 2A 2.1.1); 15 bytes are the longest instruction.
    func cpuidLength(at address: UInt64, _ vcpu: borrowing VCPU) -> UInt64? {
        for length in 2...15 {
            guard let bytes = read(address, count: length, vcpu) else { return nil }
            switch (bytes[length - 2], bytes[length - 1]) {
            case (0x0F, 0xA2): return UInt64(length)
            case (0x26, _), (0x2E, _), (0x36, _), (0x3E, _), (0x64...0x67, _), (0xF2, _), (0xF3, _): continue
            case (0x40...0x4F, 0x0F): continue
            default: return nil
            }
        }
        return nil
    }
}
