// SPDX-License-Identifier: Apache-2.0
import ExitStats

/// What to build a machine from.
public struct MachineConfiguration: Sendable {
    public var cpus = 1
    /// Guest RAM, MiB.
    public var memoryMiB = 16
    public var liveCPUID = LiveCPUIDMode.auto
    /// Code whose CPUID is to be answered live, beside the sites that the guest's image lists.
    public var cpuidSites: [CPUIDSite] = []
    /// With chips HLT waits in the kernel for an interrupt and ends nothing. A PC has at least split ones.
    public var irqchip = InterruptControllers.none
    /// MSRs whose accesses go to userspace, beside those of CPUID faulting. Nothing answers them: #GP.
    public var userspaceMSRs: [ClosedRange<UInt32>] = []
    public var serial = SerialOutput.Target.none
    /// Of a PC; a section 6 guest has none of them.
    public var devices = DeviceConfiguration()
    /// End the run after this many milliseconds; 0: never.
    public var timeoutMilliseconds = 0
    /// Signals of the process that end the run. They are blocked while it lasts.
    public var endingSignals: [Int32] = []
    public var sandbox = SandboxConfiguration()
    /// When the guest's boot is over.
    public var bootMarker = BootMarkerConfiguration()
    /// Share the counters with the guest, read-only, where KVM can.
    public var tallyPage = true
    /// What the guest's CPUID is to say otherwise than KVM and this machine would have it. APIC IDs and topology stay each
    /// vCPU's own.
    public var cpuidEdits: [CPUIDEdit] = []
    /// Have RAM there, and mapped where KVM can, before the guest's first instruction.
    public var prefaults = false
    /// Tally exits also by where they come from.
    public var places: Set<PlaceAxis> = []
    /// Look at the counters now and then; nil: at the end.
    public var intervals: IntervalConfiguration?
    /// Counters that go on from an earlier machine's; nil: new ones.
    public var counters: MachineCounters?
    /// A bare-metal guest with interrupt controllers finds a PIT and the TSC deadline timer as well, as in a PC.
    package var hasPCTimers = false
    /// Of a bare-metal guest.
    package var `extension`: (any MachineExtension)?
    /// Off for benchmarks alone: exits are then neither counted nor timed.
    package var countsExits = true
    /// For tests: what somebody who has taken over the devices' thread does there.
    package var intruder: (@Sendable () -> Void)?

    public init() {}
}

/// The counters of a machine whose run is over. They go on in the next one's: a guest that boots again reads one tally.
public struct MachineCounters: Sendable {
    let page: TallyPage?
    let tallies: [Tally]
    /// As the tally page's header has it.
    let boot: UInt64
}

/// Where a machine's interrupt controllers are.
public enum InterruptControllers: String, CaseIterable, Sendable {
    /// There are none.
    case none
    /// Local APICs, I/O APIC, 8259s and 8254 in the kernel.
    case kernel
    /// Local APICs in the kernel, an I/O APIC in the VMM, nothing else.
    case split
}
