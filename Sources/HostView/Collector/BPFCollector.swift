// SPDX-License-Identifier: Apache-2.0
import CBPF
import ExitStats
import Glibc
import Synchronization

/// Exits by BPF programs on KVM's tracepoints (bpf/exits.bpf.c): counts and times by vCPU and reason.
///
/// The kernel counts by itself and removes the programs when this process ends, however it does. Needs CAP_BPF and
/// CAP_PERFMON to make, nothing to read.
public final class BPFCollector: ExitCollector {
    public let name = "bpf"

    private let object: OpaquePointer
    private var links: [OpaquePointer] = []
    private let programs: [Int32]
    private let maps: ExitMaps
    private let freeSlots: Int32
    private let freeRows: Int32
    private let targets: Int32
    /// Every raw tracepoint of the object; sched_process_fork only where forks are followed.
    private static let forkProgram = "on_fork"

    /// - Parameters:
    ///   - vcpus: that run already: room is made for twice as many, and for a thousand more.
    ///   - scale: nil: the kernel's own.
    ///   - countsVMExits: false where somebody else does: userspace exits alone.
    public init(
        _ scope: CollectorScope, vcpus: Int = 0, scale: TSCScale? = nil, countsVMExits: Bool = true
    ) throws(CollectorError) {
        let structures = countsVMExits ? try KernelStructures() : nil
        let scale = scale ?? .host
        let messages = Messages.collect()
        let object = try Self.open()
        self.object = object
        var isWhole = false
        defer { if !isWhole { bpf_object__close(object) } }

        let slotCount = scope.isEverything ? min(1024 + 2 * max(0, vcpus), 65_536) : 1024
        let rowCount = min(2048 + 24 * max(0, vcpus), 65_536)
        let sizes = [
            "slots": slotCount, "free_slots": slotCount, "rows": rowCount, "free_rows": rowCount,
            "by_thread": 2 * slotCount, "cpus": max(1, Int(libbpf_num_possible_cpus())),
        ]
        for (name, size) in sizes {
            guard let map = bpf_object__find_map_by_name(object, name),
                bpf_map__set_max_entries(map, UInt32(size)) == 0
            else { throw Self.damaged }
        }
        try Self.configure(object, structures, scale, scope)
        guard bpf_object__load(object) == 0 else { throw Self.refused(messages) }

        func map(_ name: String) throws(CollectorError) -> OpaquePointer {
            guard let map = bpf_object__find_map_by_name(object, name) else { throw Self.damaged }
            return map
        }
        freeSlots = bpf_map__fd(try map("free_slots"))
        freeRows = bpf_map__fd(try map("free_rows"))
        targets = bpf_map__fd(try map("targets"))
        guard ExitMaps.slotBytes == Int(bpf_map__value_size(try map("slots"))),
            ExitMaps.rowBytes == Int(bpf_map__value_size(try map("rows")))
        else { throw Self.damaged }
        maps = ExitMaps(
            slots: try Self.share(try map("slots")), rows: try Self.share(try map("rows")),
            cpus: try Self.share(try map("cpus")), vocabulary: structures?.vocabulary, scale: scale)
        for number in 0..<UInt32(slotCount) { try Self.push(number, freeSlots) }
        for number in 0..<UInt32(rowCount) { try Self.push(number, freeRows) }
        if case .descendants(var process) = scope {
            var one: UInt32 = 1
            bpf_map_update_elem(targets, &process, &one, UInt64(BPF_ANY))
        }

        var programs: [Int32] = []
        var program = bpf_object__next_program(object, nil)
        while let next = program {
            programs.append(bpf_program__fd(next))
            program = bpf_object__next_program(object, next)
        }
        self.programs = programs
        isWhole = true
        try attach(scope, messages, hasVMExits: structures != nil)
    }

    deinit {
        for link in links { bpf_link__destroy(link) }
        for region in [maps.slots, maps.rows, maps.cpus] { munmap(region.baseAddress, region.count) }
        bpf_object__close(object)
    }

    private static var damaged: CollectorError {
        CollectorError(cause: "the BPF object is not the one that this program was built for", remedy: "build it again")
    }

    private static func open() throws(CollectorError) -> OpaquePointer {
        var options = bpf_object_open_opts()
        options.sz = MemoryLayout<bpf_object_open_opts>.size
        let object = "vmtally".withCString { name in
            options.object_name = name
            return withUnsafeBytes(of: &BPFObject_exits.words) {
                bpf_object__open_mem($0.baseAddress, BPFObject_exits.count, &options)
            }
        }
        guard let object else { throw damaged }
        return object
    }

    /// What the programs know before they run.
    private static func configure(
        _ object: OpaquePointer, _ structures: KernelStructures?, _ scale: TSCScale, _ scope: CollectorScope
    ) throws(CollectorError) {
        let none = KernelStructures.none
        var config = vmtally_config()
        config.cycles_per_ns = scale.cyclesPerMebiNanosecond
        config.reason_offset = structures?.reason ?? none
        config.reason_offset_vmcb = structures?.reasonInVMCB ?? none
        config.state_offset = structures?.state ?? none
        config.state01_offset = structures?.stateOfL1 ?? none
        config.id_offset = structures?.id ?? none
        config.kvm_offset = structures?.machine ?? none
        config.rip_offset = structures?.rip ?? none
        config.dirty_offset = structures?.dirty ?? none
        switch scope {
        case .everything: break
        case .process(let process): config.only_tgid = UInt32(bitPattern: process)
        case .descendants: config.follows_targets = 1
        }
        // The object's one constant.
        guard let section = bpf_object__find_map_by_name(object, ".rodata"),
            bpf_map__set_initial_value(section, &config, MemoryLayout<vmtally_config>.size) == 0
        else { throw damaged }
    }

