// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc
import KVM
import Linux
import Machine
import SeededRandom

/// What to measure and how long.
public struct BenchOptions: Sendable {
    /// In the catalogue's order.
    public var kinds = BenchKind.catalogue
    /// For all kinds together.
    public var seconds = 20.0
    /// vCPUs of the VMs with more than one: 1 leaves out what needs two.
    public var cpus = 2
    /// Shuffles the blocks.
    public var seed: UInt64 = 0
    /// Keep each vCPU on a host CPU of its own.
    public var pins = true
    /// A block that takes longer, and sixty times as long as it should, is stuck: ms.
    var patience = 5_000

    public init() {}
}

/// Measures the latency of exits, kind by kind, as the guest sees it.
///
/// Kinds that need the same VM share one. Each kind is tried first: what this host cannot do ends its VM, not the
/// bench. Then blocks of iterations of all kinds run in shuffled order, so that a disturbance of some seconds hits them
/// all alike.
public final class Bench {
    public enum Progress: Sendable {
        case trying(String)
        /// Blocks done, of all.
        case measuring(Int, Int)
    }

    private static let rounds = 24

    private let options: BenchOptions
    private let elf: UnsafeRawBufferPointer
    private let allowed: [Int32]
    private let system: System
    private let support: BreakpointSupport
    private let host: HostLeafSupport
    private var machines: [BenchEnvironment: BenchMachine] = [:]
    /// Next page for ``BenchKind/Fresh/devicePages``.
    private var devicePage: UInt64 = 0
    private var tscKHz: UInt32 = 0

    /// - Parameter elf: the guest, guest-probe/Bench.
    public init(_ options: BenchOptions, elf: UnsafeRawBufferPointer) throws(MachineError) {
        self.options = options
        self.elf = elf
        var cpus = [Int32](repeating: 0, count: 1024)
        let count = vmtally_allowed_cpus(&cpus, Int32(cpus.count))
        allowed = Array(cpus.prefix(Int(max(0, count))))
        let opened = try lifted { () throws(KVMError) in try System() }
        support = try BreakpointSupport.probe(opened)
        host = HostLeafSupport(opened, supported: try lifted { () throws(KVMError) in try opened.supportedCPUID() })
        system = opened
    }

    deinit {
        machines.values.forEach { $0.stop() }
    }

    /// The last of the CPUs that the process may use: the first one has the most to do beside.
    private var pins: [Int32] { options.pins ? Array(allowed.suffix(options.cpus).reversed()) : [] }

    /// - Parameter report: false: enough; the kinds that have been measured are the result.
    public func run(_ report: (Progress) -> Bool) throws(MachineError) -> BenchResult {
        let start = monotonicNanoseconds()
        var reasons: [String: String] = [:]
        var records: [String: BenchRecord] = [:]
        var plans: [Plan] = []
        let share = options.seconds / Double(options.kinds.count + 1)
        for kind in [Self.overhead] + options.kinds {
            guard report(.trying(kind.name)) else {
                reasons[kind.name] = Self.cutOff
                continue
            }
            switch try attempt(kind, share: share) {
            case .success(let plan):
                plans.append(plan)
                records[kind.name] = BenchRecord()
            case .failure(let reason) where kind.name == Self.overhead.name:
                throw .refused(
                    .bench, "its guest does not run on this host: \(reason.text)", "see what `vmtally host` says")
            case .failure(let reason): reasons[kind.name] = reason.text
            }
        }
        let latest = UInt64((options.seconds * 1.5 + 5) * 1e9)
        var order = plans.indices.flatMap { index in Array(repeating: index, count: plans[index].blocks) }
        var generator = SplitMix64(seed: options.seed)
        order.shuffle(using: &generator)
        for (done, index) in order.enumerated() {
            guard report(.measuring(done, order.count)) else { break }
            let plan = plans[index]
            // On a busy machine all takes longer than planned: then the median has to do with fewer blocks.
            let isLate = monotonicNanoseconds() - start > latest && records[plan.kind.name]?.blocks ?? 0 >= 6
            guard reasons[plan.kind.name] == nil, !isLate else { continue }
            switch try block(
                plan.kind, iterations: plan.iterations, warmUp: plan.warmUp, milliseconds: plan.milliseconds)
            {
            case .success(let (block, request)): records[plan.kind.name]?.add(block, request)
            case .failure(let reason): reasons[plan.kind.name] = reason.text
            }
        }
        _ = report(.measuring(order.count, order.count))
        let overhead = records[Self.overhead.name]?.measurement(Self.overhead, overhead: 0)?.p50 ?? 0
        let rows = options.kinds.map { kind -> BenchResult.Row in
            if let reason = reasons[kind.name] { return BenchResult.Row(kind: kind, outcome: .unavailable(reason)) }
            guard let measurement = records[kind.name]?.measurement(kind, overhead: overhead) else {
                return BenchResult.Row(kind: kind, outcome: .unavailable(Self.cutOff))
            }
            return BenchResult.Row(kind: kind, outcome: .measured(measurement))
        }
        return BenchResult(
            rows: rows, seed: options.seed, overhead: overhead, tscKHz: tscKHz, cpus: options.cpus, pinned: pins,
            wallNanoseconds: monotonicNanoseconds() - start)
    }

    /// Two readings of the TSC and nothing in between.
    private static let overhead = BenchKind("empty", .instructions, "", .empty)

    private static let cutOff = "not measured: the bench was cut off"

    private struct Plan {
        let kind: BenchKind
        let iterations: UInt32
        let warmUp: UInt32
        let blocks: Int
        /// How long a block may take.
        let milliseconds: Int
    }

    private struct Reason: Error {
        let text: String
    }

