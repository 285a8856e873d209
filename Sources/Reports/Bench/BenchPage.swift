import Rendering

/// A bench as people read it in a browser.
public struct BenchPage: Sendable {
    private let document: BenchDocument
    private let comparison: BenchComparison?
    private let measured: [(kind: BenchDocument.Kind, figures: BenchDocument.Measured)]

    public init(_ document: BenchDocument, comparison: BenchComparison? = nil) {
        self.document = document
        self.comparison = comparison
        measured = document.kinds.compactMap { kind in kind.measured.map { (kind, $0) } }
    }

    public func html() -> String {
        Page(
            title: "What a VM exit costs on \(document.host.backend)",
            summary: "\(document.host.cpu), Linux \(document.host.kernel); vmtally bench, \(document.method.taken)",
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
    private static let left = 132.0

    /// A card a group: each kind's median and where 98 % of its samples lie, all on one scale.
    private var overview: Markup {
        guard let lowest = measured.map(\.figures.cycles.min).min(),
            let highest = measured.map(\.figures.cycles.p99).max()
        else { return "" }
        let domain = Double(max(10, lowest))...Double(max(highest, 100))
        var groups: [String] = []
        for entry in measured where !groups.contains(entry.kind.group) { groups.append(entry.kind.group) }
        let cards = groups.enumerated().map { index, group -> Markup in
            let rows = measured.filter { $0.kind.group == group }
            return """
                <figure><h3>\(Self.title(group))</h3>
                \(overviewDrawing(rows, domain, series: index, label: group))</figure>

                """
        }
        return """
            <section><h2>At a glance</h2>
            <p class="muted">The dot is the median, the line goes from the minimum to the 99th percentile. TSC cycles, the \
            same logarithmic scale everywhere.</p>
            <div class="grid">
            \(cards)</div></section>

            """
    }

    private func overviewDrawing(
        _ rows: [(kind: BenchDocument.Kind, figures: BenchDocument.Measured)], _ domain: ClosedRange<Double>,
        series: Int, label: String
    ) -> Markup {
        let rowHeight = 17.0
        let bottom = Double(rows.count) * rowHeight + 6
        let scale = Scale(domain, from: Self.left, to: Self.width - 12, logarithmic: true)
        var drawing = Drawing.horizontalAxis(scale, bottom: bottom, top: 0, ticks: 5)
        for (index, row) in rows.enumerated() {
            let y = (Double(index) + 0.5) * rowHeight + 3
            let cycles = row.figures.cycles
            drawing += """
                <g><title>\(row.kind.name): \(grouped(cycles.p50)) cycles</title>\
                <text class="mark" x="\(Self.left - 8)" y="\(y + 4)" text-anchor="end">\(row.kind.name)</text>\
                <path class="s\(series) line" d="M\(scale(Double(cycles.min))) \(y)H\(scale(Double(cycles.p99)))"/>\
                <circle class="s\(series) fill" cx="\(scale(Double(cycles.p50)))" cy="\(y)" r="4"/></g>

                """
        }
        let spoken = rows.map { "\($0.kind.name) \(grouped($0.figures.cycles.p50))" }.joined(separator: ", ")
        return Drawing.svg(width: Self.width, height: bottom + 18, label: "\(label), median cycles: \(spoken)", drawing)
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
            let name: Markup = "<a href=\"#\(kind.name)\">\(kind.name)</a>"
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
        return time < 100 ? fixed(time, 1) : grouped(UInt64(time.rounded()))
    }

    // MARK: - Distributions

    private var distributions: Markup {
        let cards = measured.map { kind, m -> Markup in
            """
            <figure id="\(kind.name)"><h3>\(kind.name)</h3>
            <figcaption>\(kind.summary)</figcaption>
            \(histogram(kind, m))\(parts(m))</figure>

            """
        }
        return """
            <section><h2>Distributions</h2>
            <p class="muted">Samples by TSC cycles, logarithmic upwards. The lines are p50, p90 and p99; what lies beyond \
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
        // Bins of one width; what comes after them is the tail.
        let step = first.to - first.from + 1
        let body = m.distribution.prefix { $0.from - first.from <= 60 * step && $0.to - $0.from + 1 == step }
        let tail = m.distribution.dropFirst(body.count).reduce(0) { $0 + $1.n }
        let last = body.last ?? first
        let x = Scale(Double(first.from)...Double(max(last.to + 1, first.from + 2)), from: left, to: Self.width - 8)
        let most = Double(body.map(\.n).max() ?? 1)
        let y = Scale(0.5...max(most, 2), from: bottom, to: top, logarithmic: true)
        var drawing = Drawing.horizontalAxis(x, bottom: bottom, top: bottom, ticks: 5)
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
        var words = "p50 \(grouped(m.cycles.p50)) = VMM \(grouped(m.parts.userspace))"
        if let kernel = m.parts.kernel { words += " + kernel \(grouped(kernel))" }
        words += " + \(hasKernel ? "switch" : "the rest") \(grouped(m.parts.rest))"
        return Drawing.svg(width: Self.width, height: 8, label: words, bar) + "<p><small>\(words)</small></p>\n"
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
