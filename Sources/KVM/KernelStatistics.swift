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

    /// Without KVM_GET_STATS_FD (before Linux 5.14) there is nothing to read: the run is worth as much without.
    package init(_ machine: borrowing VirtualMachine, vcpus: (borrowing (borrowing VCPU) -> Void) -> Void) {
        var sources: [Source] = []
        if let statistics = try? machine.statistics() {
            sources.append(Source(statistics))
            vcpus { vcpu in
                if let statistics = try? vcpu.statistics() {
                    sources.append(Source(statistics))
                }
            }
        }
        self.sources = sources
    }

    /// All that KVM has counted so far, VM and vCPUs together.
    package func read() -> KernelCounters {
        var counters = KernelCounters()
        for source in sources {
            guard let values = try? source.statistics.read() else { return KernelCounters() }
            counters.add(values)
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
