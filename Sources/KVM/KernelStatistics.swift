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

    /// - Parameter module: the VM's counters in the loadable module, where it has any.
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

    /// VM exits by reason and the time around them; nil where nobody in the kernel counts them.
    public var accounting: KernelAccounting? { ofModule ?? KernelAccounting(statistics: counter) }
    private var ofModule: KernelAccounting?

    mutating func add(_ snapshot: ExitModuleSnapshot) {
        ofModule = KernelAccounting(snapshot)
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
        if let before = earlier.ofModule {
            result.ofModule = ofModule?.difference(since: before)
        }
        return result
    }
}
