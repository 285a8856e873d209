// SPDX-License-Identifier: Apache-2.0
import BootRecords
import ExitStats
import FoundationEssentials
import Rendering
import ThisHost

/// A run as machines read it: schema `vmtally.run/1`. Integers only; names are the kernel's.
public struct RunDocument: Encodable, Sendable {
    public struct Guest: Encodable, Sendable {
        public let vcpus: Int
        /// MiB.
        public let memoryMiB: Int
        /// `mapped` or `populated`; absent unless asked for.
        public let prefault: String?

        enum CodingKeys: String, CodingKey {
            case vcpus, prefault
            case memoryMiB = "memory_mib"
        }
    }

    public struct Status: Encodable, Sendable {
        public let reason: String
        public let code: Int32
    }

    /// TSC cycles.
    public struct Cycles: Encodable, Sendable {
        public let sum: UInt64
        public let min: UInt64
        public let max: UInt64
        public let p50: UInt64
        public let p90: UInt64
        public let p99: UInt64
        public let p999: UInt64
    }

    public struct Total: Encodable, Sendable {
        public let count: UInt64
        public let cycles: UInt64

        init(_ pair: TallyPair) {
            count = pair.count
            cycles = pair.cycles
        }
    }

    public struct Reason: Encodable, Sendable {
        public let vocabulary: String?
        public let code: UInt32?
        public let name: String
        public let count: UInt64
        public let cycles: Cycles?
    }

    public struct VCPU: Encodable, Sendable {
        public let vcpu: Int
        public let count: UInt64
        public let cycles: UInt64
    }

    /// Exits of one reason at one place. Ports and MSRs are numbers; addresses are hexadecimal text, for many readers of
    /// JSON round integers of their size.
    public struct Place: Encodable, Sendable {
        public let port: UInt64?
        public let msr: UInt64?
        public let address: String?
        public let rip: String?
        /// `in`, `out`, `read` or `write`; absent for code.
        public let access: String?
        /// Bytes of an access to a port or an address.
        public let size: UInt8?
        /// What is usually there; absent where nothing is.
        public let device: String?
        public let vocabulary: String
        public let code: UInt32
        public let name: String
        public let count: UInt64
        public let cycles: UInt64
        /// Absent when the place has no name.
        public let symbol: String?
        public let offset: UInt64?

        init(_ row: PlaceReport.Row, _ report: PlaceReport) {
            let axis = report.axis
            port = axis == .port ? row.place.value : nil
            msr = axis == .msr ? row.place.value : nil
            address = axis == .address ? row.value : nil
            rip = axis == .rip ? row.value : nil
            access = axis == .rip ? nil : report.access(row)
            size = axis == .port || axis == .address ? row.place.size : nil
            device = row.place.name(on: axis)
            vocabulary = PlaceSnapshot.vocabulary.key
            code = row.place.code
            name = PlaceSnapshot.reason(of: row.place)
            count = row.pair.count
            cycles = row.pair.cycles
            symbol = row.location?.symbol
            offset = row.location?.offset
        }
    }

    /// Exits of an axis that its places do not list.
    public struct Others: Encodable, Sendable {
        public let count: UInt64
        public let cycles: UInt64
        /// Those of `count` whose place found no room in a vCPU's table; absent when all have.
        public let withoutRoom: UInt64?

        enum CodingKeys: String, CodingKey {
            case count, cycles
            case withoutRoom = "without_room"
        }

        init(_ report: PlaceReport) {
            count = report.rest.count
            cycles = report.rest.cycles
            withoutRoom = report.withoutRoom.count > 0 ? report.withoutRoom.count : nil
        }
    }

    public struct Exits: Encodable, Sendable {
        public let total: Total
        public let byReason: [Reason]
        public let byVCPU: [VCPU]
        /// Absent unless asked for, as is the sum of the axis's exits elsewhere.
        public let byPort: [Place]?
        public let byPortOthers: Others?
        public let byMSR: [Place]?
        public let byMSROthers: Others?
        public let byAddress: [Place]?
        public let byAddressOthers: Others?
        public let byRIP: [Place]?
        public let byRIPOthers: Others?

        enum CodingKeys: String, CodingKey {
            case total
            case byReason = "by_reason"
            case byVCPU = "by_vcpu"
            case byPort = "by_port"
            case byPortOthers = "by_port_others"
            case byMSR = "by_msr"
            case byMSROthers = "by_msr_others"
            case byAddress = "by_address"
            case byAddressOthers = "by_address_others"
            case byRIP = "by_rip"
            case byRIPOthers = "by_rip_others"
        }
    }

