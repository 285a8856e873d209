import ExitStats
import Machine

/// A run as people read it.
public struct RunTable: Sendable {
    private let result: RunResult
    private let tscKHz: UInt32
    private let byRIP: RIPReport?

    public init(_ result: RunResult, tscKHz: UInt32, byRIP: RIPReport? = nil) {
        self.result = result
        self.tscKHz = tscKHz
        self.byRIP = byRIP
    }

    public func lines() -> [String] {
        let all = result.total
        var table = TextTable(
            header: ["userspace exits", "count", "share", "cycles", "min", "p50", "p90", "p99", "p99.9", "max"])
        for reason in all.reasons.sorted(by: { $0.count > $1.count }) {
            table.add(
                [ReasonVocabulary.kvm.name(reason.code), grouped(reason.count), share(reason.count, all.total.count)]
                    + [
                        reason.cycles, reason.minimum, reason.percentile(0.5), reason.percentile(0.9),
                        reason.percentile(0.99), reason.percentile(0.999), reason.maximum,
                    ].map(grouped))
        }
        table.add([
            "total", grouped(all.total.count), share(all.total.count, all.total.count), grouped(all.total.cycles),
        ])
        let places = byRIP.map { [""] + $0.lines() + [""] } ?? []
        let end = "end: \(result.end.reason), status \(result.end.exitStatus)"
        return table.lines() + places + kernelLines(all.total.count) + hardwareLines() + [end, summary]
    }

    /// The patched kernel's own tally: VM exits by reason, and where a vCPU's time went.
    private func hardwareLines() -> [String] {
        guard let hardware = result.hardware else { return [] }
        let vocabulary = ReasonVocabulary.vocabulary(hardware.vocabulary)
        var table = TextTable(header: ["VM exits", "count", "share", "cycles in the kernel", "mean"])
        for reason in hardware.reasons.sorted(by: { $0.pair.count > $1.pair.count }) {
            table.add([
                reason.code.map(vocabulary.name) ?? "other", grouped(reason.pair.count),
                share(reason.pair.count, hardware.total.count), grouped(reason.pair.cycles),
                grouped(reason.pair.cycles / max(1, reason.pair.count)),
            ])
        }
        table.add([
            "total", grouped(hardware.total.count), share(hardware.total.count, hardware.total.count),
            grouped(hardware.total.cycles), grouped(hardware.total.cycles / max(1, hardware.total.count)),
        ])
        let times = [
            ("guest", hardware.guestCycles), ("kernel", hardware.total.cycles),
            ("userspace", hardware.userspaceCycles), ("blocked", hardware.blockedCycles),
        ]
        let all = times.reduce(0) { $0 &+ $1.1 }
        let shares = times.map { "\($0.0) \(share($0.1, all))" }.joined(separator: ", ")
        return [""] + table.lines() + ["vCPU time: " + shares]
    }

    /// KVM's own count next to ours: what it has more, no userspace program saw.
    private func kernelLines(_ userspace: UInt64) -> [String] {
        guard let exits = result.kernel.values["exits"] else {
            return ["VM exits by the kernel's count: none: \(result.kernel.missing ?? "KVM has no such counter")"]
        }
        let inside = exits >= userspace ? "\(grouped(exits - userspace)) of them handled inside KVM" : "fewer than ours"
        let counters = result.kernel.values.filter { $0.value > 0 && $0.key != "exits" }
            .sorted { $0.key < $1.key }.map { "\($0.key) \(grouped($0.value))" }
        return ["VM exits by the kernel's count: \(grouped(exits)), \(inside)"] + Self.wrapped(counters, width: 110)
    }

    /// Items in indented lines; none is broken.
    private static func wrapped(_ items: [String], width: Int) -> [String] {
        items.reduce(into: []) { lines, item in
            if let line = lines.last, line.count + item.count + 3 <= width {
                lines[lines.count - 1] = "\(line);  \(item)"
            } else {
                lines.append("  \(item)")
            }
        }
    }

    private var summary: String {
        let seconds = Double(result.wallNanoseconds) / 1e9
        let busy = tscKHz > 0 ? Double(result.total.total.cycles) / Double(tscKHz) / 1000 : 0
        return "wall \(fixed(seconds, 3)) s, in the VMM \(fixed(busy, 3)) s; leaf 0x4FFFFFFF: \(leaf)"
    }

    private var leaf: String {
        switch result.leaf.mode {
        case "none": "not there"
        case "snapshot": "a snapshot from before the start"
        default: "\(result.leaf.mode), \(grouped(result.leaf.answered.total)) answered live"
        }
    }
}

func share(_ part: UInt64, _ whole: UInt64) -> String {
    whole == 0 ? "" : fixed(100 * Double(part) / Double(whole), 1) + " %"
}

/// A number of at least 0 with so many decimals; one that is too large for that, or none, as Swift writes it.
func fixed(_ value: Double, _ decimals: Int) -> String {
    var scale: UInt64 = 1
    for _ in 0..<decimals {
        scale *= 10
    }
    guard value * Double(scale) < 1e18 else { return "\(value)" }
    let scaled = UInt64((max(0, value) * Double(scale)).rounded())
    guard decimals > 0 else { return "\(scaled)" }
    let fraction = String(scaled % scale)
    return "\(scaled / scale)." + String(repeating: "0", count: decimals - fraction.count) + fraction
}
