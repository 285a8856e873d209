// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Glibc
import Linux

/// A boot seen by KVM's tracepoints: VM exits and userspace exits of one VMM, whichever it is, from the first to the
/// guest's write to port 0xF5 (docs/boot-protocol.md).
///
/// The kernel counts, in histograms, and stops by itself at the marker: its kvm_pio event pauses them. Only the threads
/// of the VMM that is followed are counted. Needs root.
public final class BootTrace {
    /// Width of a series' buckets, ns.
    public static let bucket: UInt64 = 1_000_000
    private static let marker = "port == 0xf5"

    /// Behind the pipe: an instance with an open file cannot be removed, and what comes first goes first.
    private let pipe: FileDescriptor
    private let instance: TraceInstance
    private var lines = ""
    /// When KVM_RUN was first entered; nil before, and where KVM has no such event.
    public private(set) var begin: UInt64?
    /// When the marker came; nil before.
    public private(set) var end: UInt64?

    /// - Parameter name: tells apart the traces of one process.
    public init(_ name: String) throws(TraceError) {
        let instance = try TraceInstance(name)
        self.instance = instance
        try instance.write("mono", to: "trace_clock")
        try instance.write("1", to: "options/event-fork")
        // A reader is woken by the first line, not when the buffer is half full.
        try instance.write("0", to: "buffer_percent")
        for source in [ExitCounts.Source.vmExitTracepoint, .userspaceExitTracepoint] {
            let event = source.rawValue
            try instance.count(event, by: TracedExits.keys(source), size: 512)
            try instance.count(
                event, by: "\(TracedExits.reasonKey(source)),\(TracedExits.timeKey).buckets=\(Self.bucket)", size: 32768
            )
            try instance.write("disable_hist:kvm:\(event) if \(Self.marker)", to: "events/kvm/kvm_pio/trigger")
        }
        try instance.count("kvm_exit", by: "guest_rip", size: 16384)
        try instance.write(Self.marker, to: "events/kvm/kvm_pio/filter")
        try instance.write("1", to: "events/kvm/kvm_pio/enable")
        // Of the entries only the first: the first exit switches the event off.
        try instance.write("disable_event:kvm:kvm_entry:1", to: "events/kvm/kvm_exit/trigger")
        try instance.write("1", to: "events/kvm/kvm_entry/enable")
        do throws(SystemError) {
            pipe = try FileDescriptor(opening: "\(instance.path)/trace_pipe", O_RDONLY | O_NONBLOCK)
        } catch {
            throw TraceError(cause: "\(error)", remedy: "tracing needs root")
        }
    }

    /// The instance's folder.
    public var path: String { instance.path }

    /// Where a process that is to be followed writes its own number before it starts the VMM.
    public var processFile: String { instance.path + "/set_event_pid" }

    /// Follows the calling thread and what it starts from now on.
    public func followThisThread() throws(TraceError) {
        // PID/task/TID
        var buffer = [CChar](repeating: 0, count: 64)
        let length = readlink("/proc/thread-self", &buffer, buffer.count - 1)
        let link = String(decoding: buffer.prefix(max(0, length)).map(UInt8.init(bitPattern:)), as: UTF8.self)
        guard let thread = link.split(separator: "/").last else {
            throw TraceError(cause: "no /proc/thread-self", remedy: "mount -t proc none /proc")
        }
        try instance.write(String(thread), to: "set_event_pid")
    }

    /// Waits for the marker, at most so long.
    ///
    /// - Returns: whether it has come.
    public func wait(milliseconds: Int32) -> Bool {
        if end == nil {
            var ready = pollfd(fd: pipe.rawValue, events: Int16(POLLIN), revents: 0)
            _ = poll(&ready, 1, milliseconds)
            take()
        }
        return end != nil
    }