    public struct Registers: Encodable, Sendable {
        public let eax: UInt32
        public let ebx: UInt32
        public let ecx: UInt32
        public let edx: UInt32
    }

    public struct Leaf: Encodable, Sendable {
        public let mode: String
        public let answered: UInt64
        /// Questions for leaves of the range that have no meaning.
        public let meaningless: UInt64
        /// Absent when nothing was answered.
        public let last: Registers?
    }

    /// VM exits as a patched host kernel counts them.
    public struct Hardware: Encodable, Sendable {
        public struct Reason: Encodable, Sendable {
            /// Absent for the codes that the kernel has no counter of their own for.
            public let code: UInt32?
            public let name: String
            public let count: UInt64
            public let cycles: UInt64?
        }

        public let vocabulary: String?
        public let total: Total
        public let byReason: [Reason]
        public let guestCycles: UInt64
        public let userspaceCycles: UInt64
        public let blockedCycles: UInt64
        public let preemptedCycles: UInt64

        enum CodingKeys: String, CodingKey {
            case vocabulary, total
            case byReason = "by_reason"
            case guestCycles = "guest_cycles"
            case userspaceCycles = "userspace_cycles"
            case blockedCycles = "blocked_cycles"
            case preemptedCycles = "preempted_cycles"
        }

        init(_ exits: ExitCounts, _ time: VCPUTime) {
            vocabulary = exits.vocabulary?.key
            total = Total(exits.pair)
            byReason = exits.reasons.map {
                Reason(code: $0.code, name: exits.name(of: $0), count: $0.count, cycles: $0.times?.cycles)
            }
            guestCycles = time.guest
            userspaceCycles = time.userspace
            blockedCycles = time.blocked
            preemptedCycles = time.preempted
        }
    }

    /// What the VMM's threads were confined to while the guest ran.
    public struct Sandbox: Encodable, Sendable {
        public let on: Bool
        /// 0 where the host's kernel has no Landlock; absent without a sandbox.
        public let landlockABI: Int?
        /// The root of the process; absent without one of its own.
        public let jail: String?

        enum CodingKeys: String, CodingKey {
            case on, jail
            case landlockABI = "landlock_abi"
        }
    }

    /// One start of the guest.
    public struct Boot: Encodable, Sendable {
        public struct Reason: Encodable, Sendable {
            public let code: UInt32?
            public let name: String
            public let count: UInt64
            public let cycles: UInt64?
        }

        public struct Exits: Encodable, Sendable {
            public let total: Total
            public let byReason: [Reason]

            enum CodingKeys: String, CodingKey {
                case total
                case byReason = "by_reason"
            }
        }

        /// From 1 on.
        public let boot: Int
        public let wallNanoseconds: UInt64
        public let status: Status
        public let exits: Exits
        /// KVM's own count; absent where it has none.
        public let vmExits: UInt64?

        enum CodingKeys: String, CodingKey {
            case boot, status, exits
            case wallNanoseconds = "wall_ns"
            case vmExits = "vm_exits"
        }

        init(_ boot: RunReport.Boot, number: Int) {
            self.boot = number
            wallNanoseconds = boot.wallNanoseconds
            status = Status(reason: boot.end.reason, code: boot.end.exitStatus)
            exits = Exits(
                total: Total(boot.userspace.pair),
                byReason: boot.userspace.reasons.map {
                    Reason(
                        code: $0.code, name: boot.userspace.name(of: $0), count: $0.count, cycles: $0.times?.cycles)
                })
            vmExits = boot.vmExits
        }
    }

    /// Since the start, ns; counts of the span.
    public struct Interval: Encodable, Sendable {
        public let start: UInt64
        public let end: UInt64
        public let userspaceExits: UInt64
        public let byReason: [String: UInt64]
        public let vmExits: UInt64?

        enum CodingKeys: String, CodingKey {
            case start = "start_ns"
            case end = "end_ns"
            case userspaceExits = "userspace_exits"
            case byReason = "by_reason"
            case vmExits = "vm_exits"
        }

        init(_ interval: RunReport.Interval) {
            start = interval.start
            end = interval.end
            userspaceExits = interval.userspace.total
            byReason = interval.userspace.byName ?? [:]
            vmExits = interval.vmExits
        }
    }

