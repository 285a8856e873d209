import HostView

/// KVM's own count of exits by reason. It sees every VM of the host, so nothing else may run there.
struct TracepointCounts {
    private let instance: TraceInstance
    private let event: String

    /// Starts counting; nil where the tracepoint is missing or this is not root.
    init?(event: String, key: String) {
        self.event = event
        guard let instance = try? TraceInstance(event), (try? instance.count(event, by: key, size: 512)) != nil else {
            return nil
        }
        self.instance = instance
    }

    /// Counts by the key's value.
    func counts() -> [UInt64: UInt64] {
        let entries = (try? instance.histograms(event))?.first?.entries ?? []
        return entries.reduce(into: [:]) { counts, entry in
            if let reason = entry.keys.first { counts[reason, default: 0] += entry.count }
        }
    }
}
