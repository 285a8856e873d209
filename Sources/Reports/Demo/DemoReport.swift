// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering

/// Both views of one tally: what the guest read by CPUID, and what the host had counted at that exit.
public struct DemoReport: Sendable {
    private let result: RunReport
    private let probe: ProbeReport

    public init(_ result: RunReport, probe: ProbeReport) {
        self.result = result
        self.probe = probe
    }

    /// One reading of leaf 0x4FFFFFFF that the guest took.
    private struct Reading {
        let name: String
        let live: Bool
        let guest: TallyPair
    }

    private var readings: [Reading] {
        let rings = probe.rings.flatMap { ring in
            [("first", ring.first), ("second", ring.second)].compactMap { name, reading in
                reading.map {
                    Reading(
                        name: "ring \(ring.ring), \(name)", live: ring.live,
                        guest: TallyPair(count: $0.count, cycles: $0.cycles))
                }
            }
        }
        let last = probe.last.flatMap { last in
            last.registers.tallyPair.map {
                let live = probe.rings.contains { $0.ring == last.ring && $0.live }
                return Reading(name: "ring \(last.ring), last", live: live, guest: $0)
            }
        }
        return rings + (last.map { [$0] } ?? [])
    }

    /// True when the probe found nothing wrong and the host knows of every live reading that it took.
    public var isRight: Bool {
        probe.signature && probe.checks.allSatisfy(\.ok)
            && readings.allSatisfy { !$0.live || host(of: $0) != nil || isWithinHardware($0) }
    }

    /// - Parameter width: columns of the terminal.
    public func lines(width: Int = .max) -> [String] {
        var table = TextTable(header: ["CPUID 0x4FFFFFFF", "guest: exits", "cycles", "host: exits", "cycles", ""])
        for reading in readings {
            let guest = [grouped(reading.guest.count), grouped(reading.guest.cycles)]
            let host = host(of: reading).map { [grouped($0.count), grouped($0.cycles)] } ?? ["-", "-"]
            table.add([reading.name] + guest + host + [verdict(reading)])
        }
        let silent = probe.rings.filter { $0.first == nil }.map { "ring \($0.ring): CPUID does not reach the VMM here" }
        let failed = probe.checks.filter { !$0.ok }.map {
            "FAILED in the guest: \($0.name): expected \($0.expected), got \($0.got)"
        }
        let passed = probe.checks.count { $0.ok }
        return table.lines(width: width) + silent + [
            "", "the guest's own checks: \(passed) of \(probe.checks.count) passed",
        ]
            + failed
    }

    private func host(of reading: Reading) -> TallyPair? {
        reading.live ? result.leaf.readings.first { $0 == reading.guest } : nil
    }

    /// A reading that the kernel answered: no more than it counted until the end of the run.
    private func isWithinHardware(_ reading: Reading) -> Bool {
        guard let total = result.hardware?.pair else { return false }
        return reading.guest.count <= total.count && reading.guest.cycles <= total.cycles
    }

    private func verdict(_ reading: Reading) -> String {
        guard reading.live else { return "snapshot" }
        if host(of: reading) != nil {
            return "equal"
        }
        return isWithinHardware(reading) ? "by the kernel" : "UNKNOWN TO THE HOST"
    }
}
