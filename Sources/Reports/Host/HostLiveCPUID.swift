// SPDX-License-Identifier: Apache-2.0
/// What a self-test found out about answering CPUID live (breakpoints, CPUID faulting), which no capability tells:
/// emulators offer KVM_SET_GUEST_DEBUG and then do not stop.
public struct LiveCPUIDProbe: Equatable, Sendable {
    public enum Outcome: Equatable, Sendable {
        case works
        /// Why not.
        case fails(String)
        case notTried
    }

    /// The host kernel answers our leaves, or sends them to the VMM.
    public var hostAnswers: Outcome
    /// A hardware execution breakpoint stops the guest.
    public var hardwareBreakpoint: Outcome
    /// An int3 stops the guest.
    public var softwareBreakpoint: Outcome
    /// CPUID in ring 3 raises #GP once faulting is on.
    public var cpuidFaulting: Outcome

    public init(
        hostAnswers: Outcome = .notTried, hardwareBreakpoint: Outcome = .notTried,
        softwareBreakpoint: Outcome = .notTried, cpuidFaulting: Outcome = .notTried
    ) {
        self.hostAnswers = hostAnswers
        self.hardwareBreakpoint = hardwareBreakpoint
        self.softwareBreakpoint = softwareBreakpoint
        self.cpuidFaulting = cpuidFaulting
    }
}

/// The ways to answer the tally's leaves, and which of them this host allows.
public struct LiveCPUIDModes: Equatable, Codable, Sendable {
    public enum Possible: String, Codable, Sendable {
        case yes, no
        /// Nothing speaks against it, but nobody has tried.
        case untested
    }

    public struct Mode: Equatable, Codable, Sendable {
        /// As `--live-cpuid` takes it; `snapshot` is what `off` leaves.
        public var mode: String
        public var possible: Possible
        /// Which CPUIDs it answers.
        public var covers: String
        /// Why, or why not.
        public var why: String
    }

    /// Best first.
    public var modes: [Mode]
    /// What `--live-cpuid auto` resolves to, as far as it has been tried: `fault+sites`, or the floor, `snapshot`.
    public var auto: String

    /// Judges from capabilities what the probe leaves open.
    /// - Parameters:
    ///   - has: whether a capability is there, by its name, as KVM_CAP_SYNC_REGS.
    ///   - faultingMSR: bit 31 of the host's MSR_PLATFORM_INFO as KVM offers it to guests; nil when unknown.
    public init(has: (String) -> Bool, faultingMSR: Bool?, probe: LiveCPUIDProbe) {
        modes = [
            Self.host(probe), Self.fault(has, faultingMSR, probe), Self.sites(has, probe),
            Mode(
                mode: "snapshot", possible: has("KVM_CAP_EXT_CPUID") ? .yes : .no,
                covers: "every CPUID, but with the counts from the start",
                why: has("KVM_CAP_EXT_CPUID") ? "KVM_CAP_EXT_CPUID" : "KVM_CAP_EXT_CPUID is missing"),
        ]
        let live = modes.dropLast().filter { $0.possible == .yes }.map(\.mode)
        auto = live.first == "host" ? "host" : live.isEmpty ? "snapshot" : live.joined(separator: "+")
    }

    private static func host(_ probe: LiveCPUIDProbe) -> Mode {
        let covers = "every CPUID of any guest, in any ring"
        return switch probe.hostAnswers {
        case .works: Mode(mode: "host", possible: .yes, covers: covers, why: "this kernel answers the leaves")
        case .fails(let reason): Mode(mode: "host", possible: .no, covers: covers, why: reason)
        case .notTried:
            Mode(mode: "host", possible: .untested, covers: covers, why: "needs vmtally's module, or its patch")
        }
    }

    private static func fault(_ has: (String) -> Bool, _ faultingMSR: Bool?, _ probe: LiveCPUIDProbe) -> Mode {
        let missing = missing(
            ["SET_GUEST_DEBUG", "MSR_PLATFORM_INFO", "X86_USER_SPACE_MSR", "X86_MSR_FILTER"], has)
        return judge(
            "fault", covers: "every CPUID in ring 3, in unmodified programs", missing: missing,
            obstacle: faultingMSR == false ? "KVM offers guests no CPUID faulting (MSR_PLATFORM_INFO bit 31)" : nil,
            outcomes: [probe.cpuidFaulting, probe.hardwareBreakpoint],
            ready: "CPUID faulting, guest debugging and the MSR filter are offered")
    }

    private static func sites(_ has: (String) -> Bool, _ probe: LiveCPUIDProbe) -> Mode {
        // One kind of breakpoint is enough.
        let outcomes = [probe.hardwareBreakpoint, probe.softwareBreakpoint]
        return judge(
            "sites", covers: "CPUID instructions listed in the guest's .vmtally.sites, in any ring",
            missing: missing(["SET_GUEST_DEBUG"], has), obstacle: nil,
            outcomes: outcomes.contains(.works) ? [.works] : outcomes, ready: "guest debugging is offered")
    }

    private static func missing(_ names: [String], _ has: (String) -> Bool) -> [String] {
        names.map { "KVM_CAP_\($0)" }.filter { !has($0) }
    }

    private static func judge(
        _ mode: String, covers: String, missing: [String], obstacle: String?, outcomes: [LiveCPUIDProbe.Outcome],
        ready: String
    ) -> Mode {
        func result(_ possible: Possible, _ why: String) -> Mode {
            Mode(mode: mode, possible: possible, covers: covers, why: why)
        }
        if !missing.isEmpty {
            return result(.no, missing.joined(separator: ", ") + (missing.count == 1 ? " is missing" : " are missing"))
        }
        if let obstacle { return result(.no, obstacle) }
        for case .fails(let reason) in outcomes { return result(.no, reason) }
        return outcomes.allSatisfy { $0 == .works } ? result(.yes, "tried: it works") : result(.untested, ready)
    }
}
