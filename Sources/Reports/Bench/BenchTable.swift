// SPDX-License-Identifier: Apache-2.0
import Rendering

/// A bench as people read it in a terminal.
public struct BenchTable: Sendable {
    private let document: BenchDocument
    private let comparison: BenchComparison?
    private let width: Int

    /// - Parameter width: columns of the terminal.
    public init(_ document: BenchDocument, comparison: BenchComparison? = nil, width: Int = .max) {
        self.width = width
        self.document = document
        self.comparison = comparison
    }

    public func lines() -> [String] {
        let method = document.method
        let pinned =
            method.pinned.isEmpty ? "not pinned" : "on CPU \(method.pinned.map(String.init).joined(separator: ", "))"
        var lines = [
            "host: \(document.host.cpu), Linux \(document.host.kernel), \(document.host.backend)",
            "seed \(method.seed), \(pinned), TSC readings' own \(method.overhead) cycles subtracted, "
                + "\(fixed(Double(method.wallNanoseconds) / 1e9, 1)) s",
        ]
        if let caveat = document.host.caveat { lines.append(caveat) }
        if document.cutOff == true { lines.append("cut off by a signal: not all was measured") }
        if let comparison { lines.append("baseline: \(comparison.summary)") }
        lines.append("")
        lines += tableLines()
        let missing = document.kinds.filter { $0.measured == nil }
        if !missing.isEmpty {
            let width = missing.map(\.name.count).max() ?? 0
            lines += ["", "not on this host:"]
            lines += missing.map { kind in
                "  \(kind.name)\(String(repeating: " ", count: width - kind.name.count))  \(kind.unavailable ?? "")"
            }
        }
        return lines
    }

    private func tableLines() -> [String] {
        let kHz = document.host.tscKHz
        let hasKernel = document.kinds.contains { $0.measured?.parts.kernel != nil }
        var table = TextTable(
            header: ["TSC cycles", "n", "min", "p50", "p90", "p99", "p99.9", "max"]
                + (kHz > 0 ? ["p50 ns", "p99 ns"] : []) + ["outliers", "VMM"]
                + (hasKernel ? ["kernel", "switch"] : ["the rest"]) + ["VM exits", "counts"]
                + (comparison == nil ? [] : ["baseline", "change"]),
            expendable: [
                "p99.9", "min", "p90", "outliers", "max", "n", "p99 ns", "the rest", "switch", "p99", "VM exits",
            ])
        for kind in document.kinds {
            guard let m = kind.measured else { continue }
            let figures = [
                m.cycles.min, m.cycles.p50, m.cycles.p90, m.cycles.p99, m.cycles.p999, m.cycles.max,
            ]
            let times = [m.cycles.p50, m.cycles.p99].compactMap { nanoseconds($0, kHz: kHz) }
            let parts = [UInt64(m.outliers), m.parts.userspace]
            let change = comparison?[kind.name]
            table.add(
                [kind.name, grouped(UInt64(m.n))] + (figures + times + parts).map(grouped)
                    + (hasKernel ? [m.parts.kernel.map(grouped) ?? ""] : [])
                    + [grouped(m.parts.rest), m.exitsPerIteration, m.verdict]
                    + (comparison == nil ? [] : [change.map { grouped($0.before) } ?? "", change?.text ?? ""]))
        }
        return table.lines(width: width)
    }

    /// A line for each kind that was measured: cycles unless a column says otherwise.
    public var csv: CSV {
        var csv = CSV(header: [
            "kind", "n", "min", "p50", "p90", "p99", "p999", "max", "p50_ns", "p99_ns", "outliers", "vmm", "kernel",
            "rest",
            "vm_exits", "counts",
        ])
        for kind in document.kinds {
            guard let m = kind.measured else { continue }
            let cycles = [m.cycles.min, m.cycles.p50, m.cycles.p90, m.cycles.p99, m.cycles.p999, m.cycles.max]
            let times = [m.cycles.p50, m.cycles.p99].map { cell(nanoseconds($0, kHz: document.host.tscKHz)) }
            csv.add(
                [kind.name, "\(m.n)"] + cycles.map { "\($0)" } + times
                    + ["\(m.outliers)", "\(m.parts.userspace)", cell(m.parts.kernel), "\(m.parts.rest)"]
                    + [m.exitsPerIteration, m.verdict])
        }
        return csv
    }
}
