// SPDX-License-Identifier: Apache-2.0
import Rendering

/// A bench as people read it in a browser.
public struct BenchPage: Sendable {
    private let document: BenchDocument
    private let comparison: BenchComparison?
    private typealias Row = (kind: BenchDocument.Kind, figures: BenchDocument.Measured)

    /// The slowest first.
    private let measured: [Row]
    /// Those of `measured` that leave the guest on this host.
    private let exiting: [Row]

    public init(_ document: BenchDocument, comparison: BenchComparison? = nil) {
        self.document = document
        self.comparison = comparison
        measured = document.kinds.compactMap { kind in kind.measured.map { (kind, $0) } }
            .sorted { $0.figures.cycles.p50 > $1.figures.cycles.p50 }
        exiting = measured.filter { !$0.figures.makesNoExit }
    }

    public func html() -> String {
        Page(
            title: "What a VM exit costs on \(document.host.backend)",
            summary: "\(document.host.cpu), Linux \(document.host.kernel); vmtally bench, \(document.method.taken)"
                + (document.host.caveat.map { "; \($0)" } ?? "")
                + (document.cutOff == true ? "; cut off by a signal before all was measured" : ""),
            body: "\(verdict)\(overview)\(table)\(distributions)\(missing)\(method)"
        ).html()
    }

    private var verdict: Markup {
        let wrong = measured.filter { !$0.figures.exact }.count
        let counts: Markup =
            wrong == 0
            ? "<span class=\"good\">Every count is exact:</span> the VMM's tally has as many exits as the guest made."
            : "<span class=\"wrong\">\(wrong) kinds have a wrong count</span>, marked in the table."
        return """
            <p>\(measured.count) kinds of exit, timed inside the guest in TSC cycles. \(counts)</p>

            """
    }

    // MARK: - Overview

    private static let width = 340.0

    /// All kinds on one axis: their medians, and where nearly all of their samples lie.
    private var overview: Markup {
        guard let lowest = exiting.map(\.figures.cycles.min).min(),
            let highest = exiting.map(\.figures.cycles.p99).max()
        else { return "" }
        var groups: [String] = []
        for kind in document.kinds where exiting.contains(where: { $0.kind.group == kind.group }) {
            if !groups.contains(kind.group) { groups.append(kind.group) }
        }
        let (width, left, rowHeight) = (480.0, 132.0, 15.0)
        let bottom = Double(exiting.count) * rowHeight + 6
        let scale = Scale(
            Double(max(10, lowest))...Double(max(highest, 100)), from: left, to: width - 12, logarithmic: true)
        var drawing = Drawing.horizontalAxis(scale, bottom: bottom, top: 0, ticks: 6)
        for (index, row) in exiting.enumerated() {
            let y = (Double(index) + 0.5) * rowHeight + 3
            let cycles = row.figures.cycles
            let series = (groups.firstIndex(of: row.kind.group) ?? 0) % Page.seriesCount
            drawing += """
                <g><title>\(row.kind.name): \(grouped(cycles.p50)) cycles</title>\
                <text class="mark" x="\(left - 8)" y="\(y + 4)" text-anchor="end">\(row.kind.name)</text>\
                <path class="s\(series) line" d="M\(scale(Double(cycles.min))) \(y)H\(scale(Double(cycles.p99)))"/>\
                <circle class="s\(series) fill" cx="\(scale(Double(cycles.p50)))" cy="\(y)" r="4"/></g>

                """
        }
        let spoken = exiting.map { "\($0.kind.name) \(grouped($0.figures.cycles.p50))" }.joined(separator: ", ")
        return """
            <section><h2>At a glance</h2>
            <p class="muted">The dot is the median, the line goes from the minimum to the 99th percentile. TSC cycles, \
            logarithmic; the slowest first.</p>
            \(Page.legend(groups.enumerated().map { ($0.offset, Self.title($0.element)) }))\
            <figure class="wide">
            \(Drawing.svg(width: width, height: bottom + 18, label: "median cycles: \(spoken)", drawing))</figure>
            \(withoutExit)</section>

            """
    }

    /// What the processor or the guest's side of the hypervisor does by itself here.
    private var withoutExit: Markup {
        let names = measured.filter(\.figures.makesNoExit).map {
            "\($0.kind.name) (\(grouped($0.figures.cycles.p50)))"
        }
        return names.isEmpty
            ? ""
            : "<p class=\"muted\">Make no exit on this host, median cycles: \(names.joined(separator: ", ")).</p>\n"
    }

    // MARK: - Table

    private var hasKernel: Bool { measured.contains { $0.figures.parts.kernel != nil } }

