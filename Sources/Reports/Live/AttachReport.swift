// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering

/// What `vmtally attach` says at its end.
public struct AttachReport: Sendable {
    private let machines: [LiveMachine]
    private let collector: String
    private let nanoseconds: UInt64
    private let lost: String?
    private let isSummed: Bool
    private let tscKHz: UInt32
    private let width: Int

    /// - Parameters:
    ///   - isSummed: one total for all of them, instead of a table for each.
    ///   - width: columns of the terminal.
    public init(
        _ machines: [LiveMachine], collector: String, nanoseconds: UInt64, lost: String?, isSummed: Bool,
        tscKHz: UInt32 = 0, width: Int = .max
    ) {
        self.tscKHz = tscKHz
        self.width = width
        self.machines = machines
        self.collector = collector
        self.nanoseconds = nanoseconds
        self.lost = lost
        self.isSummed = isSummed
    }

    public func lines() -> [String] {
        var lines: [String] = []
        if isSummed, machines.count > 1 {
            var table = TextTable(header: ["VM", "pid", "VM exits", "userspace exits"])
            for machine in machines {
                table.add([
                    machine.name, "\(machine.process)", machine.vmExits.map(grouped) ?? "-",
                    machine.userspace.map { grouped($0.total) } ?? "-",
                ])
            }
            lines += table.lines(width: width) + [""]
            lines += tables(
                hardware: Self.sum(machines.map(\.hardware)), nested: Self.sum(machines.map(\.nested)),
                userspace: Self.sum(machines.map(\.userspace)))
        } else {
            for machine in machines {
                let vcpus = machine.vcpus.isEmpty ? "ended" : "\(machine.vcpus.count) vCPUs"
                let pod = machine.pod.map { ", pod \($0)" } ?? ""
                lines.append("\(machine.name) (\(machine.program), pid \(machine.process), \(vcpus)\(pod))")
                lines += tables(hardware: machine.hardware, nested: machine.nested, userspace: machine.userspace)
                if let times = machine.times {
                    let parts = [
                        ("guest", times.guest), ("kernel", times.kernel), ("userspace", times.userspace),
                        ("halted", times.halted),
                    ]
                    let all = parts.reduce(0) { $0 &+ $1.1 }
                    lines.append("vCPU time: " + parts.map { "\($0.0) \(share($0.1, all))" }.joined(separator: ", "))
                }
                if let resets = machine.resets, resets > 0 {
                    lines.append("the guest was reset \(resets == 1 ? "once" : "\(grouped(resets)) times")")
                }
                lines.append("")
            }
        }
        if machines.isEmpty { lines.append("no exits") }
        lines.append("\(fixed(Double(nanoseconds) / 1e9, 3)) s, counted by \(collector)")
        if let lost { lines.append(lost) }
        return lines
    }

    private func tables(hardware: ExitCounts?, nested: ExitCounts?, userspace: ExitCounts?) -> [String] {
        var lines: [String] = []
        if let hardware {
            lines += ExitCountsTable(hardware, title: "VM exits", place: "kernel", tscKHz: tscKHz).lines(width: width)
        } else {
            lines.append("VM exits: this host's KVM has no event for them")
        }
        if let nested, nested.total > 0 {
            lines +=
                [""]
                + ExitCountsTable(nested, title: "VM exits of L2", place: "kernel", tscKHz: tscKHz).lines(width: width)
        }
        if let userspace {
            lines +=
                [""]
                + ExitCountsTable(userspace, title: "userspace exits", place: "userspace", tscKHz: tscKHz).lines(
                    width: width)
        }
        return lines
    }

    private static func sum(_ counts: [ExitCounts?]) -> ExitCounts? {
        counts.compactMap { $0 }.sum()
    }
}
