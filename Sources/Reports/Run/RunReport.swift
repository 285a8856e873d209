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

    /// All vCPUs together.
    public var total: ExitCounts { vcpus.sum() ?? .none(of: .vmm, .kvm) }
}
