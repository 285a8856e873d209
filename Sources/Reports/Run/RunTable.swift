// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering

/// A run as people read it.
public struct RunTable: Sendable {
    private let result: RunReport
    private let byRIP: RIPReport?

    public init(_ result: RunReport, byRIP: RIPReport? = nil) {
        self.result = result
        self.byRIP = byRIP
    }

    public func lines() -> [String] {
        let all = result.total
        var table = TextTable(
            header: ["userspace exits", "count", "share", "cycles", "min", "p50", "p90", "p99", "p99.9", "max"])
        for reason in all.reasons.sorted(by: { $0.count > $1.count }) {
            table.add(
                [all.name(of: reason), grouped(reason.count), share(reason.count, all.total)]
                    + Self.times(reason.times))
        }
        table.add([
            "total", grouped(all.total), share(all.total, all.total), grouped(all.pair.cycles),
        ])
        let places = byRIP.map { [""] + $0.lines() + [""] } ?? []
        let end = bootLines() + ["end: \(result.end.reason), status \(result.end.exitStatus)"]
        return table.lines() + places + kernelLines(all.total) + hardwareLines() + end + [summary]
    }

    /// Each start of the guest, where there was more than one, and their sum.
    private func bootLines() -> [String] {
        guard !result.boots.isEmpty else { return [] }
        var table = TextTable(header: ["boot", "userspace exits", "cycles", "VM exits", "wall s", "end", ""])
        func row(_ name: String, _ counts: ExitCounts, _ vmExits: UInt64?, _ wall: UInt64, _ end: String) -> [String] {
            let most = counts.reasons.sorted { $0.count > $1.count }.prefix(3)
            return [
                name, grouped(counts.total), grouped(counts.pair.cycles), vmExits.map { grouped($0) } ?? "-",
                fixed(Double(wall) / 1e9, 3), end,
                most.map { "\(counts.name(of: $0)) \(grouped($0.count))" }.joined(separator: ", "),
            ]
        }
        for (index, boot) in result.boots.enumerated() {
            table.add(row("\(index + 1)", boot.userspace, boot.vmExits, boot.wallNanoseconds, boot.end.reason))
        }
        table.add(row("all", result.total, result.kernel.values["exits"], result.wallNanoseconds, ""))
        return [""] + table.lines() + [""]
    }

    /// Sum, shortest, percentiles and longest.
    private static func times(_ times: ExitCounts.Times?) -> [String] {
        guard let times else { return [] }
        return
            ([times.cycles, times.range?.lowerBound]
            + [0.5, 0.9, 0.99, 0.999].map(times.percentile) + [times.range?.upperBound]).map { grouped($0 ?? 0) }
    }

    /// The patched kernel's own tally: VM exits by reason, and where a vCPU's time went.
    private func hardwareLines() -> [String] {
        guard let hardware = result.hardware, let time = result.time else { return [] }
        var table = TextTable(header: ["VM exits", "count", "share", "cycles in the kernel", "mean"])
        func row(_ name: String, _ pair: TallyPair) -> [String] {
            [
                name, grouped(pair.count), share(pair.count, hardware.total), grouped(pair.cycles),
                grouped(pair.cycles / max(1, pair.count)),
            ]
        }
        for reason in hardware.reasons.sorted(by: { $0.count > $1.count }) {
            table.add(
                row(
                    hardware.name(of: reason), TallyPair(count: reason.count, cycles: reason.times?.cycles ?? 0)))
        }
        table.add(row("total", hardware.pair))
        let times = [
            ("guest", time.guest), ("kernel", time.kernel), ("userspace", time.userspace), ("blocked", time.blocked),
            ("preempted", time.preempted),
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
        let busy = result.tscKHz > 0 ? Double(result.total.pair.cycles) / Double(result.tscKHz) / 1000 : 0
        return "wall \(fixed(seconds, 3)) s, in the VMM \(fixed(busy, 3)) s; leaf 0x4FFFFFFF: \(leaf)"
    }

    private var leaf: String {
        switch result.leaf.mode {
        case "none": "not there"
        case "snapshot": "a snapshot from before the start"
        default: "\(result.leaf.mode), \(grouped(result.leaf.answered)) answered live"
        }
    }
}
