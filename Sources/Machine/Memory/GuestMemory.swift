// SPDX-License-Identifier: Apache-2.0
import Glibc
import Linux

/// The guest's RAM: one anonymous mapping, guest physical 0 upwards, with a hole below 4 GiB for devices.
///
/// Guests are hostile: every access from the VMM goes through a check of address and length.
public final class GuestMemory: @unchecked Sendable {
    /// RAM below the hole ends here at the latest; local APIC, I/O APIC and the BIOS area lie above (SDM vol. 3A 12.4.1).
    public static let holeStart: UInt64 = 0xC000_0000
    /// RAM that does not fit below the hole goes on here.
    public static let holeEnd: UInt64 = 0x1_0000_0000

    /// Start of the mapping, on the host.
    public let host: UnsafeMutableRawPointer
    /// RAM in bytes.
    public let size: UInt64

    /// Maps RAM. Pages cost nothing until touched.
    ///
    /// - Parameter hugePages: ask for transparent huge pages: one nested page fault for 2 MiB instead of 512.
    /// - Throws: ``MachineError/refused(_:)`` when `mebibytes` is 0, more than the host's RAM, or cannot be mapped.
    public init(mebibytes: Int, hugePages: Bool = false) throws(MachineError) {
        let installed = Self.installedMiB()
        guard mebibytes > 0, mebibytes <= installed else {
            throw .refused(
                .memory, "\(mebibytes) MiB asked for, the host has \(installed) MiB", "give 1 to \(installed) MiB")
        }
        size = UInt64(mebibytes) << 20
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        guard let mapping = mmap(nil, Int(size) + (2 << 20), PROT_READ | PROT_WRITE, flags, -1, 0),
            mapping != MAP_FAILED
        else {
            throw .refused(
                .memory, "cannot map \(mebibytes) MiB: \(describe(errno: errno))", "give the guest less")
        }
        // KVM maps 2 MiB at once only where the host's and the guest's addresses agree in their low 21 bits.
        let hugePage = 2 << 20
        let slack = (hugePage - Int(bitPattern: mapping) % hugePage) % hugePage
        host = mapping + slack
        if slack > 0 {
            munmap(mapping, slack)
        }
        if hugePage > slack {
            munmap(host + Int(size), hugePage - slack)
        }
        if hugePages {
            madvise(host, Int(size), MADV_HUGEPAGE)
        }
    }

    deinit {
        munmap(host, Int(size))
    }

    /// Bytes of RAM below the hole.
    public var lowSize: UInt64 { min(size, Self.holeStart) }

    /// A contiguous piece of RAM; nil unless all of it is RAM.
    public func slice(_ address: UInt64, count: Int) -> UnsafeMutableRawBufferPointer? {
        guard count >= 0, let offset = offset(of: address, count: UInt64(count)) else { return nil }
        return UnsafeMutableRawBufferPointer(start: host + Int(offset), count: count)
    }

    /// RAM around an address, from a page boundary on, as far as it goes without a hole; nil outside RAM.
    func surroundings(of address: UInt64, before: UInt64, after: UInt64) -> UnsafeMutableRawBufferPointer? {
        let isLow = address < lowSize
        let region = isLow ? 0..<lowSize : Self.holeEnd..<Self.holeEnd + (size - lowSize)
        guard region.contains(address) else { return nil }
        let start = max(region.lowerBound, address & ~0xFFF - min(before, address & ~0xFFF))
        return slice(start, count: Int(min(region.upperBound - start, address - start + after)))
    }

    /// Reads a little-endian integer; nil outside RAM.
    public func load<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type = T.self, at address: UInt64) -> T? {
        slice(address, count: MemoryLayout<T>.size)?.loadUnaligned(as: T.self)
    }

    /// Writes a little-endian integer; false outside RAM.
    @discardableResult
    public func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at address: UInt64) -> Bool {
        guard let slice = slice(address, count: MemoryLayout<T>.size) else { return false }
        slice.storeBytes(of: value, as: T.self)
        return true
    }

    /// Offset into the mapping of a piece that lies wholly below or wholly above the hole.
    private func offset(of address: UInt64, count: UInt64) -> UInt64? {
        let (end, overflow) = address.addingReportingOverflow(count)
        guard !overflow else { return nil }
        if end <= lowSize {
            return address
        }
        let above = size - lowSize
        guard above > 0, address >= Self.holeEnd, end - Self.holeEnd <= above else { return nil }
        return address - Self.holeEnd + Self.holeStart
    }

    private static func installedMiB() -> Int {
        Int((UInt64(max(0, sysconf(Int32(_SC_PHYS_PAGES)))) * UInt64(max(0, sysconf(Int32(_SC_PAGESIZE))))) >> 20)
    }
}
