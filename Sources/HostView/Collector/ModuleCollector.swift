// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Glibc
import KVM

/// What the loadable module (kernel-module/) counts, of the VMs that it is allowed to: VM exits by reason with times, at a
/// fraction of what BPF programs cost. It tells nothing of userspace exits: BPF programs count those, where they may.
public final class ModuleCollector: ExitCollector {
    public let name: String
    /// Why userspace exits are not counted, where they are not.
    let refusal: CollectorError?

    private let module: ExitModule
    private let scope: CollectorScope
    private let returns: BPFCollector?
    private var vms: [Counted] = []
    private var owners = Owners()
    /// Processes whose VMs have been counted, and those to be counted that made userspace exits.
    private var counted: Set<Int32> = []
    private var running: Set<Int32> = []

    /// A VM whose counters are held: they outlive it.
    private final class Counted {
        let vm: ExitModuleList.VM
        let counters: ExitModuleVM
        /// What it had counted before this began, by vCPU.
        var before: [UInt32: (exits: ExitCounts, times: ExitModuleSnapshot.Times)] = [:]

        init(_ vm: ExitModuleList.VM, _ counters: consuming ExitModuleVM) {
            self.vm = vm
            self.counters = counters
        }
    }

    /// - Parameters:
    ///   - vcpus: see ``BPFCollector``.
    ///   - covering: a process whose VM must be among those that the module counts.
    public init(_ scope: CollectorScope, vcpus: Int = 0, covering process: Int32? = nil) throws(CollectorError) {
        self.scope = scope
        let list: ExitModuleList
        do {
            module = try ExitModule()
            list = try module.list()
        } catch {
            throw CollectorError(cause: "\(error)", remedy: "")
        }
        if let process, !list.vms.contains(where: { $0.pid == process }) {
            throw CollectorError(
                cause: "the module is not allowed to count process \(process)", remedy: "sudo vmtally allow \(process)")
        }
        do {
            returns = try BPFCollector(scope, vcpus: vcpus, countsVMExits: false)
            (name, refusal) = ("module+bpf", nil)
        } catch {
            returns = nil
            (name, refusal) = ("module", error)
        }
        try open(list)
        for counted in vms {
            let snapshot = try Self.read(counted)
            for vcpu in snapshot.vcpus { counted.before[vcpu.id] = (Self.counts(vcpu, snapshot), vcpu.times) }
        }
    }

    /// A look reads one small file. A VM that comes and goes between two of them is missed.
    public var discoveryNanoseconds: UInt64 { 5_000_000 }

    /// Takes hold of VMs that have come since.
    public func discover() throws(CollectorError) {
        let list: ExitModuleList
        do { list = try module.list() } catch { throw CollectorError(cause: "\(error)", remedy: "") }
        try open(list)
    }

    /// Takes hold of VMs that are new in the list.
    private func open(_ list: ExitModuleList) throws(CollectorError) {
        for vm in list.vms where scope.contains(vm.pid) && !vms.contains(where: { $0.vm.id == vm.id }) {
            // One that has ended since the list was read is none.
            guard let counters = try? module.open(vm: vm.id) else { continue }
            vms.append(Counted(vm, counters))
            counted.insert(vm.pid)
            owners.add(vm.id, of: vm.pid)
        }
    }

    private static func read(_ counted: Counted) throws(CollectorError) -> ExitModuleSnapshot {
        do {
            // Readings with and without histograms cannot be subtracted from each other.
            return try counted.counters.read(histograms: true)
        } catch {
            throw CollectorError(cause: "\(error)", remedy: "")
        }
    }

    private static func counts(_ vcpu: ExitModuleSnapshot.VCPU, _ snapshot: ExitModuleSnapshot) -> ExitCounts {
        ExitCounts(
            source: .module, vocabulary: snapshot.vocabulary == 1 ? .vmx : .svm,
            reasons: vcpu.reasons.filter { $0.count > 0 }.map {
                ExitCounts.Reason(
                    code: $0.code, count: $0.count,
                    times: ExitCounts.Times(cycles: $0.cycles, range: $0.range, buckets: $0.buckets))
            }
                // KVM counts them, and no tracepoint shows them.
                + (vcpu.unseen > 0 ? [ExitCounts.Reason(code: nil, count: vcpu.unseen)] : []))
    }

    public func read(_ detail: CollectorDetail) throws(CollectorError) -> [VCPUExits] {
        try discover()
        var readings: [VCPUExits] = []
        var gone: Set<UInt64> = []
        for counted in vms {
            let snapshot = try Self.read(counted)
            if snapshot.isGone { gone.insert(counted.vm.id) }
            for vcpu in snapshot.vcpus {
                let before = counted.before[vcpu.id]
                var since = Self.counts(vcpu, snapshot)
                if let before { since = since.difference(since: before.exits) }
                readings.append(
                    VCPUExits(
                        identity: VCPUIdentity(
                            process: counted.vm.pid, thread: 0, machine: counted.vm.id,
                            vcpu: Int32(truncatingIfNeeded: vcpu.id)),
                        threadName: counted.vm.name, hasEnded: snapshot.isGone,
                        hardware: since.sorted(by: detail.bounds),
                        guestCycles: vcpu.times.guest &- (before?.times.guest ?? 0)))
            }
        }
        vms.removeAll { gone.contains($0.vm.id) }
        guard let returns else { return readings }
        defer { owners.keep(Set(vms.map(\.vm.pid))) }
        let userspace = owners.assign(try returns.read(detail))
        if !scope.isEverything { running.formUnion(userspace.map(\.identity.process)) }
        return readings + userspace
    }

    /// Which VM a thread's userspace exits are of: nothing tells, where a process has several.
    struct Owners {
        private var machines: [Int32: Set<UInt64>] = [:]
        private var known: [VCPUIdentity: UInt64] = [:]

        mutating func add(_ machine: UInt64, of process: Int32) { machines[process, default: []].insert(machine) }

        mutating func assign(_ returns: [VCPUExits]) -> [VCPUExits] {
            returns.map { reading in
                var reading = reading
                let thread = reading.identity
                let all = machines[thread.process] ?? []
                // Once told it stays, whatever VMs the process makes later.
                let machine = known[thread] ?? (all.count == 1 ? all.first : nil)
                known[thread] = reading.hasEnded ? nil : machine
                reading.identity.machine = machine ?? 0
                return reading
            }
        }

        /// Forgets processes that have ended.
        mutating func keep(_ processes: Set<Int32>) { machines = machines.filter { processes.contains($0.key) } }
    }

    public func losses() -> CollectorLosses {
        var losses = returns?.losses() ?? CollectorLosses()
        losses.missed = UInt64(running.subtracting(counted).count)
        return losses
    }
}
