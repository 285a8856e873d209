// SPDX-License-Identifier: Apache-2.0
import BootRecords
import CLinuxKVM
import CTestSupport
import ExitStats
import Glibc
@testable import GuestCode
@testable import KVM
@testable import Linux
@testable import Machine

/// One reader of what a file or a guest says. What it keeps between two inputs must not depend on them.
protocol FuzzTarget {
    func run(_ input: UnsafeRawBufferPointer)
}

private struct Reader: FuzzTarget {
    let body: (UnsafeRawBufferPointer) -> Void

    func run(_ input: UnsafeRawBufferPointer) {
        body(input)
    }
}

enum FuzzTargets {
    static var all: [String: () throws -> any FuzzTarget] {
        [
            "elf": elf, "bzimage": linux, "vmlinux": linux, "multiboot": multiboot, "symbols": symbols,
            "kallsyms": kallsyms, "recording": recording, "statistics": statistics,
            "virtio-block": { try VirtioTarget("block") }, "virtio-console": { try VirtioTarget("console") },
            "virtio-network": { try VirtioTarget("network") }, "virtio-entropy": { try VirtioTarget("entropy") },
            "exits": { try ExitTarget() },
        ]
    }

    private static func kallsyms() -> any FuzzTarget {
        Reader { _ = Kallsyms($0).flatMap(SymbolTable.init)?.location(of: 0xFFFF_FFFF_8100_0000) }
    }

    private static func recording() -> any FuzzTarget {
        Reader { _ = try? BootRecording(json: Array($0)) }
    }

    private static func elf() throws -> any FuzzTarget {
        let memory = try GuestMemory(mebibytes: 16)
        let reserved = memory.lowSize - LongMode.size - BareMetal.stackSize..<memory.lowSize
        return Reader { file in
            guard let image = try? ELFExecutable(file) else { return }
            try? BareMetal.load(image.segments, of: file, into: memory, reserved: reserved)
        }
    }

    private static func linux() throws -> any FuzzTarget {
        let memory = try GuestMemory(mebibytes: 16)
        let tables = ACPITables(cpus: 1, uart: true, virtio: [])
        return Reader { file in
            let none = UnsafeRawBufferPointer(start: nil, count: 0)
            _ = try? LinuxBoot(
                LinuxImages(kernel: file, initrd: none, commandLine: "quiet"), into: memory, tables: tables)
        }
    }

    private static func multiboot() throws -> any FuzzTarget {
        let memory = try GuestMemory(mebibytes: 16)
        let tables = ACPITables(cpus: 1, uart: true, virtio: [])
        return Reader {
            _ = try? Multiboot($0, commandLine: "x", name: "vmtally", into: memory, tables: tables)
        }
    }

    private static func symbols() -> any FuzzTarget {
        Reader { file in
            guard let table = try? SymbolTable(file) else { return }
            let slide = table.slide([.init(symbol: "start", address: 0xFFFF_FFFF_8100_0000)]) ?? 0
            _ = table.location(of: 0xFFFF_FFFF_8100_1234, slide: slide)
            _ = CPUIDSite.named("start", in: table)
        }
    }

    /// A descriptor of binary statistics: header, name, counters' descriptions, values (kvm/api.rst 4.133).
    private static func statistics() -> any FuzzTarget {
        Reader { input in
            let bytes = Array(input)
            guard bytes.count >= 24, let header = try? BinaryStatsLayout.Header(Array(bytes[..<24])) else { return }
            let rest = Array(bytes[24...])
            let id = Array(rest.prefix(48))
            _ = try? BinaryStatsLayout(header: header, id: id, descriptors: Array(rest.dropFirst(48)))
        }
    }
}

/// A virtio device. The input: a count of register writes; these, a register and a value each; then what lies in the guest's
/// memory from 4 KiB on, where the rings are.
private final class VirtioTarget: FuzzTarget {
    private let memory: GuestMemory
    private let kind: String
    private let descriptor: Int32

    init(_ kind: String) throws {
        self.kind = kind
        memory = try GuestMemory(mebibytes: 1)
        descriptor = kind == "block" ? ctest_memory_file(64 << 9) : open("/dev/null", O_RDWR)
    }

    private func backend() -> (any VirtioBackend)? {
        switch kind {
        case "block": return try? VirtioBlock(path: "/proc/self/fd/\(descriptor)", isReadOnly: false)
        case "console": return VirtioConsole(output: SerialOutput(.none))
        case "network": return VirtioNetwork(descriptor: FileDescriptor(owning: dup(descriptor)), index: 0) { _ in }
        default: return VirtioEntropy()
        }
    }