    public struct Mark: Encodable, Sendable {
        public let nanoseconds: UInt64
        public let name: String
        public let userspaceExits: UInt64

        enum CodingKeys: String, CodingKey {
            case name
            case nanoseconds = "ns"
            case userspaceExits = "userspace_exits"
        }
    }

    public let schema = "vmtally.run/1"
    public let tool: BootRecording.Tool
    public let host: HostIdentity
    public let vm: Guest
    public let wallNanoseconds: UInt64
    public let status: Status
    public let exits: Exits
    /// KVM's own counters by name, summed over VM and vCPUs.
    public let kernel: [String: UInt64]
    /// Why `kernel` is empty; absent when it is not.
    public let kernelMissing: String?
    /// Absent unless the host kernel has the patches of kernel-patch/.
    public let hardware: Hardware?
    public let leaf: Leaf
    public let sandbox: Sandbox
    /// Absent unless the guest has started more than once.
    public let boots: [Boot]?
    /// Absent unless asked for.
    public let intervals: [Interval]?
    public let marks: [Mark]?

    enum CodingKeys: String, CodingKey {
        case schema, tool, host, vm, status, exits, kernel, hardware, leaf, sandbox, boots, intervals, marks
        case wallNanoseconds = "wall_ns"
        case kernelMissing = "kernel_missing"
    }

    public init(
        _ result: RunReport, host: HostIdentity, version: String, places: [PlaceReport] = []
    ) {
        let all = result.total
        tool = BootRecording.Tool(name: "vmtally", version: version)
        self.host = host
        vm = Guest(vcpus: result.vcpus.count, memoryMiB: result.memoryMiB, prefault: result.prefault?.key)
        wallNanoseconds = result.wallNanoseconds
        status = Status(reason: result.end.reason, code: result.end.exitStatus)
        func report(_ axis: PlaceAxis) -> PlaceReport? { places.first { $0.axis == axis } }
        func list(_ axis: PlaceAxis) -> [Place]? {
            report(axis).map { report in report.rows.map { Place($0, report) } }
        }
        func others(_ axis: PlaceAxis) -> Others? { report(axis).map(Others.init) }
        exits = Exits(
            total: Total(all.pair), byReason: all.reasons.map { Self.reason($0, of: all) },
            byVCPU: result.vcpus.enumerated().map { index, tally in
                VCPU(vcpu: index, count: tally.total, cycles: tally.pair.cycles)
            },
            byPort: list(.port), byPortOthers: others(.port), byMSR: list(.msr), byMSROthers: others(.msr),
            byAddress: list(.address), byAddressOthers: others(.address), byRIP: list(.rip), byRIPOthers: others(.rip))
        kernel = result.kernel.values
        kernelMissing = result.kernel.missing
        hardware = result.hardware.flatMap { exits in result.time.map { Hardware(exits, $0) } }
        sandbox = Sandbox(
            on: result.sandbox != nil, landlockABI: result.sandbox?.landlock, jail: result.sandbox?.jail)
        boots =
            result.boots.isEmpty ? nil : result.boots.enumerated().map { Boot($0.element, number: $0.offset + 1) }
        intervals = result.intervals.isEmpty ? nil : result.intervals.map(Interval.init)
        marks =
            result.intervals.isEmpty
            ? nil
            : result.marks.map {
                Mark(nanoseconds: $0.nanoseconds, name: $0.name, userspaceExits: $0.userspaceExits)
            }
        leaf = Leaf(
            mode: result.leaf.mode, answered: result.leaf.answered, meaningless: result.leaf.meaningless,
            last: result.leaf.last.map { Registers(eax: $0.eax, ebx: $0.ebx, ecx: $0.ecx, edx: $0.edx) })
    }

    private static func reason(_ reason: ExitCounts.Reason, of counts: ExitCounts) -> Reason {
        Reason(
            vocabulary: counts.vocabulary?.key, code: reason.code, name: counts.name(of: reason), count: reason.count,
            cycles: reason.times.map { times in
                func percentile(_ share: Double) -> UInt64 { times.percentile(share) ?? 0 }
                return Cycles(
                    sum: times.cycles, min: times.range?.lowerBound ?? 0, max: times.range?.upperBound ?? 0,
                    p50: percentile(0.5), p90: percentile(0.9), p99: percentile(0.99), p999: percentile(0.999))
            })
    }

    /// The document on one line, keys sorted, so that two of them can be compared as text.
    public func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self)
    }
}
