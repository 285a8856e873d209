// SPDX-License-Identifier: Apache-2.0
import ExitStats

/// A run as its table and its document tell of it: plain values, so that a test can describe any run.
public struct RunReport: Sendable {
    public struct End: Sendable {
        /// The word that `status.reason` has in JSON.
        public var reason: String
        public var exitStatus: Int32

        public init(reason: String, exitStatus: Int32) {
            self.reason = reason
            self.exitStatus = exitStatus
        }
    }

    /// KVM's own counters.
    public struct Kernel: Sendable {
        /// By name, summed over VM and vCPUs.
        public var values: [String: UInt64]
        /// Why there are none; nil when there are.
        public var missing: String?

        public init(values: [String: UInt64], missing: String?) {
            self.values = values
            self.missing = missing
        }
    }

    /// How the guest's queries for the tally leaves went.
    public struct Leaf: Sendable {
        /// `fault`, `sites`, `host`, ...; `none`: the leaves are not there.
        public var mode: String
        /// Answered live.
        public var answered: UInt64
        /// The last of those answers.
        public var last: CPUIDRegisters?
        /// What the guest was told, as the host had it.
        public var readings: [TallyPair]
        /// Questions for leaves of the range that have no meaning.
        public var meaningless: UInt64

        public init(
            mode: String, answered: UInt64 = 0, last: CPUIDRegisters? = nil, readings: [TallyPair] = [],
            meaningless: UInt64 = 0
        ) {
            self.mode = mode
            self.answered = answered
            self.last = last
            self.readings = readings
            self.meaningless = meaningless
        }
    }

    /// What the guest's threads were confined to.
    public struct Sandbox: Sendable {
        /// The kernel's Landlock ABI; 0: it has no Landlock.
        public var landlock: Int
        /// The folder that was the process's root.
        public var jail: String?

        public init(landlock: Int, jail: String?) {
            self.landlock = landlock
            self.jail = jail
        }
    }

    /// What came of the wish to have RAM there before the start.
    public enum Prefault: Sendable {
        case mapped
        /// Pages of the host, which the guest's first touches still have to map; and why no more.
        case populated(String)

        /// The word of JSON.
        var key: String {
            switch self {
            case .mapped: "mapped"
            case .populated: "populated"
            }
        }
    }

    /// One start of the guest, where it has started more than once.
    public struct Boot: Sendable {
        public var end: End
        public var wallNanoseconds: UInt64
        /// Userspace exits of all vCPUs, with the cycles of each reason and nothing more of its times.
        public var userspace: ExitCounts
        /// By KVM's own count; nil where it has none.
        public var vmExits: UInt64?
    }

    /// What was counted in a span of a run.
    public struct Interval: Sendable {
        /// Since the start, ns.
        public var start: UInt64
        public var end: UInt64
        public var userspace: ExitCounts
        public var vmExits: UInt64?

        public init(start: UInt64, end: UInt64, userspace: ExitCounts, vmExits: UInt64?) {
            self.start = start
            self.end = end
            self.userspace = userspace
            self.vmExits = vmExits
        }
    }

    /// A moment that the guest has marked.
    public struct Mark: Sendable {
        /// Since the start, ns.
        public var nanoseconds: UInt64
        public var name: String
        public var userspaceExits: UInt64

        public init(nanoseconds: UInt64, name: String, userspaceExits: UInt64) {
            self.nanoseconds = nanoseconds
            self.name = name
            self.userspaceExits = userspaceExits
        }
    }

    public var end: End
    /// ns.
    public var wallNanoseconds: UInt64
    /// MiB.
    public var memoryMiB: Int
    /// 0: unknown.
    public var tscKHz: UInt32
    /// Userspace exits, one a vCPU.
    public var vcpus: [ExitCounts]
    public var kernel: Kernel
    /// VM exits by reason and where the vCPUs' time went, where the host's kernel accounts them.
    public var hardware: ExitCounts?
    public var time: VCPUTime?
    public var leaf: Leaf
    /// nil: not asked for.
    public var prefault: Prefault?
    /// nil: they were not confined.
    public var sandbox: Sandbox?
    /// Empty for a guest that has started once.
    public private(set) var boots: [Boot] = []
    public var intervals: [Interval] = []
    public var marks: [Mark] = []

    public init(
        end: End, wallNanoseconds: UInt64, memoryMiB: Int, tscKHz: UInt32, vcpus: [ExitCounts], kernel: Kernel,
        hardware: ExitCounts? = nil, time: VCPUTime? = nil, leaf: Leaf, prefault: Prefault? = nil,
        sandbox: Sandbox? = nil
    ) {
        self.end = end
        self.wallNanoseconds = wallNanoseconds
        self.memoryMiB = memoryMiB
        self.tscKHz = tscKHz
        self.vcpus = vcpus
        self.kernel = kernel
        self.hardware = hardware
        self.time = time
        self.leaf = leaf
        self.prefault = prefault
        self.sandbox = sandbox
    }

    /// This run together with those before it: boots of one guest whose counters went on.
    public func following(_ earlier: RunReport) -> RunReport {
        var all = self
        func withoutHistograms(_ counts: ExitCounts) -> ExitCounts {
            ExitCounts(
                source: counts.source, vocabulary: .kvm,
                reasons: counts.reasons.map { reason in
                    ExitCounts.Reason(
                        code: reason.code, count: reason.count,
                        times: reason.times.map { ExitCounts.Times(cycles: $0.cycles) })
                })
        }
        let first = Boot(
            end: earlier.end, wallNanoseconds: earlier.wallNanoseconds, userspace: withoutHistograms(earlier.total),
            vmExits: earlier.kernel.values["exits"])
        let own = Boot(
            end: end, wallNanoseconds: wallNanoseconds,
            userspace: withoutHistograms(total.difference(since: earlier.total)), vmExits: kernel.values["exits"])
        all.boots = (earlier.boots.isEmpty ? [first] : earlier.boots) + [own]
        let start = earlier.wallNanoseconds
        all.wallNanoseconds = start + wallNanoseconds
        all.kernel.values.merge(earlier.kernel.values, uniquingKeysWith: &+)
        all.hardware = [earlier.hardware, hardware].compactMap { $0 }.sum()
        all.time = earlier.time.map { sum in time.map { sum + $0 } ?? sum } ?? time
        all.leaf.answered &+= earlier.leaf.answered
        all.leaf.meaningless &+= earlier.leaf.meaningless
        all.intervals =
            earlier.intervals
            + intervals.map {
                Interval(
                    start: start + $0.start, end: start + $0.end, userspace: $0.userspace, vmExits: $0.vmExits)
            }
        // A mark tells of the counters, which have gone on.
        all.marks =
            earlier.marks
            + marks.map {
                Mark(nanoseconds: start + $0.nanoseconds, name: $0.name, userspaceExits: $0.userspaceExits)
            }
        return all
    }

    /// All vCPUs together.
    public var total: ExitCounts { vcpus.sum() ?? .none(of: .vmm, .kvm) }
}
