// SPDX-License-Identifier: Apache-2.0
import BootRecords
import Glibc
import GuestCode
import HostView
import Linux
import Machine
import SeededRandom
import Synchronization

/// All boots of one recording, in an order drawn by lot.
package final class BootSession: Sendable {
    private struct State {
        /// What is still to be booted: index of the setup.
        var waiting: [Int]
        var started = 0
        var configurations: [BootConfiguration]
        /// Outcomes by setup, for what is not kept for each run.
        var outcomes: [[BootOutcome]]
        package var failures = 0
        var interrupted: Int32?
        var tscKHz: UInt32 = 0
        /// How to call off the boots in progress, by worker.
        var running: [Int: @Sendable (Int32) -> Void] = [:]
        /// Workers that have not ended.
        var workers = 0
    }

    private let setups: [BootSetup]
    private let runs: Int
    /// Of the guest's kernel, which does not move: nokaslr.
    private let symbols: SymbolTable?
    private let progress: @Sendable (String) -> Void
    private let report: @Sendable (String) -> Void
    private let state: Mutex<State>

    /// - Parameters:
    ///   - runs: of each setup.
    ///   - seed: of the order. Each round boots every setup once, in an order of its own: what drifts on the host meets
    ///     all of them alike.
    ///   - progress: takes a line for each boot.
    ///   - report: takes a line for each boot that failed.
    package init(
        setups: [BootSetup], runs: Int, seed: UInt64, symbols: SymbolTable?,
        progress: @escaping @Sendable (String) -> Void, report: @escaping @Sendable (String) -> Void
    ) {
        self.setups = setups
        self.runs = runs
        self.symbols = symbols
        self.progress = progress
        self.report = report
        var generator = SplitMix64(seed: seed)
        let order = (0..<runs).flatMap { _ in setups.indices.shuffled(using: &generator) }
        state = Mutex(
            State(waiting: order.reversed(), configurations: [], outcomes: setups.map { _ in [] }))
    }

    /// Looks at the files, and at what can be counted here.
    package func prepare() throws {
        let configurations = try setups.map { try $0.configuration() }
        state.withLock { $0.configurations = configurations }
        guard setups.contains(where: { $0.markerText == nil }) else { return }
        do throws(TraceError) {
            _ = try BootTrace("trial")
        } catch {
            guard setups.allSatisfy({ $0.vmm == nil }) else {
                throw BootError("another VMM's exits are known by KVM's tracepoints alone: \(error)")
            }
            progress("vmtally: no VM exits by reason, over time or by guest function: \(error)")
        }
    }

    /// Boots all, so many at a time.
    ///
    /// Signals come to this thread alone: it calls off the boots in progress, and what has been recorded stays.
    package func run(parallel: Int) throws {
        var signals = try EndingSignals(EndingSignal.all)
        var threads: [Thread] = []
        defer { threads.forEach { $0.join() } }
        state.withLock { $0.workers = parallel }
        for worker in 0..<parallel {
            do {
                threads.append(try Thread(name: "boots") { self.work(worker: worker) })
            } catch {
                callOff(SIGTERM)
                throw error
            }
        }
        var waiting = pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0)
        while state.withLock({ $0.workers > 0 }) {
            if poll(&waiting, 1, 50) > 0, let signal = signals.next() { callOff(signal) }
        }
        if interrupted != nil { signals.stayBlocked() }
    }

    /// No boot begins any more, and those in progress end.
    private func callOff(_ signal: Int32) {
        let running = state.withLock { state in
            state.interrupted = state.interrupted ?? signal
            state.waiting = []
            return Array(state.running.values)
        }
        running.forEach { $0(signal) }
    }

    /// The signal that called it off.
    package var interrupted: Int32? { state.withLock { $0.interrupted } }

    private func work(worker: Int) {
        defer { state.withLock { $0.workers -= 1 } }
        while let (index, number) = next() {
            let setup = setups[index]
            // A boot that begins as the signal comes is told of it too.
            let stoppable: @Sendable (@escaping @Sendable (Int32) -> Void) -> Void = { stop in
                let signal = self.state.withLock { state in
                    state.running[worker] = stop
                    return state.interrupted
                }
                signal.map(stop)
            }
            defer { state.withLock { $0.running[worker] = nil } }
            do {
                let outcome: BootOutcome
                if let vmm = setup.vmm {
                    outcome = try ExternalBoot(setup: setup, command: vmm).run("\(worker)", stoppable)
                } else {
                    outcome = try BuiltInBoot(setup: setup).run("\(worker)", stoppable)
                }
                record(outcome, of: index, number)
            } catch is BootInterrupted {
                return
            } catch {
                state.withLock { $0.failures += 1 }
                report("vmtally: boot \(number + 1) of \(total), \(setup.name): \(error)")
            }
        }
    }

    private var total: Int { setups.count * runs }

    private func next() -> (setup: Int, number: Int)? {
        state.withLock { state in
            guard let index = state.waiting.popLast() else { return nil }
            state.started += 1
            return (index, state.started - 1)
        }
    }

    private func record(_ outcome: BootOutcome, of index: Int, _ number: Int) {
        let run = BootRun(
            index: number, nanoseconds: outcome.nanoseconds, userspace: outcome.userspace, hardware: outcome.hardware,
            phases: outcome.phases)
        var kept = outcome
        kept.console = ""
        state.withLock { state in
            state.configurations[index].runs.append(run)
            state.outcomes[index].append(kept)
            state.tscKHz = max(state.tscKHz, outcome.tscKHz)
        }
        let exits = outcome.hardware.map { "\($0.total) VM exits, " } ?? ""
        let time = "\(outcome.nanoseconds / 1_000_000) ms"
        let remark = outcome.remark.map { " (\($0))" } ?? ""
        progress(
            "\(number + 1)/\(total) \(setups[index].name): \(exits)\(outcome.userspace.total) userspace exits, \(time)\(remark)"
        )
    }

    package var failures: Int { state.withLock { $0.failures } }
    package var tscKHz: UInt32 { state.withLock { $0.tscKHz } }

    /// What has been recorded, without configurations that never came to their marker.
    package func configurations() -> [BootConfiguration] {
        let (configurations, outcomes) = state.withLock { ($0.configurations, $0.outcomes) }
        return zip(configurations, outcomes).compactMap { configuration, outcomes in
            guard !configuration.runs.isEmpty else { return nil }
            var configuration = configuration
            configuration.runs.sort { $0.index < $1.index }
            configuration.series = BootSeries(outcomes)
            configuration.functions = functions(outcomes)
            return configuration
        }
    }

    private static let functionLimit = 30

    private func functions(_ outcomes: [BootOutcome]) -> [BootFunction]? {
        var sums: [String: UInt64] = [:]
        for outcome in outcomes {
            for (address, exits) in outcome.addresses {
                sums[name(of: address), default: 0] += exits
            }
        }
        guard !sums.isEmpty else { return nil }
        return sums.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.prefix(Self.functionLimit).map {
            BootFunction(name: $0.key, exits: $0.value)
        }
    }

    private func name(of address: UInt64) -> String {
        // Linux has the upper half for itself; below lie programs, and before them the kernel's own unpacking.
        guard address >> 63 == 1 else { return symbols == nil ? hex(address) : "below the kernel" }
        return symbols?.location(of: address)?.symbol ?? hex(address)
    }
}

