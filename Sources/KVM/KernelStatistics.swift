// SPDX-License-Identifier: Apache-2.0
import Glibc
import Linux

/// KVM's counters of a machine and of its vCPUs, to be read while they run.
///
/// The descriptors are there from the start: to ask a vCPU for its own waits until its KVM_RUN returns.
package final class KernelStatistics: Sendable {
    private final class Source: Sendable {
        let statistics: BinaryStats

        init(_ statistics: consuming BinaryStats) {
            self.statistics = statistics
        }
    }

    private final class Module: Sendable {
        let vm: ExitModuleVM

        init(_ vm: consuming ExitModuleVM) {
            self.vm = vm
        }
    }

    private let sources: [Source]
    /// Why nothing is read: the statistics of some vCPUs alone are worse than none.
    private let problem: String?
    private let module: Module?

    /// - Parameter module: the VM's counters in the loadable module, where it has any. They are given the names that the
    ///   series of kernel-patch/ has for the same.
    package init(
        _ machine: borrowing VirtualMachine, module: consuming ExitModuleVM? = nil,
        vcpus: (borrowing (borrowing VCPU) -> Void) -> Void
    ) {
        var sources: [Source] = []
        var problem: String?
        func add(_ index: Int, _ open: () throws(KVMError) -> Source) {
            guard problem == nil else { return }
            do throws(KVMError) {
                sources.append(try open())
            } catch {
                // Before Linux 5.14 the request is unknown.
                problem =
                    error.errno == ENOTTY || error.errno == EINVAL
                    ? "no binary statistics (Linux 5.14 has them)" : Self.explain(index, error)
            }
        }
        add(0) { () throws(KVMError) in Source(try machine.statistics()) }
        vcpus { vcpu in
            add(sources.count) { () throws(KVMError) in Source(try vcpu.statistics()) }
        }
        self.sources = problem == nil ? sources : []
        self.problem = problem
        if let module { self.module = Module(module) } else { self.module = nil }
    }

    private static func explain(_ source: Int, _ error: KVMError) -> String {
        "the statistics of \(source == 0 ? "the VM" : "vCPU \(source - 1)") cannot be had: \(describe(errno: error.errno))"
            + (error.errno == EMFILE || error.errno == ENFILE ? ": raise the limit of open files (ulimit -n)" : "")
    }

    /// What was counted at one moment, as the kernel laid it out. A run takes one before its guest begins, and looks
    /// through it when the guest has ended: names and sums take 0.3 ms.
    package struct Moment: Sendable {
        fileprivate var data: [[UInt8]] = []
        fileprivate var module: ExitModuleSnapshot?
        fileprivate var missing: String?
    }

    package func now() -> Moment {
        var moment = Moment(missing: problem)
        for (index, source) in sources.enumerated() {
            do throws(KVMError) {
                moment.data.append(try source.statistics.data())
            } catch {
                return Moment(missing: Self.explain(index, error))
            }
        }
        moment.module = module.flatMap { try? $0.vm.read() }
        return moment
    }

    /// All that KVM had counted then, VM and vCPUs together; nothing at all unless it is all of it.
    package func counters(at moment: Moment) -> KernelCounters {
        var counters = KernelCounters()
        counters.missing = moment.missing
        for (index, data) in moment.data.enumerated() {
            do throws(KVMError) {
                counters.add(try sources[index].statistics.counters(in: data))
            } catch {
                var none = KernelCounters()
                none.missing = Self.explain(index, error)
                return none
            }
        }
        if let snapshot = moment.module {
            counters.add(snapshot)
        }
        return counters
    }

    /// All that KVM has counted so far.
    package func read() -> KernelCounters { counters(at: now()) }
}

/// KVM's binary statistics by name, summed over VM and vCPUs (kvm/api.rst 4.133).
public struct KernelCounters: Equatable, Sendable {
    /// Value by the kernel's own counter name. Histograms are left out.
    public private(set) var values: [String: UInt64] = [:]
    /// Counters of several values, likewise.
    package private(set) var arrays: [String: [UInt64]] = [:]
    /// Several values that tell of all sources alike, as what a counter's slots count.
    private var constants: [String: [UInt64]] = [:]
    private var cumulative: Set<String> = []
    /// Why there are no counters; nil when there are.
    public internal(set) var missing: String?

