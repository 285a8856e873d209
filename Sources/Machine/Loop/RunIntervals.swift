// SPDX-License-Identifier: Apache-2.0
import ExitStats
import KVM
import Linux
import Synchronization

/// A look at the counters now and then while a guest runs.
public struct IntervalConfiguration: Sendable {
    /// From one look to the next, ns.
    public var nanoseconds: UInt64
    /// What on the console is a mark: a moment to be told between the intervals.
    public var texts: [[UInt8]]
    /// Called by the thread that waits for the run's end.
    public var report: @Sendable (RunInterval, [RunMark]) -> Void

    public init(
        nanoseconds: UInt64, texts: [[UInt8]] = [], report: @escaping @Sendable (RunInterval, [RunMark]) -> Void
    ) {
        self.nanoseconds = nanoseconds
        self.texts = texts
        self.report = report
    }
}

/// What was counted in a span of a run.
public struct RunInterval: Sendable {
    /// Since just before the first KVM_RUN, ns.
    public let start: UInt64
    public let end: UInt64
    /// Userspace exits of all vCPUs, without times.
    public let userspace: ExitCounts
    /// VM exits by KVM's own count; nil where it has none.
    public let vmExits: UInt64?
}

/// A moment of a run that the guest has marked: by a text on its console, or by a write to port 0xF5.
public struct RunMark: Equatable, Sendable {
    /// Since just before the first KVM_RUN, ns.
    public let nanoseconds: UInt64
    public let name: String
    /// Userspace exits of all vCPUs until then, the one that said so included.
    public let userspaceExits: UInt64
}

/// Takes the intervals of a run, and the marks that guests make in them.
final class RunRecorder: Sendable {
    /// What a day of intervals of a second takes. More are reported, and not kept; marks likewise.
    static let limit = 100_000

    private struct State {
        var start: UInt64 = 0
        var last: UInt64 = 0
        var before = ExitCounts.none(of: .vmm, .kvm)
        var vmExitsBefore: UInt64?
        var intervals: [RunInterval] = []
        var marks: [RunMark] = []
        /// Not yet reported.
        var news: [RunMark] = []
        /// The last bytes on the console.
        var tail: [UInt8] = []
    }

    let configuration: IntervalConfiguration
    private let longest: Int
    private let state = Mutex(State())
    private let counters = Mutex<(@Sendable () -> (tallies: [Tally], kernel: KernelStatistics))?>(nil)

    init(_ configuration: IntervalConfiguration) {
        self.configuration = configuration
        longest = configuration.texts.map(\.count).max() ?? 0
    }

    var watchesConsole: Bool { longest > 0 }
    var intervals: [RunInterval] { state.withLock { $0.intervals } }
    var marks: [RunMark] { state.withLock { $0.marks } }

    /// Tells what to read. Before the machine runs.
    func attach(_ counters: @escaping @Sendable () -> (tallies: [Tally], kernel: KernelStatistics)) {
        self.counters.withLock { $0 = counters }
    }

    private var parts: (tallies: [Tally], kernel: KernelStatistics)? { counters.withLock { $0 }?() }

    func begin(at time: UInt64) {
        guard let parts else { return }
        let counts = Self.counts(parts.tallies)
        let vmExits = parts.kernel.read().values["exits"]
        state.withLock { state in
            (state.start, state.last) = (time, time)
            (state.before, state.vmExitsBefore) = (counts, vmExits)
        }
    }

    /// Ends an interval.
    func tick() {
        guard let parts else { return }
        let now = monotonicNanoseconds()
        let counts = Self.counts(parts.tallies)
        let vmExits = parts.kernel.read().values["exits"]
        let (interval, marks) = state.withLock { state in
            let interval = RunInterval(
                start: state.last - state.start, end: now - state.start,
                userspace: counts.difference(since: state.before),
                vmExits: vmExits.flatMap { all in state.vmExitsBefore.map { all &- $0 } })
            if state.intervals.count < Self.limit { state.intervals.append(interval) }
            (state.last, state.before, state.vmExitsBefore) = (now, counts, vmExits)
            defer { state.news = [] }
            return (interval, state.news)
        }
        configuration.report(interval, marks)
    }

    /// A moment that the guest marks.
    func mark(_ name: String) {
        guard let parts else { return }
        let now = monotonicNanoseconds()
        let exits = parts.tallies.reduce(0) { $0 &+ $1.total.count }
        state.withLock { state in
            guard state.marks.count < Self.limit else { return }
            let mark = RunMark(nanoseconds: now - min(now, state.start), name: name, userspaceExits: exits)
            state.marks.append(mark)
            state.news.append(mark)
        }
    }

    /// Takes bytes on their way to the console.
    func watch(_ bytes: some Sequence<UInt8>) {
        guard watchesConsole else { return }
        var found: [Int] = []
        state.withLock { state in
            for byte in bytes {
                state.tail.append(byte)
                if state.tail.count > 2 * longest { state.tail.removeFirst(state.tail.count - longest) }
                for (index, text) in configuration.texts.enumerated()
                where text.last == byte && state.tail.suffix(text.count).elementsEqual(text) {
                    found.append(index)
                }
            }
        }
        for index in found { mark(String(decoding: configuration.texts[index], as: UTF8.self)) }
    }

    private static func counts(_ tallies: [Tally]) -> ExitCounts {
        let all = tallies.map { $0.snapshot() }.sum() ?? .none(of: .vmm, .kvm)
        return ExitCounts(
            source: .vmm, vocabulary: .kvm,
            reasons: all.reasons.map { ExitCounts.Reason(code: $0.code, count: $0.count) })
    }
}
