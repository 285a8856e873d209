// SPDX-License-Identifier: Apache-2.0
import ExitStats

/// Counts the exits of VMs that run on this host, whatever their VMM.
///
/// Counts begin when the collector is made and never fall. What a collector cannot know is nil, not zero.
public protocol ExitCollector: AnyObject {
    /// What tells exits: `module+bpf`, `module`, `bpf`, `tracefs` or `statistics`, as every output names it.
    var name: String { get }

    /// Looks for VMs that have come since, where the kernel does not: to be called every ``discoveryNanoseconds``.
    func discover() throws(CollectorError)

    var discoveryNanoseconds: UInt64 { get }

    /// Exits of every vCPU that has had one since the start. One that has ended is told once more, and never again.
    func read(_ detail: CollectorDetail) throws(CollectorError) -> [VCPUExits]

    /// What the kernel failed to count since the start: when it is not empty, no figure is whole.
    func losses() -> CollectorLosses
}

extension ExitCollector {
    public func discover() throws(CollectorError) {}

    public var discoveryNanoseconds: UInt64 { 200_000_000 }
}

/// What a reading holds besides counts and sums.
public struct CollectorDetail: Sendable {
    /// Histograms of the reasons' times: 10 KB each.
    public var histograms = false
    /// TSC cycles, ascending: each reason's exits are sorted by these, into ``ExitCounts/Times/durations``.
    public var bounds: [UInt64] = []

    public init(histograms: Bool = false, bounds: [UInt64] = []) {
        self.histograms = histograms
        self.bounds = bounds
    }
}

/// Events that are not in the counts.
public struct CollectorLosses: Equatable, Sendable {
    /// Runs of a BPF program that the kernel skipped, because the same program was running on that CPU already.
    public var skipped: UInt64 = 0
    /// Events of vCPUs for which the kernel's maps, or a histogram trigger's, had no room.
    public var withoutRoom: UInt64 = 0
    /// Processes that were to be counted and made userspace exits, but whose VM the module was not allowed to count, or
    /// which ended before it was asked.
    public var missed: UInt64 = 0

    public init() {}

    public var isEmpty: Bool { skipped == 0 && withoutRoom == 0 && missed == 0 }

    /// A line for people; nil when nothing was lost.
    public var description: String? {
        guard !isEmpty else { return nil }
        var parts: [String] = []
        if skipped > 0 { parts.append("\(skipped) runs of a BPF program skipped by the kernel") }
        if withoutRoom > 0 { parts.append("\(withoutRoom) events without room in a map") }
        if missed > 0 {
            parts.append("\(missed) VMs that the module was not allowed to count, or that ended before it was asked")
        }
        return "not whole: " + parts.joined(separator: ", ")
    }
}

/// Which vCPU of which VM.
public struct VCPUIdentity: Hashable, Sendable {
    /// The VMM's process, in the initial pid namespace.
    public var process: Int32
    /// The thread that runs the vCPU.
    public var thread: Int32
    /// When the thread started, ns since boot: with the numbers, its name for good. 0: unknown.
    public var started: UInt64
    /// Address of the kernel's struct kvm: tells apart the VMs of one process. 0: unknown.
    public var machine: UInt64
    /// KVM_CREATE_VCPU's id; nil where nothing tells it.
    public var vcpu: Int32?

    public init(process: Int32, thread: Int32, started: UInt64 = 0, machine: UInt64 = 0, vcpu: Int32? = nil) {
        self.process = process
        self.thread = thread
        self.started = started
        self.machine = machine
        self.vcpu = vcpu
    }
}

/// One vCPU's exits since the collector was made.
public struct VCPUExits: Sendable {
    public var identity: VCPUIdentity
    /// The thread's own name, as it stands: not to be printed unescaped.
    public var threadName: String
    /// The thread has ended: this reading is the last.
    public var hasEnded: Bool
    /// VM exits, times in the kernel; nil where nothing tells them.
    public var hardware: ExitCounts?
    /// Those of them out of a nested guest, which ``hardware`` does not hold; nil where nothing tells them apart.
    public var nested: ExitCounts?
    /// Userspace exits, times in userspace; nil where nothing tells them.
    public var userspace: ExitCounts?
    /// In the guest, TSC cycles; nil where nothing tells it.
    public var guestCycles: UInt64?
    /// Times that userspace put a vCPU that had run back to the reset vector; nil where nothing tells it.
    public var resets: UInt64?

    public init(
        identity: VCPUIdentity, threadName: String = "", hasEnded: Bool = false, hardware: ExitCounts? = nil,
        nested: ExitCounts? = nil, userspace: ExitCounts? = nil, guestCycles: UInt64? = nil,
        resets: UInt64? = nil
    ) {
        self.identity = identity
        self.threadName = threadName
        self.hasEnded = hasEnded
        self.hardware = hardware
        self.nested = nested
        self.userspace = userspace
        self.guestCycles = guestCycles
        self.resets = resets
    }
}

/// Whose exits to count.
public enum CollectorScope: Sendable {
    case everything
    /// One process.
    case process(Int32)
    /// One process, and what it will fork.
    case descendants(Int32)

    var isEverything: Bool { if case .everything = self { true } else { false } }
}

/// Why exits cannot be collected that way.
public struct CollectorError: Error, CustomStringConvertible, Sendable {
    public let cause: String
    public let remedy: String

    public init(cause: String, remedy: String) {
        self.cause = cause
        self.remedy = remedy
    }

    public var description: String { remedy.isEmpty ? cause : "\(cause): \(remedy)" }
}
