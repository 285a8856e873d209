// SPDX-License-Identifier: Apache-2.0
import ExitStats
import KVM

/// Which collector to use.
public enum CollectorChoice: String, CaseIterable, Sendable {
    /// The best that this host and this user's rights allow.
    case auto
    case module
    case bpf
    case tracefs
    case statistics

    /// - Returns: the collector, and why a better one could not be had, a line each.
    public func make(
        _ scope: CollectorScope, vcpus: Int
    ) throws(CollectorError) -> (collector: any ExitCollector, refusals: [String]) {
        switch self {
        case .module: return Self.told(try ModuleCollector(scope, vcpus: vcpus))
        case .bpf: return (try BPFCollector(scope, vcpus: vcpus), [])
        case .tracefs: return (try TracefsCollector(scope), [])
        case .statistics: return (try StatisticsCollector(scope), [])
        case .auto:
            var refusals: [String] = []
            // Cheaper than BPF; but a VM that comes and goes between two looks it does not tell of: for one that runs.
            if case .process(let process) = scope, ExitModule.isLoaded {
                do {
                    return Self.told(try ModuleCollector(scope, vcpus: vcpus, covering: process))
                } catch {
                    refusals.append("module: \(error)")
                }
            }
            for choice in [CollectorChoice.bpf, .tracefs, .statistics] {
                do {
                    return (try choice.make(scope, vcpus: vcpus).collector, refusals)
                } catch {
                    refusals.append("\(choice.rawValue): \(error)")
                }
            }
            throw CollectorError(cause: refusals.joined(separator: "\n"), remedy: "")
        }
    }

    private static func told(_ collector: ModuleCollector) -> (collector: any ExitCollector, refusals: [String]) {
        (collector, collector.refusal.map { ["bpf, for userspace exits: \($0)"] } ?? [])
    }
}