extension BootSeries {
    /// Points in a chart.
    private static let pointLimit: UInt64 = 60
    /// Widths of buckets that are easy to read, ms.
    private static let widths: [UInt64] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]

    /// The outcomes added up; nil where no tracepoint told.
    init?(_ outcomes: [BootOutcome]) {
        guard outcomes.contains(where: { !$0.userspaceSeries.isEmpty }),
            let longest = outcomes.map(\.nanoseconds).max()
        else { return nil }
        let interval = (Self.widths.first { longest <= $0 * 1_000_000 * Self.pointLimit } ?? 10_000) * 1_000_000
        let count = Int(min(longest / interval, 10 * Self.pointLimit)) + 1
        func sum(_ series: KeyPath<BootOutcome, [(reason: String, time: UInt64, count: UInt64)]>) -> [String: [UInt64]]
        {
            outcomes.reduce(into: [:]) { sums, outcome in
                for entry in outcome[keyPath: series] {
                    let bucket = Int(min(entry.time / interval, UInt64(count - 1)))
                    sums[entry.reason, default: Array(repeating: 0, count: count)][bucket] += entry.count
                }
            }
        }
        self.init(
            runs: outcomes.count, interval: interval, hardware: sum(\.hardwareSeries), userspace: sum(\.userspaceSeries)
        )
    }
}
