import ExitStats
import KVM

/// Everything that is known after a run.
public struct RunResult: Sendable {
    public let end: RunEnd
    /// From just before the first KVM_RUN to the end of the last, ns.
    public let wallNanoseconds: UInt64
    /// One tally a vCPU.
    public let vcpus: [TallySnapshot]
    /// What KVM counted meanwhile.
    public let kernel: KernelCounters
    /// VM exits by reason, where the kernel counts them.
    public let hardware: HardwareExits?
    public let leaf: LeafReport

    /// All vCPUs together.
    public var total: TallySnapshot {
        vcpus.reduce(into: TallySnapshot()) { $0.merge($1) }
    }
}

/// How the guest's queries went.
public struct LeafReport: Equatable, Sendable {
    /// Tally leaves answered, by the way that each took.
    public struct Answered: Equatable, Sendable {
        /// CPUIDs of ring 3 that came as #GP: by faulting, or by a HLT in their place.
        public var faults: UInt64 = 0
        /// CPUIDs at known addresses.
        public var sites: UInt64 = 0

        /// CPUIDs that the kernel sent to the VMM.
        public var exits: UInt64 = 0

        public var total: UInt64 { faults + sites + exits }

        static func + (left: Answered, right: Answered) -> Answered {
            Answered(
                faults: left.faults + right.faults, sites: left.sites + right.sites, exits: left.exits + right.exits)
        }
    }

    /// ``LiveCPUIDPlan/name``.
    public let mode: String
    /// Tally leaves answered live.
    public let answered: Answered
    /// The last of those answers.
    public let last: CPUIDRegisters?
    /// The host's tally at each live query of the VM's total: what the guest was told. The first ``readingLimit`` a vCPU.
    public let readings: [TallyPair]

    /// Enough for a demonstration; a guest that asks all day costs no memory.
    static let readingLimit = 256
}

/// Where KVM's binary statistics of a VM and its vCPUs come from.
struct KernelStatistics: Sendable {
    final class Source: Sendable {
        let statistics: BinaryStats

        init(_ statistics: consuming BinaryStats) {
            self.statistics = statistics
        }
    }

    private let sources: [Source]

    init(_ sources: [Source]) {
        self.sources = sources
    }

    /// What they count now; nothing where one cannot be read.
    func read() -> KernelCounters {
        var counters = KernelCounters()
        for source in sources {
            guard let values = try? source.statistics.read() else { return KernelCounters() }
            counters.add(values)
        }
        return counters
    }
}

/// KVM's binary statistics by name, summed over VM and vCPUs (kvm/api.rst 4.133).
public struct KernelCounters: Equatable, Sendable {
    /// Value by the kernel's own counter name. Histograms are left out.
    public private(set) var values: [String: UInt64] = [:]
    /// Counters of several values, likewise.
    private(set) var arrays: [String: [UInt64]] = [:]
    private var cumulative: Set<String> = []

    init() {}

    mutating func add(_ counters: [BinaryStats.Counter]) {
        for counter in counters {
            guard let value = counter.value else {
                if counter.kind == .cumulative {
                    let before = arrays[counter.name] ?? Array(repeating: 0, count: counter.values.count)
                    arrays[counter.name] = zip(before, counter.values).map { $0 &+ $1 }
                }
                continue
            }
            values[counter.name, default: 0] &+= value
            if counter.kind == .cumulative {
                cumulative.insert(counter.name)
            }
        }
    }

    /// Cumulative counters' growth; others as they are now.
    func difference(since earlier: KernelCounters) -> KernelCounters {
        var result = self
        for name in cumulative {
            result.values[name] = (values[name] ?? 0) &- (earlier.values[name] ?? 0)
        }
        for (name, before) in earlier.arrays {
            result.arrays[name] = zip(arrays[name] ?? [], before).map { $0 &- $1 }
        }
        return result
    }
}
