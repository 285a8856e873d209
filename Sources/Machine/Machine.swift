// SPDX-License-Identifier: Apache-2.0
import ExitStats
import GuestCode
import KVM
import Linux

/// A VM with its vCPUs that runs one guest, once.
public final class Machine {
    public let configuration: MachineConfiguration
    /// How CPUID's tally leaves are answered.
    public let liveCPUID: LiveCPUIDPlan
    /// The guest's serial port.
    public let output: SerialOutput
    /// One tally a vCPU; readable while the guest runs.
    public let tallies: [Tally]
    /// TSC frequency in kHz, 0 if KVM does not know it.
    public let tscKHz: UInt32
    /// What came of ``MachineConfiguration/prefaults``; nil: not asked for.
    public let prefault: Prefault?

    let host: HostLeafSupport
    let vm: SharedVM
    let memory: GuestMemory
    let page: TallyPage?
    let control: RunControl
    let devices: MachineDevices
    let vcpus: [RunningVCPU]
    let recorder: RunRecorder?
    let marker: BootMarker
    let statistics: KernelStatistics
    let sandbox: MachineSandbox

    /// Creates the VM and loads the guest.
    ///
    /// - Parameter support: what breakpoints can do here, if it is known already; else it is tried out.
    public init(
        _ configuration: MachineConfiguration, _ guest: Guest, support: BreakpointSupport? = nil
    ) throws(MachineError) {
        let plan = try MachinePlan(configuration, guest, support: support)
        let build = try MachineBuild(plan)
        self.configuration = plan.configuration
        host = plan.host
        liveCPUID = build.liveCPUID
        vm = build.vm
        memory = build.memory
        page = build.page
        control = build.control
        recorder = build.recorder
        marker = build.marker
        output = build.output
        devices = build.devices
        tallies = build.tallies
        vcpus = build.vcpus
        statistics = build.statistics
        prefault = build.prefault
        tscKHz = build.vcpus[0].loop.rare.interposer.tscKHz
        sandbox = MachineSandbox(configuration.sandbox)
        try seal()
    }

    /// The last step before the run, after which nothing is added: guest and boot marker get to see the counters.
    private func seal() throws(MachineError) {
        try page?.publish(
            TallyPageHeader(
                vcpus: UInt32(configuration.cpus), tscKHz: tscKHz, vocabulary: .kvm,
                boot: configuration.counters?.boot ?? 1))
        marker.attach { [tallies, statistics] in
            BootMarker.Note(
                nanoseconds: monotonicNanoseconds(), tallies: tallies.map { $0.snapshot() },
                kernel: statistics.read())
        }
        recorder?.attach { [tallies, statistics] in (tallies, statistics) }
    }

    /// For a machine that is to boot the same guest again, with as many vCPUs, when this one's run is over.
    public var countersForNextBoot: MachineCounters {
        MachineCounters(page: page, tallies: tallies, boot: (configuration.counters?.boot ?? 1) + 1)
    }

    /// Creates the VM and loads a bare-metal guest.
    public convenience init(
        _ configuration: MachineConfiguration, elf bytes: UnsafeRawBufferPointer, support: BreakpointSupport? = nil
    ) throws(MachineError) {
        try self.init(configuration, .bareMetal(bytes), support: support)
    }

    /// Creates the VM and loads the guest from a file.
    public convenience init(_ configuration: MachineConfiguration, path: String) throws(MachineError) {
        let image = try lifted { () throws(SystemError) in try FileImage(path: path) }
        try self.init(configuration, elf: image.bytes)
    }

    /// Ends the run from another thread, as its timeout would.
    package func stop() {
        control.finish(.timeout)
    }

    /// Ends the run from another thread, as a signal would.
    package var interrupt: @Sendable (Int32) -> Void {
        { [control] signal in control.finish(.interrupted(signal: signal)) }
    }
}
