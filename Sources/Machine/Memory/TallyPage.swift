// SPDX-License-Identifier: Apache-2.0
import CLinux
import CLinuxKVM
import ExitStats
import Glibc
import KVM
import Linux

/// The memory that a machine's counters share with its guest (docs/tally-page.md).
///
/// A file without a name, mapped twice: each ``Tally`` has its block in front of its histograms, where the exit loop
/// finds both by one pointer, and KVM has the whole in one piece, which nobody may write to. Nothing else is in it.
/// Being shared memory it is never copied on fork(2), merged by KSM or read through the zero page.
final class TallyPage: @unchecked Sendable {
    /// Guest physical: between RAM below 4 GiB and the devices at that end, in no range of 2 MiB that RAM has a part in,
    /// so that KVM maps all of RAM by huge pages.
    static let address: UInt64 = 0xE000_0000
    /// After RAM's two.
    private static let slot: UInt32 = 2

    let cpus: Int
    private let file: FileDescriptor
    /// KVM's view.
    private let host: UnsafeMutableRawPointer

    /// What the guest sees.
    var view: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: host, count: size) }
    var size: Int { TallyPageLayout.size(vcpus: cpus) }
    /// Guest physical.
    var range: Range<UInt64> { Self.address..<Self.address + UInt64(size) }
    /// The answer to ``TallyLeaf/page``.
    var registers: CPUIDRegisters { CPUIDRegisters(pageAt: Self.address, size: size) }

    /// The call that gives the file its size, with the reason that is likely.
    private static func sizing(_ errno: Int32) -> String {
        "ftruncate" + (errno == EFBIG ? " of the tally page, for which a limit of file sizes holds (ulimit -f)" : "")
    }

    /// - Parameter cpus: the most vCPUs that the machine will have.
    init(cpus: Int) throws(MachineError) {
        self.cpus = cpus
        let size = TallyPageLayout.size(vcpus: cpus)
        let descriptor = vmtally_memory_file("vmtally-page")
        guard descriptor >= 0 else { throw .system(call: "memfd_create", errno: -descriptor) }
        file = FileDescriptor(owning: descriptor)
        guard ftruncate(descriptor, size) == 0 else { throw .system(call: Self.sizing(errno), errno: errno) }
        guard let mapping = mmap(nil, size, PROT_READ, MAP_SHARED, descriptor, 0), mapping != MAP_FAILED else {
            throw .system(call: "mmap", errno: errno)
        }
        host = mapping
        madvise(host, size, MADV_NOHUGEPAGE)
        madvise(host, size, MADV_DONTFORK)
        // Now, and for good: a page that is not there costs the guest an exit. Where the limit is lower (ulimit -l) they
        // are at least there now.
        if mlock(host, size) != 0 {
            for page in stride(from: 0, to: size, by: 4096) {
                _ = host.load(fromByteOffset: page, as: UInt8.self)
            }
        }
    }

    deinit {
        munmap(host, size)
    }

    /// The counters of a vCPU: in its block where there is a page.
    static func tally(vcpu: Int, _ page: TallyPage?) throws(TallyMemoryError) -> Tally {
        guard let page else { return try Tally() }
        return try Tally(in: page.file.rawValue, at: TallyPageLayout.headerSize + vcpu * TallyPageLayout.stride)
    }

    /// Gives the guest the page: a store to it is KVM_EXIT_MMIO, which no device claims (kvm/api.rst 4.35).
    func map(into machine: borrowing VirtualMachine) throws(KVMError) {
        try machine.setMemoryRegion(
            slot: Self.slot, flags: UInt32(KVM_MEM_READONLY), guestAddress: Self.address, size: UInt64(size), host: host
        )
    }

    /// Writes the header, without which a reader takes the page for none.
    func publish(_ header: TallyPageHeader) throws(MachineError) {
        let bytes = header.bytes
        guard pwrite(file.rawValue, bytes, bytes.count, 0) == bytes.count else {
            throw .system(call: "pwrite", errno: errno)
        }
    }
}
