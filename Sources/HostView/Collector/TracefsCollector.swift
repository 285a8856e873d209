// SPDX-License-Identifier: Apache-2.0
import ExitStats

/// Counts by histogram triggers (Documentation/trace/histogram.rst), where BPF is not allowed: by thread and reason, no
/// times.
public final class TracefsCollector: ExitCollector {
    public let name = "tracefs"

    private let instance: TraceInstance
    private let scope: CollectorScope
    /// Processes of threads, for those that have ended meanwhile.
    private var processes: [Int32: Int32] = [:]
    private var hardwareVocabulary: TallyFeatures.Vocabulary?

    private static let size = 16_384
    private static let keys = [
        "kvm_exit": "common_pid,isa,exit_reason", "kvm_userspace_exit": "common_pid,reason,errno",
    ]

    public init(_ scope: CollectorScope) throws(CollectorError) {
        self.scope = scope
        do {
            instance = try TraceInstance("collector")
            switch scope {
            case .everything: break
            case .process(let process), .descendants(let process):
                // What these threads start is followed too.
                try instance.write("1", to: "options/event-fork")
                for thread in Threads.all(of: process) { try instance.write("\(thread)", to: "set_event_pid") }
            }
            for (event, keys) in Self.keys { try instance.count(event, by: keys, size: Self.size) }
        } catch {
            throw CollectorError(cause: error.cause, remedy: error.remedy)
        }
    }

    private func histogram(_ event: String) throws(CollectorError) -> TraceHistogram? {
        do {
            return try instance.histograms(event).first
        } catch {
            throw CollectorError(cause: error.cause, remedy: error.remedy)
        }
    }

    public func read(_ detail: CollectorDetail) throws(CollectorError) -> [VCPUExits] {
        var hardware: [Int32: [UInt32: UInt64]] = [:]
        var userspace: [Int32: [UInt32: UInt64]] = [:]
        for entry in try histogram("kvm_exit")?.entries ?? [] where entry.keys.count == 3 {
            // KVM_ISA_VMX, KVM_ISA_SVM (arch/x86/kvm/trace.h).
            let vocabulary: TallyFeatures.Vocabulary = entry.keys[1] == 1 ? .vmx : .svm
            hardwareVocabulary = vocabulary
            var code = UInt32(truncatingIfNeeded: entry.keys[2])
            if vocabulary == .vmx { code &= 0xFFFF }
            hardware[Int32(truncatingIfNeeded: entry.keys[0]), default: [:]][code, default: 0] &+= entry.count
        }
        for entry in try histogram("kvm_userspace_exit")?.entries ?? [] where entry.keys.count == 3 {
            // An error of KVM_RUN, EINTR as a rule: KVM_EXIT_INTR.
            let code = entry.keys[2] != 0 ? 10 : UInt32(truncatingIfNeeded: entry.keys[1])
            userspace[Int32(truncatingIfNeeded: entry.keys[0]), default: [:]][code, default: 0] &+= entry.count
        }
        return Set(hardware.keys).union(userspace.keys).sorted().map { thread in
            VCPUExits(
                identity: VCPUIdentity(process: process(of: thread), thread: thread),
                hardware: hardwareVocabulary.map {
                    ExitCounts(source: .vmExitTracepoint, vocabulary: $0, reasons: Self.reasons(hardware[thread]))
                },
                userspace: ExitCounts(
                    source: .userspaceExitTracepoint, vocabulary: .kvm, reasons: Self.reasons(userspace[thread])))
        }
    }

    private static func reasons(_ counts: [UInt32: UInt64]?) -> [ExitCounts.Reason] {
        (counts ?? [:]).map { ExitCounts.Reason(code: $0.key, count: $0.value) }
    }

    private func process(of thread: Int32) -> Int32 {
        if case .process(let process) = scope { return process }
        if let process = Threads.process(of: thread) {
            processes[thread] = process
            return process
        }
        return processes[thread] ?? thread
    }

    public func losses() -> CollectorLosses {
        var losses = CollectorLosses()
        for event in Self.keys.keys { losses.withoutRoom &+= (try? histogram(event))??.dropped ?? 0 }
        return losses
    }
}
