import Glibc

/// KVM's own count of exits by reason: a histogram trigger on one of its tracepoints (Documentation/trace/histogram.rst).
///
/// It sees every VM of the host, so nothing else may run there.
struct TracepointCounts {
    private static let events = "/sys/kernel/tracing/events/kvm"

    private let event: String
    private let key: String

    /// Starts counting; nil where the tracepoint is missing or this is not root.
    init?(event: String, key: String) {
        self.event = event
        self.key = key
        guard Self.write("hist:keys=\(key)", to: "\(Self.events)/\(event)/trigger") else { return nil }
    }

    /// Counts by the key's value, such as `{ exit_reason: 30 } hitcount: 12`.
    func counts() -> [UInt64: UInt64] {
        var counts: [UInt64: UInt64] = [:]
        for line in Self.read("\(Self.events)/\(event)/hist").split(separator: "\n") where line.hasPrefix("{") {
            let numbers = line.split { !$0.isNumber }.compactMap { UInt64($0) }
            if let reason = numbers.first, let count = numbers.last, numbers.count >= 2 {
                counts[reason, default: 0] += count
            }
        }
        return counts
    }

    func stop() {
        _ = Self.write("!hist:keys=\(key)", to: "\(Self.events)/\(event)/trigger")
    }

    private static func write(_ text: String, to path: String) -> Bool {
        let descriptor = open(path, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        return Glibc.write(descriptor, text, text.utf8.count) == text.utf8.count
    }

    private static func read(_ path: String) -> String {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return "" }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += chunk.prefix(count)
        }
    }
}