    private var table: Markup {
        let header =
            ["", "n", "p50, ns", "min", "p50", "p90", "p99", "p99.9", "max", "outliers", "VMM"]
            + (hasKernel ? ["kernel", "switch"] : ["the rest"]) + ["VM exits", "counts"]
            + (comparison == nil ? [] : ["baseline", "change"])
        let rows = measured.map { kind, m -> (cells: [Markup], style: String?) in
            let c = m.cycles
            let name: Markup = m.makesNoExit ? "\(kind.name)" : "<a href=\"#\(kind.name)\">\(kind.name)</a>"
            let figures = [c.min, c.p50, c.p90, c.p99, c.p999, c.max, UInt64(m.outliers), m.parts.userspace]
            let change = comparison?[kind.name]
            let texts =
                [grouped(UInt64(m.n)), nanoseconds(c.p50)] + figures.map(grouped)
                + (hasKernel ? [m.parts.kernel.map(grouped) ?? ""] : [])
                + [grouped(m.parts.rest), m.exitsPerIteration, m.verdict]
                + (comparison == nil ? [] : [change.map { grouped($0.before) } ?? "", change?.text ?? ""])
            return ([name] + texts.map { "\($0)" as Markup }, m.exact ? nil : "wrong")
        }
        return """
            <section><h2>All figures</h2>
            <p class="muted">TSC cycles unless it says otherwise. VMM: what of the median is userspace's, by the tally of \
            the same exits. \(hasKernel ? "kernel: from VM exit to VM entry. " : "")VM exits: of one iteration, by KVM's own \
            count.</p>
            \(comparison.map { "<p class=\"muted\">Baseline: \($0.summary). * marks a change larger than chance (95 %).</p>" } ?? "")
            \(Markup.table(header, rows))</section>

            """
    }

    private func nanoseconds(_ cycles: UInt64) -> String {
        let kHz = Double(document.host.tscKHz)
        guard kHz > 0 else { return "" }
        let time = Double(cycles) * 1e6 / kHz
        return time < 100 ? fixed(time, 1) : BootComparisonReport.number(time.rounded())
    }

    // MARK: - Distributions

    private var distributions: Markup {
        let cards = exiting.sorted { $0.figures.cycles.spread > $1.figures.cycles.spread }.map { kind, m -> Markup in
            """
            <figure id="\(kind.name)"><h3>\(kind.name)</h3>
            <figcaption>\(kind.summary)</figcaption>
            \(histogram(kind, m))\(parts(m))</figure>

            """
        }
        return """
            <section><h2>Distributions</h2>
            <p class="muted">Samples by TSC cycles, logarithmic upwards; the most spread kinds first. The lines are p50, p90 and p99; what lies beyond \
            p99.5 is said in words.</p>
            \(Page.legend([(0, "samples"), (1, "VMM"), (2, hasKernel ? "kernel" : "kernel and world switch")] + (hasKernel ? [(7, "world switch")] : [])))
            <div class="grid">
            \(cards)</div></section>

            """
    }

    private func histogram(_ kind: BenchDocument.Kind, _ m: BenchDocument.Measured) -> Markup {
        let top = 14.0
        let bottom = 96.0
        let left = 30.0
        guard let first = m.distribution.first else { return "" }
        guard m.cycles.min < m.cycles.max else {
            return "<p>All \(grouped(UInt64(m.n))) samples: <strong>\(grouped(m.cycles.p50))</strong> cycles</p>\n"
        }
        // Bins of one width; what comes after them is the tail.
        let step = first.to - first.from + 1
        let body = m.distribution.prefix { $0.from - first.from <= 60 * step && $0.to - $0.from + 1 == step }
        let tail = m.distribution.dropFirst(body.count).reduce(0) { $0 + $1.n }
        let last = body.last ?? first
        let x = Scale(
            Double(first.from)...Double(max(last.to + 1, first.from + 2)), from: left, to: Self.width - 8,
            whole: true)
        let most = Double(body.map(\.n).max() ?? 1)
        let y = Scale(0.5...max(most, 2), from: bottom, to: top, logarithmic: true)
        var drawing = Drawing.horizontalAxis(x, bottom: bottom, top: bottom, ticks: 4)
        let decades = [1.0, 10, 100, 1_000, 10_000, 100_000, 1_000_000].filter { $0 <= most }
        for decade in decades.count > 3 ? decades.enumerated().filter({ $0.offset % 2 == 0 }).map(\.element) : decades {
            drawing += "<path class=\"gridline\" d=\"M\(left) \(y(decade))H\(Self.width - 8)\"/>"
            drawing +=
                "<text x=\"\(left - 4)\" y=\"\(y(decade) + 4)\" text-anchor=\"end\">\(Drawing.short(decade))</text>\n"
        }
        for bin in body {
            let from = x(Double(bin.from))
            let width = max(1, x(Double(bin.to + 1)) - from - 0.5)
            let place = y(Double(bin.n))
            drawing +=
                "<rect class=\"s0 fill\" x=\"\(from)\" y=\"\(place)\" width=\"\(width)\" height=\"\(bottom - place)\"/>\n"
        }
        for (value, name) in [(m.cycles.p50, "p50"), (m.cycles.p90, "p90"), (m.cycles.p99, "p99")]
        where value <= last.to {
            let place = x(Double(value))
            drawing +=
                "<path class=\"axis\" stroke-dasharray=\"2 2\" d=\"M\(place) \(bottom)V\(top - 2)\"><title>\(name)</title></path>\n"
        }
        let label = "\(kind.name): distribution of \(m.n) samples, median \(m.cycles.p50) cycles"
        let beyond =
            tail == 0
            ? "all of \(grouped(UInt64(m.n))) samples"
            : "\(grouped(UInt64(m.n))) samples, \(grouped(UInt64(tail))) of them beyond, up to \(Drawing.short(Double(m.cycles.max)))"
        return Drawing.svg(width: Self.width, height: bottom + 18, label: label, drawing)
            + "<p class=\"muted\"><small>\(beyond)</small></p>\n"
    }

