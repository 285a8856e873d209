// SPDX-License-Identifier: Apache-2.0
import CBPF
import Glibc

/// Counts VM exits by the guest's RIP (bpf/rips.bpf.c), beside a collector that times them. Needs tracefs besides what
/// BPF needs: root, as a rule.
public final class PlaceCollector {
    /// Exits of one reason at one place.
    public struct Place: Sendable {
        public let process: Int32
        public let rip: UInt64
        public let code: UInt32
        public let count: UInt64
    }

    private let object: OpaquePointer
    private var link: OpaquePointer?
    private let places: Int32
    private let lost: Int32
    private let cpus: Int

    public init(_ scope: CollectorScope) throws(CollectorError) {
        let format = try TextFile.read("/sys/kernel/tracing/events/kvm/kvm_exit/format")
        guard let reason = Self.offset(of: "exit_reason", format), let rip = Self.offset(of: "guest_rip", format) else {
            throw CollectorError(cause: "kvm_exit tells no guest_rip on this kernel", remedy: "")
        }
        var options = bpf_object_open_opts()
        options.sz = MemoryLayout<bpf_object_open_opts>.size
        let opened = "vmtally_rips".withCString { name in
            options.object_name = name
            return withUnsafeBytes(of: &BPFObject_rips.words) {
                bpf_object__open_mem($0.baseAddress, BPFObject_rips.count, &options)
            }
        }
        guard let object = opened else { throw Self.refused }
        self.object = object
        var isWhole = false
        defer { if !isWhole { bpf_object__close(object) } }
        var config = vmtally_rip_config(reason_field: reason, rip_field: rip, only_tgid: 0)
        if case .process(let process) = scope { config.only_tgid = UInt32(bitPattern: process) }
        guard let section = bpf_object__find_map_by_name(object, ".rodata"),
            bpf_map__set_initial_value(section, &config, MemoryLayout<vmtally_rip_config>.size) == 0,
            bpf_object__load(object) == 0, let places = bpf_object__find_map_by_name(object, "places"),
            let lost = bpf_object__find_map_by_name(object, "lost"),
            let program = bpf_object__next_program(object, nil), let link = bpf_program__attach(program)
        else { throw Self.refused }
        self.link = link
        self.places = bpf_map__fd(places)
        self.lost = bpf_map__fd(lost)
        cpus = max(1, Int(libbpf_num_possible_cpus()))
        isWhole = true
    }

    deinit {
        bpf_link__destroy(link)
        bpf_object__close(object)
    }

    private static var refused: CollectorError {
        CollectorError(
            cause: "the kernel refuses the BPF program that counts by RIP: \(String(cString: strerror(errno)))",
            remedy: "it needs CAP_BPF, CAP_PERFMON and tracefs: sudo")
    }

    /// Of a field in an event's record: `field:unsigned long guest_rip; offset:16; size:8; signed:0;`
    static func offset(of field: String, _ format: String) -> UInt32? {
        for line in format.split(separator: "\n") {
            let parts = line.split(separator: ";")
            guard parts.count >= 2, parts[0].hasSuffix(" " + field) else { continue }
            return parts[1].split(separator: ":").last.flatMap { UInt32($0) }
        }
        return nil
    }

    /// Since the start, in no order.
    public func read() -> [Place] {
        var found: [Place] = []
        var key = vmtally_rip_key()
        var next = vmtally_rip_key()
        var counts = [UInt64](repeating: 0, count: cpus)
        var isFirst = true
        // Bounded: an entry that comes or goes meanwhile could send the walk round again.
        for _ in 0..<200_000 {
            let result = isFirst ? bpf_map_get_next_key(places, nil, &next) : bpf_map_get_next_key(places, &key, &next)
            guard result == 0 else { break }
            if bpf_map_lookup_elem(places, &next, &counts) == 0 {
                found.append(
                    Place(
                        process: Int32(bitPattern: next.tgid), rip: next.rip, code: next.code,
                        count: counts.reduce(0, &+)))
            }
            key = next
            isFirst = false
        }
        return found
    }

    /// Exits at places for which there was no room.
    public var withoutRoom: UInt64 {
        var zero: UInt32 = 0
        var counts = [UInt64](repeating: 0, count: cpus)
        return bpf_map_lookup_elem(lost, &zero, &counts) == 0 ? counts.reduce(0, &+) : 0
    }
}
