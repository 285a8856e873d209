// SPDX-License-Identifier: Apache-2.0
import ExitStats
import GuestCode
import KVM

/// Everything that is known after a run.
public struct RunResult: Sendable {
    public let end: RunEnd
    /// From just before the first KVM_RUN to the end of the last, ns.
    public let wallNanoseconds: UInt64
    /// One tally a vCPU.
    public let vcpus: [ExitCounts]
    /// Exits of all vCPUs by ``MachineConfiguration/places``.
    public let places: [PlaceAxis: PlaceSnapshot]
    /// Where the guest's kernel lies, for a ``SymbolTable``; with places of code only.
    public let anchors: [SymbolTable.Anchor]
    /// What KVM counted meanwhile.
    public let kernel: KernelCounters
    /// VM exits by reason, where the kernel counts them.
    public let hardware: ExitCounts?
    /// Where the vCPUs' time went, where the kernel accounts it.
    public let time: VCPUTime?
    /// What had been counted when the guest said that its boot was over; nil if it did not.
    public let boot: BootReading?
    /// What came of ``MachineConfiguration/prefaults``; nil: not asked for.
    public let prefault: Prefault?
    /// What the guest's threads were confined to; nil: nothing.
    public let sandbox: SandboxState?
    public let leaf: LeafReport
    /// Messages about devices that a guest caused over and over: those after the first few.
    public let withheldMessages: Int
    /// Those that were asked for, the last one to the run's end.
    public let intervals: [RunInterval]
    public let marks: [RunMark]

    /// All vCPUs together.
    public var total: ExitCounts { vcpus.sum() ?? .none(of: .vmm, .kvm) }
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
    /// Names of ``MachineConfiguration/cpuidSites`` in whose code the first vCPU has seen no CPUID instruction.
    public let unmatchedSites: [String]
    /// The host's tally at each live query of the VM's total: what the guest was told. The first ``readingLimit`` a vCPU.
    public let readings: [TallyPair]
    /// How often the guest asked for leaves of ``TallyLeaf/range`` that have no meaning: it may be a program for another
    /// kernel's layout of them.
    public let meaningless: [UInt32: UInt64]

    /// Enough for a demonstration; a guest that asks all day costs no memory.
    static let readingLimit = 256
}