    /// Tries a kind, and plans its blocks by the time that it took.
    private func attempt(_ kind: BenchKind, share: Double) throws(MachineError) -> Result<Plan, Reason> {
        if let missing = missing(kind) { return .failure(Reason(text: missing)) }
        // The first block may start the VM; more are worth their time where that was short. The shortest is the one that
        // nothing came in between of.
        var iteration = Double.infinity
        var around = Double.infinity
        for iterations in [2, min(30, kind.limit - 2), min(30, kind.limit - 2)] as [UInt32] {
            let start = monotonicNanoseconds()
            switch try block(kind, iterations: iterations, warmUp: 2, milliseconds: options.patience) {
            case .failure(let reason): return .failure(reason)
            case .success(let (block, _)):
                iteration = min(iteration, Double(block.nanoseconds) / 1e9 / Double(iterations + 2))
                let all = monotonicNanoseconds() - start
                around = min(around, Double(all - min(all, block.nanoseconds)) / 1e9)
            }
            if iteration * 30 > share / 10 { break }
        }
        let blocks = Int(min(max(share / (iteration * 5 + around), 3), Double(Self.rounds)))
        let affordable = (share / Double(blocks) - around) / max(iteration, 1e-9)
        let all = UInt32(min(max(affordable, 5), Double(kind.limit)))
        let warmUp = max(1, min(32, all / 5))
        return .success(
            Plan(
                kind: kind, iterations: all - warmUp, warmUp: warmUp, blocks: blocks,
                milliseconds: max(options.patience, Int(min(iteration * Double(all) * 60_000, 1e7)))))
    }

    /// Why this host cannot do it, as far as that is known without trying.
    private func missing(_ kind: BenchKind) -> String? {
        for need in kind.needs {
            switch need {
            case .capability(let capability) where system.check(capability) == 0: return "no \(capability.name)"
            case .twoCPUs where options.cpus < 2: return "needs two vCPUs"
            case .twoCPUs where allowed.count < 2: return "needs two host CPUs, this process may use \(allowed.count)"
            case .hugePages:
                if let setting = HugePages.unavailable { return setting }
            case .kernelAnswers where host.vocabulary == nil:
                return "this kernel does not answer the leaf: it needs kernel-module/ or kernel-patch/"
            case .kernelSends where host != .userspace:
                return host == .none
                    ? "this kernel does not send CPUID to the VMM: it needs the series of kernel-patch/"
                    : "this kernel answers the leaf itself"
            default: break
            }
        }
        switch kind.environment.live {
        case .sites where !support.hardware: return support.missing ?? "breakpoints do not hit"
        case .fault where !support.faulting: return support.missing ?? "CPUID does not fault"
        default: return nil
        }
    }

    private func block(
        _ kind: BenchKind, iterations: UInt32, warmUp: UInt32, milliseconds: Int
    ) throws(MachineError) -> Result<(BenchHost.Block, BenchRequest), Reason> {
        let machine: BenchMachine
        if let existing = machines[kind.environment] {
            machine = existing
        } else {
            machine = try BenchMachine(
                kind.environment, elf, cpus: options.cpus, pins: pins, support: support, hostLeaves: host)
            machines[kind.environment] = machine
            tscKHz = machine.tscKHz
        }
        var request = BenchRequest()
        request.operation = kind.operation.rawValue
        request.iterations = min(iterations, BenchLayout.sampleLimit)
        request.warmUp = warmUp
        request.apic = kind.environment.apic
        request.first = kind.first.resolved(tscKHz: machine.tscKHz > 0 ? machine.tscKHz : 1_000_000)
        request.second = kind.second
        request.marksInMemory = kind.marksInMemory ? 1 : 0
        request.usesPeer = kind.usesPeer ? 1 : 0
        let touched = request.iterations + warmUp
        if kind.fresh == .devicePages {
            request.first = nextDevicePages(UInt64(touched))
        }
        do throws(BenchHost.Stop) {
            let block = try machine.run(request, milliseconds: milliseconds) { memory in
                switch kind.fresh {
                case .smallPages: memory.forget(BenchLayout.smallPages, count: Int(touched) << 12, huge: false)
                case .largePages: memory.forget(BenchLayout.largePages, count: Int(touched) << 21, huge: true)
                case .devicePages, nil: break
                }
            }
            return .success((block, request))
        } catch {
            switch error {
            case .refused: return .failure(Reason(text: "the guest's processor does not have it"))
            case .stuck, .ended:
                machines[kind.environment] = nil
                let end = machine.stop()
                return .failure(
                    Reason(text: error == .stuck ? "a block did not end in \(milliseconds) ms" : end))
            }
        }
    }

    /// Guest physical pages between the bench's devices and the I/O APIC, one after the other.
    private func nextDevicePages(_ count: UInt64) -> UInt64 {
        let start: UInt64 = 0xD400_0000
        let pages: UInt64 = (0xFE00_0000 - start) >> 12
        if devicePage + count > pages { devicePage = 0 }
        defer { devicePage += count }
        return start + devicePage << 12
    }
}

/// Whether the kernel backs memory with transparent huge pages when asked to.
private enum HugePages {
    static var unavailable: String? {
        let path = "/sys/kernel/mm/transparent_hugepage/enabled"
        guard let file = fopen(path, "re") else { return "no transparent huge pages in this kernel" }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 128)
        guard fgets(&line, Int32(line.count), file) != nil else { return "\(path) is empty" }
        let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        return text.contains("[never]") ? "transparent huge pages are off: \(path)" : nil
    }
}

extension GuestMemory {
    /// Makes pages as if never touched, to be had as huge ones or not.
    func forget(_ address: UInt64, count: Int, huge: Bool) {
        guard let room = slice(address, count: count) else { return }
        madvise(room.baseAddress, count, MADV_DONTNEED)
        madvise(room.baseAddress, count, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE)
    }
}