    private static func share(_ map: OpaquePointer) throws(CollectorError) -> UnsafeMutableRawBufferPointer {
        // Values lie 8 bytes aligned, all in a row.
        let size = Int(bpf_map__value_size(map) + 7) & ~7
        let page = sysconf(Int32(_SC_PAGESIZE))
        let length = (size * Int(bpf_map__max_entries(map)) + page - 1) / page * page
        guard let memory = mmap(nil, length, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0),
            memory != MAP_FAILED
        else {
            throw CollectorError(
                cause: "a BPF map cannot be shared: \(String(cString: strerror(errno)))", remedy: "Linux 5.5 can")
        }
        return UnsafeMutableRawBufferPointer(start: memory, count: size * Int(bpf_map__max_entries(map)))
    }

    private static func push(_ number: UInt32, _ queue: Int32) throws(CollectorError) {
        var number = number
        guard bpf_map_update_elem(queue, nil, &number, UInt64(BPF_ANY)) == 0 else {
            throw CollectorError(cause: "a BPF queue: \(String(cString: strerror(errno)))", remedy: "")
        }
    }

    private func attach(_ scope: CollectorScope, _ messages: Messages, hasVMExits: Bool) throws(CollectorError) {
        let follows = if case .descendants = scope { true } else { false }
        let vmExits = ["on_exit", "on_entry"]
        var program = bpf_object__next_program(object, nil)
        while let next = program {
            program = bpf_object__next_program(object, next)
            let name = String(cString: bpf_program__name(next))
            // Without the structures' layout there is nothing to read in these events.
            if name == Self.forkProgram && !follows || vmExits.contains(name) && !hasVMExits { continue }
            guard let link = bpf_program__attach(next) else {
                let error = errno
                guard error == ENOENT else { throw Self.refused(messages) }
                throw CollectorError(
                    cause: "this kernel has no tracepoints of KVM",
                    remedy: "load kvm_intel or kvm_amd: modprobe kvm_intel")
            }
            links.append(link)
        }
    }

    private static func refused(_ messages: Messages) -> CollectorError {
        let error = errno
        guard ![EMFILE, ENFILE, ENOMEM].contains(error) else {
            return CollectorError(
                cause: "BPF programs: \(String(cString: strerror(error)))",
                remedy: error == ENOMEM ? "" : "raise the limit of open files: ulimit -n")
        }
        let capabilities = Capabilities.effective
        let needed: [Capabilities] = [.bpf, .perfmon]
        let missing = needed.filter { !capabilities.contains($0) && !capabilities.contains(.sysAdmin) }
        guard missing.isEmpty else {
            return CollectorError(
                cause: "BPF needs \(missing.map(\.name).joined(separator: " and "))",
                remedy: geteuid() == 0
                    ? "give this container the host's pid namespace and the capabilities BPF, PERFMON and SYS_PTRACE"
                    : "run it as root, or once: sudo setcap cap_bpf,cap_perfmon=ep \(Capabilities.program)")
        }
        let said = messages.text
        return CollectorError(
            cause: "the kernel refuses the BPF programs: \(String(cString: strerror(error)))",
            remedy: (said.isEmpty ? "" : said + "\n") + "the tracefs collector does without")
    }

    public func read(_ detail: CollectorDetail) throws(CollectorError) -> [VCPUExits] {
        let readings = maps.exits(detail)
        for reading in readings where reading.exits.hasEnded {
            if let slot = maps.slot(reading.slot) { try recycle(reading.slot, slot) }
        }
        return readings.map(\.exits)
    }

    /// Gives a slot and its rows to the vCPUs to come. Its own thread has ended: nobody counts there.
    private func recycle(_ number: Int, _ slot: UnsafeMutablePointer<vmtally_slot>) throws(CollectorError) {
        let rows = maps.rows(of: slot)
        maps.clear(slot)
        for row in rows { try Self.push(row, freeRows) }
        try Self.push(UInt32(number), freeSlots)
    }

    public func losses() -> CollectorLosses {
        var losses = CollectorLosses()
        for program in programs {
            var info = bpf_prog_info()
            var size = UInt32(MemoryLayout<bpf_prog_info>.size)
            if bpf_obj_get_info_by_fd(program, &info, &size) == 0 { losses.skipped &+= info.recursion_misses }
        }
        let maps = maps.losses
        losses.withoutRoom = maps.events &+ maps.reasons
        return losses
    }
}

/// What libbpf says while it works, kept for the error that it may end in.
private final class Messages: Sendable {
    private static let current = Mutex<Messages?>(nil)
    private let lines = Mutex<[String]>([])

    static func collect() -> Messages {
        let messages = Messages()
        current.withLock { $0 = messages }
        libbpf_set_print { level, format, arguments in
            guard level == LIBBPF_WARN, let format, let arguments else { return 0 }
            var buffer = [CChar](repeating: 0, count: 4096)
            let length = Int(vsnprintf(&buffer, buffer.count, format, arguments))
            let kept = buffer.prefix(max(0, min(length, buffer.count - 1)))
            let text = String(decoding: kept.map(UInt8.init(bitPattern:)), as: UTF8.self)
            Messages.current.withLock { messages in
                messages?.lines.withLock { if $0.count < 200 { $0.append(text) } }
            }
            return 0
        }
        return messages
    }

    /// The last few lines.
    var text: String { lines.withLock { $0.suffix(12).joined() } }
}
