// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering
import ThisHost

/// A run as people read it.
public struct RunTable: Sendable {
    private let result: RunReport
    private let places: [PlaceReport]
    private let emulator: String?
    private let width: Int
    private var tscKHz: UInt32 { result.tscKHz }

    /// - Parameters:
    ///   - emulator: that the host runs in.
    ///   - width: columns of the terminal.
    public init(_ result: RunReport, emulator: String? = nil, places: [PlaceReport] = [], width: Int = .max) {
        self.result = result
        self.places = places
        self.emulator = emulator
        self.width = width
    }

    public func lines() -> [String] {
        let all = result.total
        var table = TextTable(
            header: ["userspace exits", "count", "share", "cycles", "min", "p50", "p90", "p99", "p99.9", "max"]
                + (tscKHz > 0 ? ["p50 ns", "p99 ns", "mean ns"] : []),
            expendable: ["p99.9", "min", "p90", "mean ns", "max", "p99 ns", "p99"])
        for reason in all.reasons.sorted(by: { $0.count > $1.count }) {
            table.add(
                [all.name(of: reason), grouped(reason.count), share(reason.count, all.total)]
                    + times(reason))
        }
        table.add([
            "total", grouped(all.total), share(all.total, all.total), grouped(all.pair.cycles),
        ])
        let places = self.places.flatMap { [""] + $0.lines(width: width) } + (self.places.isEmpty ? [] : [""])
        let memory = result.prefault.map { [Self.line($0)] } ?? []
        let end = bootLines() + ["end: \(result.end.reason), status \(result.end.exitStatus)"]
        return table.lines(width: width) + places + kernelLines(all.total) + hardwareLines() + memory + end + [summary]
            + (emulator.map { [HostIdentity.caveat($0)] } ?? [])
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
        return [""] + table.lines(width: width) + [""]
    }

    /// Sum, shortest, percentiles and longest, and some of them as nanoseconds.
    private func times(_ reason: ExitCounts.Reason) -> [String] {
        guard let times = reason.times else { return [] }
        let cycles =
            [times.cycles, times.range?.lowerBound]
            + [0.5, 0.9, 0.99, 0.999].map(times.percentile) + [times.range?.upperBound]
        let rounded = [times.percentile(0.5), times.percentile(0.99), times.cycles / max(1, reason.count)]
            .compactMap { nanoseconds($0 ?? 0, kHz: tscKHz) }
        return cycles.map { grouped($0 ?? 0) } + rounded.map(grouped)
    }

    /// The patched kernel's own tally: VM exits by reason, and where a vCPU's time went.
    private func hardwareLines() -> [String] {
        guard let hardware = result.hardware, let time = result.time else { return [] }
        var table = TextTable(
            header: ["VM exits", "count", "share", "kernel cycles", "mean"] + (tscKHz > 0 ? ["mean ns"] : []),
            expendable: ["share", "mean"])
        func row(_ name: String, _ pair: TallyPair) -> [String] {
            [
                name, grouped(pair.count), share(pair.count, hardware.total), grouped(pair.cycles),
                grouped(pair.cycles / max(1, pair.count)),
            ] + [nanoseconds(pair.cycles / max(1, pair.count), kHz: tscKHz)].compactMap { $0.map(grouped) }
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
        return [""] + table.lines(width: width) + ["vCPU time: " + shares]
    }

    private static func line(_ prefault: RunReport.Prefault) -> String {
        switch prefault {
        case .mapped: "RAM was mapped before the start (KVM_PRE_FAULT_MEMORY)"
        case .populated(let reason): "RAM was populated before the start, not mapped: \(reason)"
        }
    }

    /// KVM's own count next to ours: what it has more, no userspace program saw.
    private func kernelLines(_ userspace: UInt64) -> [String] {
        guard let exits = result.kernel.values["exits"] else {
            return ["VM exits by the kernel's count: none: \(result.kernel.missing ?? "KVM has no such counter")"]
        }
        let inside = exits >= userspace ? "\(grouped(exits - userspace)) of them handled inside KVM" : "fewer than ours"
        let counters = result.kernel.values.filter { $0.value > 0 && $0.key != "exits" }
            .sorted { $0.key < $1.key }.map { "\($0.key) \(grouped($0.value))" }
        return ["VM exits by the kernel's count: \(grouped(exits)), \(inside)"]
            + Self.wrapped(counters, width: min(width, 110))
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
        case "snapshot": "a snapshot of the start"
        default: "\(result.leaf.mode), \(grouped(result.leaf.answered)) answered live"
        }
    }

    /// A line for each reason, place, vCPU and counter of the kernel; cycles unless a column says otherwise.
    public var csv: CSV {
        var csv = CSV(header: [
            "exits", "of", "access", "count", "cycles", "ns", "min", "p50", "p90", "p99", "p999", "max",
        ])
        func add(_ kind: String, _ of: String, _ access: String, _ pair: TallyPair, _ more: [UInt64?] = []) {
            csv.add(
                [kind, of, access, "\(pair.count)", "\(pair.cycles)", cell(nanoseconds(pair.cycles, kHz: tscKHz))]
                    + (0..<6).map { cell(more.indices.contains($0) ? more[$0] : nil) })
        }
        let all = result.total
        for reason in all.reasons.sorted(by: { $0.count > $1.count }) {
            let times = reason.times
            add(
                "userspace", all.name(of: reason), "", TallyPair(count: reason.count, cycles: times?.cycles ?? 0),
                [times?.range?.lowerBound] + [0.5, 0.9, 0.99, 0.999].map { times?.percentile($0) }
                    + [times?.range?.upperBound])
        }
        add("userspace", "total", "", all.pair)
        for (index, vcpu) in result.vcpus.enumerated() { add("vcpu", "\(index)", "", vcpu.pair) }
        for report in places {
            for row in report.rows { add(report.axis.rawValue, report.label(row), report.access(row), row.pair) }
            add(report.axis.rawValue, "others", "", report.rest)
        }
        for reason in result.hardware?.reasons ?? [] {
            add(
                "vm", result.hardware?.name(of: reason) ?? "", "",
                TallyPair(count: reason.count, cycles: reason.times?.cycles ?? 0))
        }
        for (name, value) in result.kernel.values.sorted(by: { $0.key < $1.key }) {
            csv.add(["kernel", name, "", "\(value)"] + Array(repeating: "", count: 8))
        }
        return csv
    }
}
