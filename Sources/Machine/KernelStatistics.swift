import Glibc
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
    /// Why nothing is read: the statistics of some vCPUs alone are worse than none.
    private let problem: String?

    init(_ machine: borrowing VirtualMachine, vcpus: (borrowing (borrowing VCPU) -> Void) -> Void) {
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
                    ? "no binary statistics (Linux 5.14 has them)" : Self.explain(what, error.errno)
            }
        }
        add("the VM") { () throws(KVMError) in Source(try machine.statistics()) }
        vcpus { vcpu in
            add("vCPU \(sources.count - 1)") { () throws(KVMError) in Source(try vcpu.statistics()) }
        }
        self.sources = problem == nil ? sources : []
        self.problem = problem
    }

    private static func explain(_ what: String, _ errno: Int32) -> String {
        "the statistics of \(what) cannot be had: \(describe(errno: errno))"
            + (errno == EMFILE || errno == ENFILE ? ": raise the limit of open files (ulimit -n)" : "")
    }

    /// All that KVM has counted so far, VM and vCPUs together; nothing at all unless it is all of it.
    func read() -> KernelCounters {
        var counters = KernelCounters()
        counters.missing = problem
        for (index, source) in sources.enumerated() {
            do throws(KVMError) {
                counters.add(try source.statistics.read())
            } catch {
                var none = KernelCounters()
                none.missing = Self.explain(index == 0 ? "the VM" : "vCPU \(index - 1)", error.errno)
                return none
            }
        }
        return counters
    }
}
