// SPDX-License-Identifier: Apache-2.0
import BootRecords
import ExitStats
import FoundationEssentials
import ThisHost

/// Exits of VMs in a span of time as machines read them. What a collector does not know is absent.
public struct LiveDocument: Encodable, Sendable {
    /// TSC cycles.
    public struct Cycles: Encodable, Sendable {
        let sum: UInt64
        let min: UInt64?
        let max: UInt64?
        let p50: UInt64?
        let p90: UInt64?
        let p99: UInt64?
        let p999: UInt64?
    }

    public struct Reason: Encodable, Sendable {
        /// Absent for exits that the collector had no counter of their own for.
        let code: UInt32?
        let name: String
        let count: UInt64
        let cycles: Cycles?
        /// Not in ``cycles``.
        let halted: UInt64?
        let userspace: UInt64?

        enum CodingKeys: String, CodingKey {
            case code, name, count, cycles
            case halted = "halted_cycles"
            case userspace = "userspace_cycles"
        }
    }

    public struct Total: Encodable, Sendable {
        let count: UInt64
        let cycles: UInt64?
    }

    public struct Exits: Encodable, Sendable {
        let source: String
        let vocabulary: String?
        let total: Total
        let byReason: [Reason]

        enum CodingKeys: String, CodingKey {
            case source, vocabulary, total
            case byReason = "by_reason"
        }

        init(_ counts: ExitCounts, isHardware: Bool) {
            source = counts.source.rawValue
            vocabulary = counts.vocabulary.map { "\(ReasonVocabulary.vocabulary($0).key)" }
            total = Total(count: counts.total, cycles: counts.cycles)
            byReason = counts.reasons.map { reason in
                Reason(
                    code: reason.code, name: counts.name(of: reason), count: reason.count,
                    cycles: reason.times.map { times in
                        Cycles(
                            sum: times.cycles, min: times.range?.lowerBound, max: times.range?.upperBound,
                            p50: times.percentile(0.5), p90: times.percentile(0.9), p99: times.percentile(0.99),
                            p999: times.percentile(0.999))
                    },
                    halted: isHardware ? reason.times?.halted : nil,
                    userspace: isHardware ? reason.times?.userspace : nil)
            }
        }
    }

    public struct VCPU: Encodable, Sendable {
        let vcpu: Int32?
        let thread: Int32
        let hardware: Total?
        let userspace: Total?
        let guestCycles: UInt64?

        enum CodingKeys: String, CodingKey {
            case vcpu, thread
            case hardware = "vm_exits"
            case userspace = "userspace_exits"
            case guestCycles = "guest_cycles"
        }
    }

    public struct Machine: Encodable, Sendable {
        let name: String
        let program: String
        let pid: Int32
        let pod: String?
        let ended: Bool
        let hardware: Exits?
        let nested: Exits?
        let userspace: Exits?
        let guestCycles: UInt64?
        let resets: UInt64?
        let byVCPU: [VCPU]

        enum CodingKeys: String, CodingKey {
            case name, program, pid, pod, ended
            case hardware = "vm_exits"
            case nested = "nested_vm_exits"
            case userspace = "userspace_exits"
            case guestCycles = "guest_cycles"
            case resets = "guest_resets"
            case byVCPU = "by_vcpu"
        }

        init(_ machine: LiveMachine) {
            name = machine.name
            program = machine.program
            pid = machine.process
            pod = machine.pod
            ended = machine.hasEnded
            hardware = machine.hardware.map { Exits($0, isHardware: true) }
            nested = machine.nested.flatMap { $0.total > 0 ? Exits($0, isHardware: true) : nil }
            userspace = machine.userspace.map { Exits($0, isHardware: false) }
            guestCycles = machine.guestCycles
            resets = machine.resets
            byVCPU = machine.vcpus.map { vcpu in
                VCPU(
                    vcpu: vcpu.vcpu, thread: vcpu.thread,
                    hardware: vcpu.hardware.map { Total(count: $0.total, cycles: $0.cycles) },
                    userspace: vcpu.userspace.map { Total(count: $0.total, cycles: $0.cycles) },
                    guestCycles: vcpu.guestCycles)
            }
        }
    }

    public struct Losses: Encodable, Sendable {
        let skipped: UInt64
        let withoutRoom: UInt64
        let missed: UInt64

        enum CodingKeys: String, CodingKey {
            case skipped, missed
            case withoutRoom = "without_room"
        }

        public init(skipped: UInt64, withoutRoom: UInt64, missed: UInt64) {
            self.skipped = skipped
            self.withoutRoom = withoutRoom
            self.missed = missed
        }
    }

    let schema: String
    let tool: BootRecording.Tool
    let host: HostIdentity
    let collector: String
    /// Anything but zeros: the figures are not whole.
    let lost: Losses
    let wallNanoseconds: UInt64
    let machines: [Machine]

    enum CodingKeys: String, CodingKey {
        case schema, tool, host, collector, lost, machines
        case wallNanoseconds = "wall_ns"
    }

    /// - Parameter schema: `vmtally.attach/1` or `vmtally.top/1`.
    public init(
        schema: String, version: String, host: HostIdentity, collector: String, lost: Losses, nanoseconds: UInt64,
        machines: [LiveMachine]
    ) {
        self.schema = schema
        tool = BootRecording.Tool(name: "vmtally", version: version)
        self.host = host
        self.collector = collector
        self.lost = lost
        wallNanoseconds = nanoseconds
        self.machines = machines.map(Machine.init)
    }

    /// On one line, keys sorted.
    public func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self)
    }
}