    package init() {}

    mutating func add(_ counters: [BinaryStats.Counter]) {
        for counter in counters {
            guard let value = counter.value else {
                if counter.kind == .instant {
                    constants[counter.name] = counter.values
                } else if counter.kind == .cumulative {
                    let before = arrays[counter.name] ?? Array(repeating: 0, count: counter.values.count)
                    arrays[counter.name] = zip(before, counter.values).map { $0 &+ $1 }
                }
                continue
            }
            values[counter.name, default: 0] &+= value
            if counter.kind == .cumulative {
                cumulative.insert(counter.name)
            }
        }
    }

    /// All values of a counter, one or several; nil where the kernel has none of that name.
    public func counter(_ name: String) -> [UInt64]? {
        arrays[name] ?? constants[name] ?? values[name].map { [$0] }
    }

    /// The module's counters of a VM, by the names of kernel-patch/.
    mutating func add(_ snapshot: ExitModuleSnapshot) {
        func sum(_ value: (ExitModuleSnapshot.VCPU) -> UInt64) -> UInt64 {
            snapshot.vcpus.reduce(0) { $0 &+ value($1) }
        }
        let sums = [
            "exits": snapshot.exits, "cycles": sum { $0.times.kernel &+ $0.times.preempted },
            "guest_cycles": sum(\.times.guest), "blocked_cycles": sum(\.times.blocked),
            "userspace_cycles": sum(\.times.userspace), "no_entry_exits": sum(\.unseen),
        ]
        for (name, value) in sums {
            values["exit_acct_\(name)"] = value
            cumulative.insert("exit_acct_\(name)")
        }
        var exits = [UInt64](repeating: 0, count: Self.slotCount)
        var cycles = exits
        for reason in snapshot.vcpus.lazy.flatMap(\.reasons) {
            let slot = Self.slot(of: reason.code, vocabulary: snapshot.vocabulary)
            exits[slot] &+= reason.count
            cycles[slot] &+= reason.cycles
        }
        // What VMX cannot run KVM emulates, and calls exit reason 33 without an event of its own.
        exits[snapshot.vocabulary == 1 ? 33 : Self.slotCount - 1] &+= sum(\.unseen)
        arrays["exit_acct_reason_exits"] = exits
        arrays["exit_acct_reason_cycles"] = cycles
        constants["exit_acct_codes"] = (0..<Self.slotCount).map { slot in
            Self.code(of: slot, vocabulary: snapshot.vocabulary)
        }
    }

    /// The series' counters by reason: the last is for codes that have none of their own (kvm/api.rst 4.133 as patched).
    private static let slotCount = 174

    private static func slot(of code: UInt32, vocabulary: UInt32) -> Int {
        switch code {
        case 0...85: Int(code)
        case 86...0xA6 where vocabulary != 1: Int(code)
        case 0x400...0x403 where vocabulary != 1: 0xA7 + Int(code) - 0x400
        case 0xF000_0000 where vocabulary != 1: 0xAB
        case 0xFFFF_FFFF where vocabulary != 1: 0xAC
        default: slotCount - 1
        }
    }

    /// All ones for a slot that has no code of its own, as the series has it.
    private static func code(of slot: Int, vocabulary: UInt32) -> UInt64 {
        let code: UInt32 =
            switch slot {
            case 0xA7...0xAA: 0x400 + UInt32(slot) - 0xA7
            case 0xAB: 0xF000_0000
            case 0xAC: 0xFFFF_FFFF
            default: UInt32(slot)
            }
        return slot < slotCount - 1 && Self.slot(of: code, vocabulary: vocabulary) == slot ? UInt64(code) : .max
    }

    /// Cumulative counters' growth; others as they are now.
    package func difference(since earlier: KernelCounters) -> KernelCounters {
        guard missing == nil, earlier.missing == nil else {
            var none = KernelCounters()
            none.missing = missing ?? earlier.missing
            return none
        }
        var result = self
        for name in cumulative {
            result.values[name] = (values[name] ?? 0) &- (earlier.values[name] ?? 0)
        }
        for (name, before) in earlier.arrays {
            result.arrays[name] = zip(arrays[name] ?? [], before).map { $0 &- $1 }
        }
        return result
    }
}
