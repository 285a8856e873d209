// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering

/// The screen of `vmtally top` as lines of text, whatever shows it.
public struct TopView: Sendable {
    public enum Page: Sendable {
        case machines
        case reasons
        case vcpus
        case help
    }

    public enum Sort: String, CaseIterable, Sendable {
        case vmExits = "VM exits"
        case userspaceExits = "userspace exits"
        case kernel = "time in the kernel"
        case name
        case process = "pid"
    }

    public struct Line: Equatable, Sendable {
        public var text: String
        /// A heading.
        public var isBold = false
        /// The chosen row, in reverse.
        public var isChosen = false

        public init(_ text: String, isBold: Bool = false, isChosen: Bool = false) {
            self.text = text
            self.isBold = isBold
            self.isChosen = isChosen
        }
    }

    public var page = Page.machines
    public var sort = Sort.vmExits
    public var isPaused = false
    /// Only VMs with this in their name.
    public var filter = ""
    /// The filter is being typed.
    public var isTyping = false
    /// Place of the chosen VM among those shown.
    public var chosen = 0
    private let collector: String
    private let interval: Double

    /// - Parameter interval: seconds.
    public init(collector: String, interval: Double) {
        self.collector = collector
        self.interval = interval
    }

    /// The VMs to be shown, in order.
    public func rows(_ model: TopModel) -> [TopModel.Row] {
        let wanted = filter.isEmpty ? model.rows : model.rows.filter { $0.machine.name.contains(filter) }
        return wanted.sorted { left, right in
            let isLess =
                switch sort {
                case .vmExits: (left.vmExits ?? left.userspaceExits ?? 0) > (right.vmExits ?? right.userspaceExits ?? 0)
                case .userspaceExits: (left.userspaceExits ?? 0) > (right.userspaceExits ?? 0)
                case .kernel: (left.shares?.kernel ?? 0) > (right.shares?.kernel ?? 0)
                case .name: left.machine.name < right.machine.name
                case .process: left.machine.process < right.machine.process
                }
            return isLess
        }
    }

    /// - Returns: at most so many lines, each of them to be cut at the screen's edge.
    public func lines(_ model: TopModel, width: Int, height: Int, lost: String?) -> [Line] {
        let rows = rows(model)
        var lines = [Line(title(model), isBold: true)]
        if let lost { lines.append(Line(lost, isBold: true)) }
        if isTyping || !filter.isEmpty { lines.append(Line("filter: \(filter)\(isTyping ? "_" : "")")) }
        let body = max(0, height - lines.count - 1)
        switch page {
        case .help: lines += Self.help.prefix(body).map { Line($0) }
        case .machines where model.nanoseconds == 0:
            lines.append(Line("a rate takes two readings, \(fixed(interval, 1)) s apart"))
        case .machines: lines += machines(rows, width: width, height: body)
        case .reasons: lines += detail(rows, height: body) { reasons($0, width: width) }
        case .vcpus: lines += detail(rows, height: body) { vcpus($0) }
        }
        if height > lines.count {
            let footer =
                page == .machines
                ? "Enter reasons  v vCPUs  s sort  / filter  p pause  ? help  q quit"
                : "Esc back  p pause  ? help  q quit"
            lines += [Line](repeating: Line(""), count: height - lines.count - 1)
            lines.append(Line(footer))
        }
        return Array(lines.prefix(height))
    }

    private func title(_ model: TopModel) -> String {
        let source = "  [\(collector), \(fixed(interval, 1)) s\(isPaused ? ", paused" : "")]"
        guard model.nanoseconds > 0 else { return "vmtally top" + source }
        let hardware = model.rows.compactMap(\.vmExits)
        let userspace = model.rows.compactMap(\.userspaceExits).reduce(0, +)
        let exits = hardware.isEmpty ? "" : " \(whole(hardware.reduce(0, +))) VM and"
        return "vmtally top: \(model.rows.count) VMs,\(exits) \(whole(userspace)) userspace exits/s"
            + source
    }

