// SPDX-License-Identifier: Apache-2.0
import HostView
import LiveView
import NIOCore
import Reports
import ThisHost

/// What there is to scrape. Of one event loop.
protocol MetricsSource: AnyObject {
    func document(at now: NIODeadline) throws -> MetricsDocument
}

/// The exits of this host's VMs.
final class HostMetrics: MetricsSource {
    /// A VM that has ended is told by a collector once, and scrapers come every minute, or there are two of them.
    private static let keepsEnded = TimeAmount.seconds(120)
    private static let mostEnded = 1024

    private var live: LiveMachines
    private var ended: [(machine: LiveMachine, until: NIODeadline)] = []
    private var lastReading = NIODeadline.uptimeNanoseconds(0)
    private let detail: CollectorDetail
    private let histograms: MetricsDocument.Histograms
    private let host: HostIdentity
    private let scale: TSCScale

    init(_ live: LiveMachines, histograms: MetricsDocument.Histograms, scale: TSCScale = .host) {
        self.live = live
        self.histograms = histograms
        self.scale = scale
        host = HostIdentity(tscKHz: UInt32(clamping: scale.kHz))
        detail = CollectorDetail(
            bounds: histograms == .none ? [] : MetricsDocument.bounds.map { scale.cycles($0.nanoseconds) })
    }

    func document(at now: NIODeadline) throws -> MetricsDocument {
        let start = NIODeadline.now()
        let machines = try read(at: now)
        return MetricsDocument(
            version: Release.version, host: host, collector: live.collector.name, lost: live.losses,
            nanoseconds: UInt64(max(0, (NIODeadline.now() - start).nanoseconds)), machines: machines,
            toNanoseconds: { [scale] in scale.nanoseconds($0) }, histograms: histograms)
    }

    /// Reads when nobody has for a while: what a VM that has ended counted in can be given to the next only then.
    func tidy(at now: NIODeadline) throws {
        guard now - lastReading > .seconds(10) else { return }
        _ = try read(at: now)
    }

    private func read(at now: NIODeadline) throws -> [LiveMachine] {
        lastReading = now
        let machines = try live.read(detail)
        let running = Set(machines.lazy.filter { !$0.hasEnded }.map(Key.init))
        ended.removeAll { $0.until <= now || running.contains(Key($0.machine)) }
        for machine in machines where machine.hasEnded {
            // Numbers that were another's a moment ago: a series must not be there twice.
            ended.removeAll { Key($0.machine) == Key(machine) }
            ended.append((machine, now + Self.keepsEnded))
        }
        if ended.count > Self.mostEnded { ended.removeFirst(ended.count - Self.mostEnded) }
        return machines.filter { !$0.hasEnded } + ended.map(\.machine)
    }

    /// What names a VM's series.
    private struct Key: Hashable {
        let process: Int32
        let number: Int
        let name: String

        init(_ machine: LiveMachine) {
            process = machine.process
            number = machine.number
            name = machine.name
        }
    }
}
