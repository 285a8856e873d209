// SPDX-License-Identifier: Apache-2.0
/// How the user wants CPUID's tally leaves answered (`--live-cpuid`).
public enum LiveCPUIDMode: String, CaseIterable, Sendable {
    /// Whatever works here.
    case auto
    /// CPUID faulting and a breakpoint on the guest's #GP handler: any CPUID in ring 3.
    case fault
    /// Breakpoints on the CPUID instructions that the guest lists.
    case sites
    /// The host kernel answers.
    case host
    /// The snapshot in the CPUID table alone; on a host kernel that would take it for the wish to answer, nothing.
    case off
}

/// What of it this host and this guest allow.
public struct LiveCPUIDPlan: Equatable, Sendable {
    /// The kernel answers, or sends the leaves to us: any CPUID in any ring.
    public let host: HostLeafSupport
    /// Ring 3, by CPUID faulting.
    public let fault: Bool
    /// Guest linear addresses with a breakpoint, as many as ``siteLimit``.
    public let sites: [UInt64]
    /// Code whose CPUID instruction gets a breakpoint once it is found; with `sites` as many as ``siteLimit``.
    public let searches: [CPUIDSite]
    /// The guest's writes of its #GP gate are seen.
    let watchesGate: Bool
    /// LIDT instructions of the guest that get a breakpoint: linear addresses.
    let tableLoads: [UInt64]
    /// Sites in ring 3 are answered by a HLT in their place: #GP, where breakpoints and CPUID itself do not stop ring 3.
    let plants: Bool
    /// RFLAGS.RF suppresses a breakpoint once; otherwise the VMM steps over it.
    let resumeFlagWorks: Bool
    /// ``BreakpointSupport/taskType``.
    let taskType: UInt8
    /// What a vCPU's table has, under all that is live.
    let leaves: TallyLeaves
    /// Why not all that was asked for is there; nil when it is.
    public let shortfall: String?

    private static let debugRegisters = 4

    /// One debug register is for the #GP handler; where CPUID faulting is used, another is for its gate.
    private static func siteLimit(watchesGate: Bool) -> Int { debugRegisters - (watchesGate ? 2 : 1) }

    /// Nothing but the table, or what the host kernel answers.
    private init(_ host: HostLeafSupport, leaves: TallyLeaves) {
        self.host = host
        self.leaves = leaves
        (fault, sites, searches, watchesGate, tableLoads) = (false, [], [], false, [])
        (plants, resumeFlagWorks, taskType, shortfall) = (false, false, 11, nil)
    }

    /// Whether any reading is live.
    public var isLive: Bool { host != .none || usesBreakpoints }

    var usesBreakpoints: Bool { fault || usesSites }

    private var usesSites: Bool { !sites.isEmpty || !searches.isEmpty }

    /// Whether the guest's #GP handler has a breakpoint.
    var usesHandler: Bool { fault || plants }

    /// Whether the guest's writes of MSR 0x140 matter: its #GP handler is there then.
    var watchesFaulting: Bool { usesHandler || !searches.isEmpty }

    /// What `leaf.mode` in JSON says: `host`, `host-exit`, `fault`, `sites`, `fault+sites`, `snapshot`, or `none`: the
    /// leaves are not there.
    public var name: String {
        switch host {
        case .kernel, .module: return "host"
        case .userspace: return "host-exit"
        case .none: break
        }
        return switch (fault, usesSites) {
        case (true, false): "fault"
        case (true, true): "fault+sites"
        case (false, true): "sites"
        case (false, false): leaves == .none ? "none" : "snapshot"
        }
    }
}

extension LiveCPUIDMode {
    /// Whether it depends on what breakpoints can do here.
    func asksForBreakpoints(_ host: HostLeafSupport) -> Bool {
        switch self {
        case .off, .host: false
        case .fault, .sites: true
        case .auto: host == .none
        }
    }
}

extension LiveCPUIDPlan {
    /// Settles on what works.
    ///
    /// - Parameter tableLoads: the guest's LIDT instructions, at most so many.
    /// - Throws: ``MachineError/refused(_:)`` when the user named a mode that this host does not have.
    init(
        _ mode: LiveCPUIDMode, sites: [UInt64], searches: [CPUIDSite] = [], cpus: Int, host: HostLeafSupport,
        tableLoads: (Int) -> [UInt64] = { _ in [] },
        support: () throws(MachineError) -> BreakpointSupport
    ) throws(MachineError) {
        let floor = host.kernelCounts ? TallyLeaves.none : .snapshot
        guard mode != .off else {
            self = LiveCPUIDPlan(.none, leaves: floor)
            return
        }
        guard mode.asksForBreakpoints(host) else {
            guard host != .none else {
                throw .refused(
                    .liveCPUID, "this kernel does not answer the tally leaves",
                    "load the module of kernel-module/ and be root, or run a kernel with the series of kernel-patch/")
            }
            self = LiveCPUIDPlan(host, leaves: host.kernelCounts ? .asListed : .snapshot)
            return
        }
        let support = try support()
        let wantsFault = mode == .auto || mode == .fault
        let wantsSites = mode == .auto || mode == .sites
        switch mode {
        case .fault where !support.faulting, .sites where !support.hardware:
            throw .refused(.liveCPUID, "no \(mode.rawValue): \(support.missing ?? "")", "use auto")
        default: break
        }
        self.host = .none
        // A snapshot that the guest does not get is none.
        leaves = support.rangeIsTaken ? .none : floor
        fault = wantsFault && support.faulting
        watchesGate = fault && support.writes
        let limit = Self.siteLimit(watchesGate: watchesGate)
        let (sites, searches) = wantsSites && support.hardware ? (sites, searches) : ([], [])
        self.sites = Array(sites.prefix(limit))
        self.searches = Array(searches.prefix(limit - self.sites.count))
        self.tableLoads = fault ? tableLoads(limit - self.sites.count - self.searches.count) : []
        // What is planted is there for all vCPUs, but each has its own breakpoint to wait for.
        plants = !fault && !self.sites.isEmpty && support.privilegedFaults && cpus == 1
        resumeFlagWorks = support.resumeFlag
        taskType = support.taskType
        shortfall =
            if support.rangeIsTaken {
                "this host's KVM has answers of its own to CPUID 0x4FFFFFFF, which are not ours (docs/cpuid-abi.md)"
            } else if sites.count + searches.count > limit {
                "only the first \(limit) of \(sites.count + searches.count) sites are live"
            } else {
                support.missing
            }
    }
}