    private func machines(_ rows: [TopModel.Row], width: Int, height: Int) -> [Line] {
        guard !rows.isEmpty else { return [Line(filter.isEmpty ? "no VM has had an exit" : "no VM has this name")] }
        // Narrow screens lose columns from the right; what ends with them is history first.
        let nameWidth = width >= 100 ? 20 : 14
        let isTimed = rows.contains { $0.shares != nil } && width >= 80
        func line(_ name: String, _ cells: [String], _ shares: [String], _ reason: String) -> String {
            padRight(name, nameWidth) + padLeft(cells[0], 8) + padLeft(cells[1], 5) + padLeft(cells[2], 9)
                + padLeft(cells[3], 8) + (isTimed ? shares.map { padLeft($0, 5) }.joined() : "") + "  " + reason
        }
        var lines = [
            Line(
                line("VM", ["PID", "vCPU", "exits/s", "user/s"], ["gst%", "krn%", "usr%", "hlt%"], "most frequent"),
                isBold: true)
        ]
        let visible = max(0, height - 1)
        let first = max(0, min(chosen - visible / 2, rows.count - visible))
        for (index, row) in rows.enumerated().dropFirst(first).prefix(visible) {
            let shares = row.shares.map { [$0.guest, $0.kernel, $0.userspace, $0.halted].map { whole(100 * $0) } }
            lines.append(
                Line(
                    line(
                        row.machine.name,
                        [
                            "\(row.machine.process)", "\(row.machine.vcpuCount)", row.vmExits.map(whole) ?? "-",
                            row.userspaceExits.map(whole) ?? "-",
                        ], shares ?? ["-", "-", "-", "-"], row.topReason(short: width < 100)),
                    isChosen: index == chosen))
        }
        return lines
    }

    private func detail(_ rows: [TopModel.Row], height: Int, _ body: (TopModel.Row) -> [Line]) -> [Line] {
        guard chosen < rows.count else { return [Line("the VM has ended")] }
        let row = rows[chosen]
        let machine = row.machine
        var lines = [Line("\(machine.name)  \(machine.program), pid \(machine.process), \(machine.vcpuCount) vCPUs")]
        if let pod = machine.pod { lines.append(Line("pod \(pod)")) }
        if let shares = row.shares {
            let parts = [
                ("guest", shares.guest), ("kernel", shares.kernel), ("userspace", shares.userspace),
                ("halted", shares.halted),
            ]
            lines.append(
                Line("vCPU time: " + parts.map { "\($0.0) \(fixed(100 * $0.1, 1)) %" }.joined(separator: ", ")))
        }
        lines.append(Line("rate " + Self.graph(row.history)))
        return Array((lines + body(row)).prefix(height))
    }

    private func reasons(_ row: TopModel.Row, width: Int) -> [Line] {
        let tables: [(String, ExitCounts?)] = [
            ("VM exits", row.machine.hardware), ("VM exits of L2", row.machine.nested),
            ("userspace exits", row.machine.userspace),
        ]
        let seconds = max(
            row.machine.vmExits.flatMap { exits in row.vmExits.map { Double(exits) / max($0, 1e-9) } } ?? 0,
            row.machine.userspace.flatMap { counts in row.userspaceExits.map { Double(counts.total) / max($0, 1e-9) } }
                ?? 0)
        return tables.flatMap { title, counts -> [Line] in
            guard let counts, counts.total > 0 else { return [] }
            let isWide = width >= 80
            func line(_ name: String, _ cells: [String]) -> String {
                padRight(name, isWide ? 33 : 30) + padLeft(cells[0], 10) + padLeft(cells[1], 7)
                    + cells.dropFirst(2).prefix(isWide ? 3 : 1).map { padLeft($0, 10) }.joined()
            }
            let rows = counts.reasons.sorted { $0.count > $1.count }.map { reason in
                let percentiles = [0.5, 0.99].map { reason.times?.percentile($0).map { "\($0)" } ?? "-" }
                let mean = reason.times.map { "\($0.cycles / max(1, reason.count))" } ?? "-"
                return Line(
                    line(
                        counts.name(of: reason),
                        [
                            whole(Double(reason.count) / max(seconds, 1e-9)),
                            fixed(100 * Double(reason.count) / Double(max(1, counts.total)), 1), mean,
                        ] + percentiles))
            }
            return [Line(""), Line(line(title, ["a second", "%", "cycles", "p50", "p99"]), isBold: true)] + rows
        }
    }