    private func take() {
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = read(pipe.rawValue, &chunk, chunk.count)
            guard count > 0 else { break }
            lines += String(decoding: chunk.prefix(count), as: UTF8.self)
        }
        while let newline = lines.firstIndex(of: "\n") {
            let line = lines[..<newline]
            if begin == nil, let time = Self.time(of: "kvm_entry", in: line) { begin = time }
            if end == nil, let time = Self.time(of: "kvm_pio", in: line) { end = time }
            lines = String(lines[lines.index(after: newline)...])
        }
    }

    /// `vcpu0-121     [000] .....     6.234261: kvm_pio: pio_write at 0xf5 ...`: the time in ns.
    static func time(of event: String, in line: Substring) -> UInt64? {
        let words = line.split(separator: " ")
        guard let index = words.firstIndex(of: "\(event):"), index > 0, words[index - 1].hasSuffix(":") else {
            return nil
        }
        let parts = words[index - 1].dropLast().split(separator: ".")
        guard parts.count == 2, let seconds = UInt64(parts[0]), let micro = UInt64(parts[1]), parts[1].count == 6 else {
            return nil
        }
        return seconds * 1_000_000_000 + micro * 1000
    }

    /// VM exits; nil where KVM's kvm_exit does not fire (kvm_pvm).
    public func virtualMachineExits() throws(TraceError) -> TracedExits? {
        let exits = try self.exits(.vmExitTracepoint)
        return exits.counts.total == 0 ? nil : exits
    }

    /// Userspace exits before the marker's own, which was still on its way to userspace.
    public func userspaceExits() throws(TraceError) -> TracedExits {
        try exits(.userspaceExitTracepoint)
    }

    /// VM exits by the guest's RIP; none when some found no room.
    public func addresses() throws(TraceError) -> [UInt64: UInt64] {
        let histogram = try instance.histograms("kvm_exit").first { $0.keys == ["guest_rip"] && $0.dropped == 0 }
        return histogram?.entries.reduce(into: [:]) { sums, entry in
            if let address = entry.keys.first { sums[address, default: 0] += entry.count }
        } ?? [:]
    }

    private func exits(_ source: ExitCounts.Source) throws(TraceError) -> TracedExits {
        take()
        let histograms = try instance.histograms(source.rawValue)
        let lost = histograms.filter { $0.keys.last != TracedExits.timeKey && $0.keys != ["guest_rip"] }
            .reduce(0) { $0 &+ $1.dropped }
        guard lost == 0 else {
            throw TraceError(
                cause: "\(source.rawValue): the kernel's histogram lost \(lost) events",
                remedy: "a count that is not whole is not shown")
        }
        return TracedExits(source, histograms)
    }
}

/// Exits that a tracepoint of KVM has counted, and when they were.
public struct TracedExits: Sendable {
    public let counts: ExitCounts
    /// Exits by reason and by the start of a ``BootTrace/bucket``, ns of the monotonic clock.
    public let series: [(code: UInt32, time: UInt64, count: UInt64)]
    /// Exits that the series lacks for want of room.
    public let droppedFromSeries: UInt64

    static let timeKey = "common_timestamp"

    static func reasonKey(_ source: ExitCounts.Source) -> String {
        source == .vmExitTracepoint ? "exit_reason" : "reason"
    }

    /// What a histogram of the tracepoint that `source` names is to be keyed by: kvm_exit tells the vocabulary too.
    package static func keys(_ source: ExitCounts.Source) -> String {
        source == .vmExitTracepoint ? "exit_reason,isa" : reasonKey(source)
    }

    /// - Parameter histograms: of the tracepoint that `source` names, by ``keys(_:)`` and by reason and time.
    package init(_ source: ExitCounts.Source, _ histograms: [TraceHistogram]) {
        var byReason: [UInt32: UInt64] = [:]
        var series: [(code: UInt32, time: UInt64, count: UInt64)] = []
        var dropped: UInt64 = 0
        var vocabularies: Set<TallyFeatures.Vocabulary?> = []
        for histogram in histograms where histogram.keys.first == Self.reasonKey(source) {
            let isSeries = histogram.keys.last == Self.timeKey
            if isSeries { dropped = histogram.dropped }
            for entry in histogram.entries where entry.keys.count == histogram.keys.count {
                let code = UInt32(truncatingIfNeeded: entry.keys[0])
                if isSeries {
                    series.append((code, entry.keys[1], entry.count))
                } else {
                    byReason[code, default: 0] += entry.count
                    vocabularies.insert(histogram.keys.count == 1 ? .kvm : Self.vocabulary(isa: entry.keys[1]))
                }
            }
        }
        self.series = series.sorted { ($0.time, $0.code) < ($1.time, $1.code) }
        droppedFromSeries = dropped
        if vocabularies.count == 1, let vocabulary = vocabularies.first ?? nil {
            counts = ExitCounts(
                source: source, vocabulary: vocabulary,
                reasons: byReason.map { ExitCounts.Reason(code: $0.key, count: $0.value) })
        } else {
            counts = ExitCounts(source: source, total: byReason.values.reduce(0, +))
        }
    }

    /// KVM_ISA_VMX and KVM_ISA_SVM (arch/x86/kvm/trace.h); another backend's codes have no vocabulary here.
    private static func vocabulary(isa: UInt64) -> TallyFeatures.Vocabulary? {
        switch isa {
        case 1: .vmx
        case 2: .svm
        default: nil
        }
    }

    /// The kernel's name of a code of the series.
    public func name(_ code: UInt32) -> String {
        counts.name(of: ExitCounts.Reason(code: code, count: 0))
    }
}
