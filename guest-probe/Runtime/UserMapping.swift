// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// Memory for ring 3 to read, in the VMM's page tables: a page of 2 MiB at an address that nothing else is at.
enum UserMapping {
    static let largePage: UInt64 = 2 << 20

    /// - Returns: `place`; nil where the tables are others than docs/guests.md says, or more than one page would be wanted.
    static func map(_ address: UInt64, size: UInt64, at place: UInt64) -> UInt64? {
        guard address % largePage == 0, size <= largePage else { return nil }
        var table = guest_read_cr3() & ~0xFFF
        var shift: UInt64 = 39
        while shift > 21 {
            guard let entry = entry(table, place, shift), entry.pointee & 0x81 == 1 else { return nil }
            entry.pointee |= 4
            table = entry.pointee & 0x000F_FFFF_FFFF_F000
            shift -= 9
        }
        guard let entry = entry(table, place, 21), entry.pointee & 0x81 == 0x81 else { return nil }
        entry.pointee = address | 0x85  // present, user, a large page; not writable
        guest_write_cr3(guest_read_cr3())
        return place
    }

    private static func entry(_ table: UInt64, _ place: UInt64, _ shift: UInt64) -> UnsafeMutablePointer<UInt64>? {
        UnsafeMutablePointer(bitPattern: UInt(table + (place >> shift & 0x1FF) * 8))
    }
}