    private func vcpus(_ row: TopModel.Row) -> [Line] {
        func line(_ cells: [String]) -> String {
            padLeft(cells[0], 5) + padLeft(cells[1], 9) + padLeft(cells[2], 13) + padLeft(cells[3], 17) + "  "
                + cells[4]
        }
        let rows = row.machine.vcpus.enumerated().map { index, vcpu in
            let counts = vcpu.hardware ?? vcpu.userspace
            let reason = counts.flatMap { counts in
                counts.reasons.max { $0.count < $1.count }.map { counts.name(of: $0) }
            }
            return Line(
                line([
                    vcpu.vcpu.map { "\($0)" } ?? "?", "\(vcpu.thread)", vcpu.hardware.map { "\($0.total)" } ?? "-",
                    vcpu.userspace.map { "\($0.total)" } ?? "-", reason ?? "",
                ]))
        }
        return [
            Line(""), Line(line(["vCPU", "thread", "VM exits", "userspace exits", "most frequent"]), isBold: true),
        ] + rows
    }

    /// The newest rates on the right, the highest of them a `#`.
    static func graph(_ rates: [Double], width: Int = 60) -> String {
        let shown = rates.suffix(width)
        let highest = max(shown.max() ?? 0, 1e-9)
        let steps = Array("_.:-=+*#")
        let text = shown.map { steps[min(steps.count - 1, Int(max(0, $0) / highest * Double(steps.count - 1) + 0.5))] }
        return String(text) + " " + whole(shown.last ?? 0) + "/s"
    }

    private static let help = [
        "exits/s   VM exits a second: the processor left the guest",
        "user/s    userspace exits a second: KVM_RUN returned to the VMM",
        "gst krn usr hlt   shares of the vCPUs' time: in the guest, in KVM,",
        "          in the VMM, halted",
        "p50, p99  TSC cycles that half, and 99 of 100, exits do not exceed:",
        "          of VM exits in the kernel, halts and userspace apart",
        "",
        "Up Down   choose a VM            Enter  its exits by reason",
        "v         its vCPUs              Esc    back",
        "s         sort by another column /      only VMs with this in their name",
        "p, Space  pause                  q      quit",
    ]
}

private func whole(_ value: Double) -> String { fixed(value, 0) }

/// Columns that a character takes on a terminal: East Asian wide ones 2.
private func columns(_ character: Character) -> Int {
    let value = character.unicodeScalars.first?.value ?? 0
    let isWide =
        (0x1100...0x115F).contains(value) || (0x2E80...0xA4CF).contains(value) || (0xAC00...0xD7A3).contains(value)
        || (0xF900...0xFAFF).contains(value) || (0xFE30...0xFE6F).contains(value) || (0xFF00...0xFF60).contains(value)
        || (0x1F300...0x1FAFF).contains(value) || (0x20000...0x3FFFD).contains(value)
    return isWide ? 2 : 1
}

/// Cut or filled to a width in columns, and a space.
private func padRight(_ text: String, _ width: Int) -> String {
    var result = ""
    var used = 0
    for character in text {
        guard used + columns(character) < width else { break }
        result.append(character)
        used += columns(character)
    }
    return result + String(repeating: " ", count: max(0, width - used))
}

private func padLeft(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
}
