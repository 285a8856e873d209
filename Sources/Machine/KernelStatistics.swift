import KVM

/// KVM's counters of a machine and of its vCPUs, to be read while they run.
///
/// The descriptors are there from the start: to ask a vCPU for its own waits until its KVM_RUN returns.
final class KernelStatistics: Sendable {
    private final class Source: Sendable {
        let statistics: BinaryStats

        init(_ statistics: consuming BinaryStats) {
            self.statistics = statistics
        }
    }

    private let sources: [Source]

    /// Without KVM_GET_STATS_FD (before Linux 5.14) there is nothing to read: the run is worth as much without.
    init(_ machine: borrowing VirtualMachine, vcpus: (borrowing (borrowing VCPU) -> Void) -> Void) {
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
    func read() -> KernelCounters {
        var counters = KernelCounters()
        for source in sources {
            guard let values = try? source.statistics.read() else { return KernelCounters() }
            counters.add(values)
        }
        return counters
    }
}
