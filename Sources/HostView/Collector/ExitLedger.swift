// SPDX-License-Identifier: Apache-2.0
import ExitStats

/// One VM's exits since the collector was made.
public struct MachineExits: Sendable {
    public var process: Int32
    /// Address of struct kvm, 0 where it is not known.
    public var machine: UInt64
    /// vCPUs that run, by id, then by thread.
    public var vcpus: [VCPUExits]
    /// All vCPUs that have ended, as one; nil when none has.
    public var ended: VCPUExits?
    var endedCount: VCPUCount
    /// vCPUs that run or have ended.
    public var vcpuCount: Int { (vcpus.reduce(endedCount) { $0 + VCPUCount($1) }).count }
    /// No vCPU runs any more, and none will.
    public var hasEnded: Bool { vcpus.isEmpty }

    private var all: [VCPUExits] { vcpus + (ended.map { [$0] } ?? []) }

    /// VM exits of all vCPUs; nil where nothing tells them.
    public var hardware: ExitCounts? { Self.sum(all.map(\.hardware)) }
    /// Those out of nested guests.
    public var nested: ExitCounts? { Self.sum(all.map(\.nested)) }
    public var userspace: ExitCounts? { Self.sum(all.map(\.userspace)) }
    /// TSC cycles.
    public var guestCycles: UInt64? { Self.sum(all.map(\.guestCycles)) }
    /// Of the guest, by its VMM, as far as the vCPUs' registers show them; nil where nothing tells them.
    public var resets: UInt64? { Self.sum(all.map(\.resets)) }

    public init(
        process: Int32, machine: UInt64, vcpus: [VCPUExits], ended: VCPUExits? = nil,
        endedCount: VCPUCount = VCPUCount()
    ) {
        self.process = process
        self.machine = machine
        self.vcpus = vcpus
        self.ended = ended
        self.endedCount = endedCount
    }

    static func sum(_ counts: [ExitCounts?]) -> ExitCounts? { counts.compactMap { $0 }.sum() }

    static func sum(_ numbers: [UInt64?]) -> UInt64? {
        let known = numbers.compactMap { $0 }
        return known.isEmpty ? nil : known.reduce(0, &+)
    }
}

/// How many vCPUs there are. A collector may tell of a vCPU's VM exits and of its userspace exits apart.
public struct VCPUCount: Sendable {
    private var hardware = 0
    private var userspace = 0

    public init() {}

    init(_ exits: VCPUExits) {
        hardware = exits.hardware == nil ? 0 : 1
        userspace = exits.userspace == nil ? 0 : 1
    }

    var count: Int { max(hardware, userspace) }

    static func + (one: VCPUCount, other: VCPUCount) -> VCPUCount {
        var sum = one
        sum.hardware += other.hardware
        sum.userspace += other.userspace
        return sum
    }
}

/// Keeps what ended vCPUs have counted, and sorts vCPUs into VMs.
public struct ExitLedger {
    private struct Key: Hashable {
        let process: Int32
        let machine: UInt64
    }

    private var ended: [Key: (exits: VCPUExits, count: VCPUCount)] = [:]

    public init() {}

    /// - Returns: VMs with a vCPU that runs or has ended since the last reading, by process. One whose last vCPU has
    ///   ended is told this once, and forgotten: its numbers may be another's next.
    public mutating func add(_ readings: [VCPUExits]) -> [MachineExits] {
        var running: [Key: [VCPUExits]] = [:]
        for reading in readings {
            let key = Key(process: reading.identity.process, machine: reading.identity.machine)
            if reading.hasEnded {
                ended[key] =
                    ended[key].map { (Self.sum($0.exits, reading), $0.count + VCPUCount(reading)) }
                    ?? (reading, VCPUCount(reading))
            } else {
                running[key, default: []].append(reading)
            }
        }
        var machines = running.map { key, vcpus in
            MachineExits(
                process: key.process, machine: key.machine,
                vcpus: vcpus.sorted {
                    ($0.identity.vcpu ?? .max, $0.identity.thread) < ($1.identity.vcpu ?? .max, $1.identity.thread)
                },
                ended: ended[key]?.exits, endedCount: ended[key]?.count ?? VCPUCount())
        }
        for (key, exits) in ended where running[key] == nil {
            machines.append(
                MachineExits(
                    process: key.process, machine: key.machine, vcpus: [], ended: exits.exits, endedCount: exits.count))
            ended[key] = nil
        }
        return machines.sorted { ($0.process, $0.machine) < ($1.process, $1.machine) }
    }

    private static func sum(_ one: VCPUExits, _ other: VCPUExits) -> VCPUExits {
        var sum = one
        sum.hardware = MachineExits.sum([one.hardware, other.hardware])
        sum.nested = MachineExits.sum([one.nested, other.nested])
        sum.userspace = MachineExits.sum([one.userspace, other.userspace])
        sum.guestCycles = MachineExits.sum([one.guestCycles, other.guestCycles])
        sum.resets = MachineExits.sum([one.resets, other.resets])
        return sum
    }
}