    func run(_ input: UnsafeRawBufferPointer) {
        guard let count = input.first, let backend = backend() else { return }
        let device = VirtioMMIO(backend, memory: memory, interrupt: {}, report: { _ in })
        let writes = input.dropFirst().prefix(Int(count % 16) * 6)
        let image = input.dropFirst(1 + writes.count).prefix(0x8000)
        if let room = memory.slice(0x1000, count: 0x8000) {
            let room = UnsafeMutableRawBufferPointer(mutating: UnsafeRawBufferPointer(room))
            room.initializeMemory(as: UInt8.self, repeating: 0)
            room.copyBytes(from: image)
        }
        start(device, queues: backend.queueSizes.count)
        let bytes = Array(writes)
        for at in stride(from: 0, to: bytes.count - bytes.count % 6, by: 6) {
            let register = UInt32(bytes[at]) | UInt32(bytes[at + 1] & 1) << 8
            let value = bytes[at + 2..<at + 6].reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            put(device, register, value)
        }
        for queue in 0..<backend.queueSizes.count {
            put(device, 0x50, UInt32(queue))
        }
    }

    /// As a driver does it: all features, each queue's rings one behind the other.
    private func start(_ device: VirtioMMIO, queues: Int) {
        for status in [0, 3] as [UInt32] { put(device, 0x70, status) }
        for half in 0..<2 as Range<UInt32> {
            put(device, 0x14, half)
            var offered: UInt32 = 0
            withUnsafeMutableBytes(of: &offered) { device.read(0x10, $0) }
            put(device, 0x24, half)
            put(device, 0x20, offered)
        }
        put(device, 0x70, 11)
        for queue in 0..<UInt32(queues) {
            put(device, 0x30, queue)
            put(device, 0x38, 8)
            put(device, 0x80, 0x1000 + queue * 0x400)
            put(device, 0x90, 0x1100 + queue * 0x400)
            put(device, 0xA0, 0x1200 + queue * 0x400)
            put(device, 0x44, 1)
        }
        put(device, 0x70, 15)
    }

    private func put(_ device: VirtioMMIO, _ register: UInt32, _ value: UInt32) {
        _ = withUnsafeBytes(of: value) { device.write(register, $0) }
    }
}

/// The handling of exits. The input is what KVM would have left in the run page; the vCPU's ioctls all fail.
private final class ExitTarget: FuzzTarget {
    private let memory: GuestMemory
    private let page: UnsafeMutablePointer<kvm_run>
    private static let pageSize = 12 << 10

    init() throws {
        memory = try GuestMemory(mebibytes: 1)
        let raw = UnsafeMutableRawPointer.allocate(byteCount: Self.pageSize, alignment: 4096)
        page = raw.bindMemory(to: kvm_run.self, capacity: 1)
    }

    func run(_ input: UnsafeRawBufferPointer) {
        let raw = UnsafeMutableRawBufferPointer(start: page, count: Self.pageSize)
        raw.initializeMemory(as: UInt8.self, repeating: 0)
        raw.copyBytes(from: input.prefix(Self.pageSize))
        if page.pointee.exit_reason == UInt32(KVM_EXIT_IO) {
            // KVM's promises, which it keeps: sizes that exist, and data inside the page.
            page.pointee.io.size = 1 << (page.pointee.io.size % 3)
            page.pointee.io.count %= 1024
            page.pointee.io.data_offset = 4096
        }
        if page.pointee.exit_reason == UInt32(KVM_EXIT_MMIO) {
            page.pointee.mmio.len %= 9
        }
        guard let control = try? RunControl(cpus: 1), let tally = try? Tally() else { return }
        let platform = MachineDevices(bareMetal: SerialOutput(.none), marker: BootMarker()).platform
        if platform.portAccess(page) || platform.memoryAccess(page) { return }
        guard
            let plan = try? LiveCPUIDPlan(.off, sites: [], cpus: 1, host: .none, support: { BreakpointSupport() }),
            let vcpu = try? VCPU(
                fd: FileDescriptor(owning: ctest_memory_file(Self.pageSize)), runPageSize: Self.pageSize,
                coalescedPage: 0, xsaveSize: 4096)
        else { return }
        UnsafeMutableRawPointer(vcpu.runPage).copyMemory(from: page, byteCount: Self.pageSize)
        var rare = RareExits(
            index: 0, memory: memory, ioAPIC: nil,
            interposer: CPUIDInterposer(
                plan: plan, answers: TallyAnswers(own: tally, machine: [tally], tscKHz: 0), memory: memory),
            isPC: false, tripleFaultResets: false)
        _ = rare.handle(0, vcpu, platform, control)
    }
}
