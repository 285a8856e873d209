import ExitStats
import Machine

/// A bench as people read it in a terminal.
public struct BenchTable: Sendable {
    private let result: BenchResult

    public init(_ result: BenchResult) {
        self.result = result
    }

    public func lines() -> [String] {
        var measured: [(BenchKind, BenchMeasurement)] = []
        var missing: [(BenchKind, String)] = []
        for row in result.rows {
            switch row.outcome {
            case .measured(let measurement): measured.append((row.kind, measurement))
            case .unavailable(let reason): missing.append((row.kind, reason))
            }
        }
        let hasKernel = measured.contains { $0.1.kernelCycles != nil }
        var table = TextTable(
            header: ["TSC cycles", "n", "min", "p50", "p90", "p99", "p99.9", "max", "outliers", "VMM"]
                + (hasKernel ? ["kernel", "switch"] : ["the rest"]) + ["exits", "count"])
        for (kind, m) in measured {
            table.add(
                [kind.name, grouped(UInt64(m.samples))]
                    + [m.minimum, m.p50, m.p90, m.p99, m.p999, m.maximum, UInt64(m.outliers), m.userspaceCycles]
                    .map(grouped)
                    + (hasKernel ? [m.kernelCycles.map(grouped) ?? ""] : []) + [grouped(m.restCycles)]
                    + [m.exitsPerIteration.map { fixed($0, 2) } ?? "", m.verdict])
        }
        var lines = table.lines()
        if !missing.isEmpty {
            lines += ["", "not on this host:"]
            let width = missing.map { $0.0.name.count }.max() ?? 0
            lines += missing.map { kind, reason in
                "  \(kind.name)\(String(repeating: " ", count: width - kind.name.count))  \(reason)"
            }
        }
        return lines
    }
}

extension BenchMeasurement {
    /// `exact`, or what is wrong with the counts.
    var verdict: String {
        if isExact { return "exact" }
        let names = ReasonVocabulary.kvm
        var wrong = userspace.filter { !$0.isExact }.map {
            "\(names.name($0.code)) \(grouped($0.counted)) for \(grouped($0.expected))"
        }
        if let hardware, let vocabulary, !hardware.isExact {
            let name = ReasonVocabulary.vocabulary(vocabulary).name(hardware.code)
            wrong.append("\(name) \(grouped(hardware.counted)) for \(grouped(hardware.expected))")
        }
        return "WRONG: " + wrong.joined(separator: ", ")
    }
}
