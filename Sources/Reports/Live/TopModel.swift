// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering

/// What `vmtally top` knows: the last span of every VM, and how its rate went before.
public struct TopModel: Sendable {
    /// A VM in the last span.
    public struct Row: Sendable {
        /// Counts, times and vCPUs are those of the span.
        public var machine: LiveMachine
        /// Exits a second of the last spans, the newest last: VM exits, or userspace exits where nothing tells those.
        public var history: [Double]
        /// Shares of the vCPUs' time, 0 to 1; nil where nobody times.
        public var shares: (guest: Double, kernel: Double, userspace: Double, halted: Double)?
        /// A second.
        public var vmExits: Double?
        public var userspaceExits: Double?

        /// The most frequent reason of the span.
        ///
        /// - Parameter short: without the letters that all names of its vocabulary begin with.
        public func topReason(short: Bool) -> String {
            let all = machine.hardware.flatMap { $0.reasons.isEmpty ? nil : $0 } ?? machine.userspace
            guard let counts = all, let reason = counts.reasons.max(by: { $0.count < $1.count }) else { return "" }
            let name = counts.name(of: reason)
            let prefix = counts.vocabulary.map { ReasonVocabulary.vocabulary($0).prefix.description } ?? ""
            return short && name.hasPrefix(prefix) ? String(name.dropFirst(prefix.count)) : name
        }
    }

    private struct Key: Hashable {
        let process: Int32
        let machine: UInt64

        init(_ machine: LiveMachine) {
            (process, self.machine) = (machine.process, machine.machine)
        }
    }

    private static let historyLength = 120
    private var last: [Key: LiveMachine] = [:]
    private var histories: [Key: [Double]] = [:]
    private var lastTime: UInt64?
    /// The VMs that had an exit since they were first seen and have not ended, by process; none before the second reading.
    public private(set) var rows: [Row] = []
    /// Of the last span, ns.
    public private(set) var nanoseconds: UInt64 = 0

    public init() {}

    /// - Parameters:
    ///   - machines: exits since the start.
    ///   - time: of the reading, ns.
    public mutating func add(_ machines: [LiveMachine], at time: UInt64) {
        defer { lastTime = time }
        guard let lastTime else {
            // Nothing is a rate yet.
            last = Dictionary(
                machines.filter { !$0.hasEnded }.map { (Key($0), $0) }, uniquingKeysWith: { first, _ in first })
            return
        }
        nanoseconds = time &- lastTime
        let seconds = max(Double(nanoseconds) / 1e9, 1e-9)
        var now: [Key: LiveMachine] = [:]
        rows = machines.map { machine in
            let key = Key(machine)
            let row = Self.row(machine, since: last[key], seconds: seconds, histories[key] ?? [])
            if !machine.hasEnded {
                now[key] = machine
                histories[key] = row.history
            }
            return row
        }
        last = now
        histories = histories.filter { now[$0.key] != nil }
    }

    private static func row(
        _ machine: LiveMachine, since before: LiveMachine?, seconds: Double, _ history: [Double]
    ) -> Row {
        var span = machine
        span.hardware = machine.hardware.since(before?.hardware)
        span.nested = machine.nested.since(before?.nested)
        span.userspace = machine.userspace.since(before?.userspace)
        span.guestCycles = machine.guestCycles.map { $0 &- min($0, before?.guestCycles ?? 0) }
        span.resets = machine.resets.map { $0 &- min($0, before?.resets ?? 0) }
        let threads = Dictionary((before?.vcpus ?? []).map { ($0.thread, $0) }, uniquingKeysWith: { first, _ in first })
        span.vcpus = machine.vcpus.map { vcpu in
            var part = vcpu
            let old = threads[vcpu.thread]
            part.hardware = vcpu.hardware.since(old?.hardware)
            part.userspace = vcpu.userspace.since(old?.userspace)
            part.guestCycles = vcpu.guestCycles.map { $0 &- min($0, old?.guestCycles ?? 0) }
            return part
        }
        let vmExits = span.vmExits.map { Double($0) / seconds }
        let userspaceExits = span.userspace.map { Double($0.total) / seconds }
        let shares = span.times.map { times in
            let all = max(Double(times.guest &+ times.kernel &+ times.userspace &+ times.halted), 1)
            return (
                guest: Double(times.guest) / all, kernel: Double(times.kernel) / all,
                userspace: Double(times.userspace) / all, halted: Double(times.halted) / all
            )
        }
        return Row(
            machine: span, history: (history + [vmExits ?? userspaceExits ?? 0]).suffix(historyLength), shares: shares,
            vmExits: vmExits, userspaceExits: userspaceExits)
    }
}
