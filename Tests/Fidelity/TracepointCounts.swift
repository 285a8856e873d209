// SPDX-License-Identifier: Apache-2.0
import ExitStats
import HostView

/// KVM's own count of exits by reason. It sees every VM of the host, so nothing else may run there.
struct TracepointCounts {
    private let instance: TraceInstance
    private let source: ExitCounts.Source

    /// Starts counting; nil where the tracepoint is missing or this is not root.
    init?(_ source: ExitCounts.Source) {
        self.source = source
        guard let instance = try? TraceInstance(source.rawValue),
            (try? instance.count(source.rawValue, by: TracedExits.keys(source), size: 512)) != nil
        else { return nil }
        self.instance = instance
    }

    func counts() -> ExitCounts? {
        (try? instance.histograms(source.rawValue)).map { TracedExits(source, $0).counts }
    }
}