    /// The median as a bar of its parts.
    private func parts(_ m: BenchDocument.Measured) -> Markup {
        let width = Self.width - 38
        let all = Double(max(1, m.parts.userspace + (m.parts.kernel ?? 0) + m.parts.rest))
        let pieces =
            [(m.parts.userspace, 1)]
            + (hasKernel ? [(m.parts.kernel ?? 0, 2), (m.parts.rest, 7)] : [(m.parts.rest, 2)])
        var place = 30.0
        var bar: Markup = ""
        for (cycles, series) in pieces where cycles > 0 {
            let share = Double(cycles) / all * width
            bar +=
                "<rect class=\"s\(series) fill\" x=\"\(place)\" y=\"0\" width=\"\(max(0.5, share))\" height=\"8\"/>\n"
            place += share
        }
        var words = [("VMM", m.parts.userspace)]
        if let kernel = m.parts.kernel { words.append(("kernel", kernel)) }
        words.append((hasKernel ? "switch" : "the rest", m.parts.rest))
        let parts = words.map { "\($0.0) \(grouped($0.1))" }
        // The parts are medians of their own: they need not add up.
        let isSum = words.reduce(0) { $0 &+ $1.1 } == m.cycles.p50
        let text =
            "p50 \(grouped(m.cycles.p50))"
            + (isSum ? " = \(parts.joined(separator: " + "))" : "; by themselves: \(parts.joined(separator: ", "))")
        return Drawing.svg(width: Self.width, height: 8, label: text, bar) + "<p><small>\(text)</small></p>\n"
    }

    // MARK: - The rest

    private var missing: Markup {
        let absent = document.kinds.filter { $0.measured == nil }
        guard !absent.isEmpty else { return "" }
        return """
            <section><h2>Not on this host</h2>
            \(Markup.facts(absent.map { ($0.name, $0.unavailable ?? "") }))</section>

            """
    }

    private var method: Markup {
        let method = document.method
        let kHz = UInt64(document.host.tscKHz)
        let facts: [(name: String, value: String)] = [
            ("processor", document.host.cpu), ("kernel", "Linux \(document.host.kernel)"),
            ("backend", document.host.backend),
            ("TSC", kHz == 0 ? "of unknown frequency" : "\(fixed(Double(kHz) / 1000, 1)) MHz"),
            (
                "vCPUs",
                method.pinned.isEmpty
                    ? "not pinned" : "on host CPU \(method.pinned.map(String.init).joined(separator: ", "))"
            ),
            ("seed", "\(method.seed)"),
            ("TSC readings", "\(method.overhead) cycles, subtracted"),
            ("took", "\(fixed(Double(method.wallNanoseconds) / 1e9, 1)) s, until \(method.taken)"),
            ("tool", "\(document.tool.name) \(document.tool.version)"),
            ("again", "vmtally bench --seed \(method.seed)"),
        ]
        return """
            <section><h2>Machine and method</h2>
            \(Markup.facts(facts))\
            <p>A bare-metal guest reads the TSC before and after each iteration; what two readings cost with nothing in \
            between is subtracted. Kinds run in blocks, all kinds' blocks in one shuffled order, so that a disturbance of \
            some seconds hits them alike. The first iterations of each block warm up and give no sample. Outliers (more than \
            three interquartile ranges outside the quartiles) are counted and kept in every figure.</p>
            <p>The VMM's part is the median that its own tally has for the same exits; the tally's difference over a block \
            must equal the exits that the guest made in it, or the row is marked wrong.</p></section>

            """
    }

    private static func title(_ group: String) -> String {
        switch group {
        case "msrs": "MSRs"
        case "ports": "Port I/O"
        case "memory": "Memory"
        case "cpuid": "CPUID, live and not"
        case "tally": "The tally itself"
        default: group.prefix(1).uppercased() + group.dropFirst()
        }
    }
}

extension BenchDocument.Measured {
    /// Neither userspace nor KVM saw an exit for each iteration: by KVM's own count; unknown before Linux 5.14.
    fileprivate var makesNoExit: Bool {
        guard let vmExits, iterations > 0 else { return false }
        return Double(vmExits) / Double(iterations) < 0.5 && exits.allSatisfy { $0.expected == 0 }
    }
}

extension BenchDocument.Cycles {
    /// How far the slow samples are from the usual one, as a ratio.
    fileprivate var spread: Double { Double(p99) / Double(p50 == 0 ? 1 : p50) }
}
