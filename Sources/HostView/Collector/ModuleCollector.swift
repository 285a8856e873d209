// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Glibc
import KVM

/// What the loadable module (kernel-module/) counts, of the VMs that it is allowed to: VM exits by reason with times.
/// Nothing of userspace exits.
public final class ModuleCollector: ExitCollector {
    public let name = "module"

    private let module: ExitModule
    private let scope: CollectorScope
    /// What a VM had counted before this began, by VM and vCPU.
    private var before: [UInt64: [UInt32: ExitCounts]] = [:]
    private var guestBefore: [UInt64: [UInt32: UInt64]] = [:]
    private var unseen: UInt64 = 0

    public init(_ scope: CollectorScope) throws(CollectorError) {
        self.scope = scope
        do {
            module = try ExitModule()
        } catch {
            throw CollectorError(cause: "\(error)", remedy: "")
        }
        for (id, snapshot, _) in try snapshots(histograms: true) {
            for vcpu in snapshot.vcpus {
                before[id, default: [:]][vcpu.id] = Self.counts(vcpu, snapshot)
                guestBefore[id, default: [:]][vcpu.id] = vcpu.times.guest
            }
        }
    }

    private func snapshots(
        histograms: Bool
    ) throws(CollectorError) -> [(id: UInt64, snapshot: ExitModuleSnapshot, vm: ExitModuleList.VM)] {
        do {
            var all: [(id: UInt64, snapshot: ExitModuleSnapshot, vm: ExitModuleList.VM)] = []
            for vm in try module.list().vms where scope.contains(vm.pid) {
                // One that has ended since the list was read is none.
                guard let opened = try? module.open(vm: vm.id) else { continue }
                all.append((vm.id, try opened.read(histograms: histograms), vm))
            }
            return all
        } catch {
            throw CollectorError(cause: "\(error)", remedy: "")
        }
    }

    private static func counts(_ vcpu: ExitModuleSnapshot.VCPU, _ snapshot: ExitModuleSnapshot) -> ExitCounts {
        ExitCounts(
            source: .module, vocabulary: snapshot.vocabulary == 1 ? .vmx : .svm,
            reasons: vcpu.reasons.filter { $0.count > 0 }.map {
                ExitCounts.Reason(
                    code: $0.code, count: $0.count,
                    times: ExitCounts.Times(cycles: $0.cycles, range: $0.range, buckets: $0.buckets))
            })
    }

    public func read(_ detail: CollectorDetail) throws(CollectorError) -> [VCPUExits] {
        var readings: [VCPUExits] = []
        unseen = 0
        // Readings with and without histograms cannot be subtracted from each other.
        for (id, snapshot, vm) in try snapshots(histograms: true) {
            for vcpu in snapshot.vcpus {
                let counts = Self.counts(vcpu, snapshot)
                let since = before[id]?[vcpu.id].map { counts.difference(since: $0) } ?? counts
                unseen &+= vcpu.unseen
                readings.append(
                    VCPUExits(
                        identity: VCPUIdentity(
                            process: vm.pid, thread: 0, machine: id, vcpu: Int32(truncatingIfNeeded: vcpu.id)),
                        threadName: vm.name, hardware: since,
                        guestCycles: vcpu.times.guest &- (guestBefore[id]?[vcpu.id] ?? 0)))
            }
        }
        return readings
    }

    public func losses() -> CollectorLosses {
        var losses = CollectorLosses()
        losses.withoutRoom = unseen
        return losses
    }
}
