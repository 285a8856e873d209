import ExitStats
import Machine

/// Both views of one tally: what the guest read by CPUID, and what the host had counted at that exit.
public struct DemoReport: Sendable {
    private let result: RunResult
    private let probe: ProbeReport

    public init(_ result: RunResult, probe: ProbeReport) {
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
                Reading(name: "ring \(last.ring), last", live: !result.leaf.readings.isEmpty, guest: $0)
            }
        }
        return rings + (last.map { [$0] } ?? [])
    }

    /// True when the probe found nothing wrong and the host knows of every live reading that it took.
    public var isRight: Bool {
        probe.signature && probe.checks.allSatisfy(\.ok) && readings.allSatisfy { !$0.live || host(of: $0) != nil }
    }

    public func lines() -> [String] {
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
        return table.lines() + silent + ["", "the guest's own checks: \(passed) of \(probe.checks.count) right"]
            + failed
    }

    private func host(of reading: Reading) -> TallyPair? {
        reading.live ? result.leaf.readings.first { $0 == reading.guest } : nil
    }

    private func verdict(_ reading: Reading) -> String {
        reading.live ? (host(of: reading) == nil ? "UNKNOWN TO THE HOST" : "equal") : "snapshot"
    }
}
