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

    private let sources: [Source]
    /// Why nothing is read: the statistics of some vCPUs alone are worse than none.
    private let problem: String?

    package init(_ machine: borrowing VirtualMachine, vcpus: (borrowing (borrowing VCPU) -> Void) -> Void) {
        var sources: [Source] = []
        var problem: String?
        func add(_ what: String, _ open: () throws(KVMError) -> Source) {
            guard problem == nil else { return }
            do throws(KVMError) {
                sources.append(try open())
            } catch {
                // Before Linux 5.14 the request is unknown.
                problem =
                    error.errno == ENOTTY || error.errno == EINVAL
                    ? "no binary statistics (Linux 5.14 has them)" : Self.explain(what, error)
            }
        }
        add("the VM") { () throws(KVMError) in Source(try machine.statistics()) }
        vcpus { vcpu in
            add("vCPU \(sources.count - 1)") { () throws(KVMError) in Source(try vcpu.statistics()) }
        }
        self.sources = problem == nil ? sources : []
        self.problem = problem
    }

    private static func explain(_ what: String, _ error: KVMError) -> String {
        "the statistics of \(what) cannot be had: \(describe(errno: error.errno))"
            + (error.errno == EMFILE || error.errno == ENFILE ? ": raise the limit of open files (ulimit -n)" : "")
    }

    /// All that KVM has counted so far, VM and vCPUs together; nothing at all unless it is all of it.
    package func read() -> KernelCounters {
        var counters = KernelCounters()
        counters.missing = problem
        for (index, source) in sources.enumerated() {
            do throws(KVMError) {
                counters.add(try source.statistics.read())
            } catch {
                var none = KernelCounters()
                none.missing = Self.explain(index == 0 ? "the VM" : "vCPU \(index - 1)", error)
                return none
            }
        }
        return counters
    }
}

/// KVM's binary statistics by name, summed over VM and vCPUs (kvm/api.rst 4.133).
public struct KernelCounters: Equatable, Sendable {
    /// Value by the kernel's own counter name. Histograms are left out.
    public private(set) var values: [String: UInt64] = [:]
    /// Counters of several values, likewise.
    package private(set) var arrays: [String: [UInt64]] = [:]
    private var cumulative: Set<String> = []
    /// Why there are no counters; nil when there are.
    public internal(set) var missing: String?

    package init() {}

    mutating func add(_ counters: [BinaryStats.Counter]) {
        for counter in counters {
            guard let value = counter.value else {
                if counter.kind == .cumulative {
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
        arrays[name] ?? values[name].map { [$0] }
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
