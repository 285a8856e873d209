// SPDX-License-Identifier: Apache-2.0
import ExitStats

/// A VM of this host and its exits in some span of time, as tables, documents and metrics show it.
public struct LiveMachine: Sendable {
    public struct VCPU: Sendable {
        /// KVM's id; nil where nothing tells it.
        public var vcpu: Int32?
        public var thread: Int32
        public var hardware: ExitCounts?
        public var userspace: ExitCounts?
        /// TSC cycles.
        public var guestCycles: UInt64?

        public init(
            vcpu: Int32?, thread: Int32, hardware: ExitCounts?, userspace: ExitCounts?, guestCycles: UInt64?
        ) {
            self.vcpu = vcpu
            self.thread = thread
            self.hardware = hardware
            self.userspace = userspace
            self.guestCycles = guestCycles
        }
    }

    /// Fit to be printed, as is ``program``.
    public var name: String
    public var program: String
    public var process: Int32
    /// Tells apart the VMs of one process; 0 where nothing does.
    public var machine: UInt64
    /// Of its process's VMs, in the order in which they were seen: 1, 2, ...
    public var number = 1
    /// The uid of its pod.
    public var pod: String?
    public var vcpus: [VCPU]
    public var hasEnded: Bool
    /// With those that have ended.
    public var vcpuCount: Int
    /// VM exits, without those out of nested guests; nil where nothing tells them.
    public var hardware: ExitCounts?
    public var nested: ExitCounts?
    public var userspace: ExitCounts?
    /// TSC cycles.
    public var guestCycles: UInt64?
    /// The guest's, by its VMM; nil where nothing tells them.
    public var resets: UInt64?

    public init(
        name: String, program: String, process: Int32, machine: UInt64 = 0, pod: String? = nil,
        vcpus: [VCPU] = [], hasEnded: Bool = false, vcpuCount: Int? = nil,
        hardware: ExitCounts? = nil, nested: ExitCounts? = nil, userspace: ExitCounts? = nil,
        guestCycles: UInt64? = nil, resets: UInt64? = nil
    ) {
        self.name = name
        self.program = program
        self.process = process
        self.machine = machine
        self.pod = pod
        self.vcpus = vcpus
        self.hasEnded = hasEnded
        self.vcpuCount = vcpuCount ?? vcpus.count
        self.hardware = hardware
        self.nested = nested
        self.userspace = userspace
        self.guestCycles = guestCycles
        self.resets = resets
    }

    /// VM exits of the VM and of its guests' guests; nil where nothing tells them.
    public var vmExits: UInt64? { hardware.map { $0.total &+ (nested?.total ?? 0) } }

    /// TSC cycles of vCPUs: guest, kernel, userspace, halted; nil where nobody times.
    public var times: (guest: UInt64, kernel: UInt64, userspace: UInt64, halted: UInt64)? {
        guard let guestCycles, let hardware else { return nil }
        let all = hardware.reasons + (nested?.reasons ?? [])
        let times = all.compactMap(\.times)
        return (
            guestCycles, times.reduce(0) { $0 &+ $1.cycles }, times.reduce(0) { $0 &+ $1.userspace },
            times.reduce(0) { $0 &+ $1.halted }
        )
    }
}

extension ExitCounts? {
    /// What happened since an earlier reading; all of it, where there was none.
    public func since(_ earlier: ExitCounts?) -> ExitCounts? {
        guard let counts = self else { return nil }
        return earlier.map { counts.difference(since: $0) } ?? counts
    }
}
