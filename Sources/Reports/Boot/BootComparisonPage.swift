// SPDX-License-Identifier: Apache-2.0
import BootRecords
import Glibc
import Rendering

/// What changed between recordings of boots, as a page.
public struct BootComparisonPage: Sendable {
    private let comparisons: [BootComparison]
    private let limit: Double?

    public init(_ comparisons: [BootComparison], limit: Double? = nil) {
        self.comparisons = comparisons
        self.limit = limit
    }

    public var page: Page {
        var body: Markup = ""
        for comparison in comparisons {
            for pair in comparison.pairs {
                body += section(pair, comparison)
            }
            if !comparison.unmatched.isEmpty {
                body +=
                    "<p class=\"muted\">In one recording only: \(comparison.unmatched.joined(separator: "; "))</p>\n"
            }
        }
        body += method
        let labels = comparisons.map { $0.candidate.label }.joined(separator: ", ")
        let baseline = comparisons.first?.baseline.label ?? ""
        return Page(title: "Exits of a boot: \(baseline) and \(labels)", summary: summary, body: body)
    }

    private var summary: String {
        let significant = comparisons.flatMap(\.pairs).reduce(0) { $0 + $1.significant.count }
        let found =
            significant == 0
            ? "No change stands out from chance." : "\(significant) changes stand out from chance, shown first."
        guard let gate = BootComparisonReport(comparisons, limit: limit).gate else { return found }
        return found + BootComparisonReport.lines(gate).map { " \($0)." }.joined()
    }

    // MARK: - One pair of configurations

    private func section(_ pair: BootComparison.Pair, _ comparison: BootComparison) -> Markup {
        let labels = (comparison.baseline.label, comparison.candidate.label)
        let remarks = (pair.remarks + pair.unjudged).map { "<li>\($0)</li>\n" as Markup }
        var body: Markup = "<section><h2>\(pair.after.name)</h2>\n"
        body +=
            "<p class=\"muted\">\(pair.before.runs.count) boots of \(labels.0), \(pair.after.runs.count) of \(labels.1)</p>\n"
        if !remarks.isEmpty {
            body += "<ul class=\"muted\">\(remarks)</ul>\n"
        }
        body += table(pair, labels)
        body += "<div class=\"pair\">\n\(differences(pair, .hardware, "VM exits"))"
        body += "\(differences(pair, .userspace, "Userspace exits"))</div>\n"
        body += stacks(pair, labels, "VM exits", \.hardware)
        body += stacks(pair, labels, "Userspace exits", \.userspace)
        body += phases(pair, labels)
        body += functions(pair, labels)
        return body + "</section>\n"
    }

    private func table(_ pair: BootComparison.Pair, _ labels: (String, String)) -> Markup {
        let rows = pair.rows.filter { $0.isSignificant || $0.group == .total || $0.group == .time }
        return .table(
            ["median", labels.0, labels.1, "difference, 95 % interval"],
            rows.map { row in
                let name: Markup = row.isSignificant ? "<strong>\(row.name.breakable)</strong>" : row.name.breakable
                let interval =
                    "\(BootComparisonReport.signed(row.interval.lowerBound)) to \(BootComparisonReport.signed(row.interval.upperBound))"
                let cells: [Markup] = [
                    name, "\(BootComparisonReport.number(row.before))", "\(BootComparisonReport.number(row.after))",
                    """
                    \(BootComparisonReport.signed(row.difference)) \
                    <small>\(BootComparisonReport.signedPercent(row.relative).replacing(" ", with: "\u{A0}"))</small><br/>\
                    <small class="muted">\(interval)</small>
                    """,
                ]
                let isWorse = limit.map { row.isSignificant && row.difference > 0 && row.share > $0 } ?? false
                return (cells, isWorse ? "wrong" : row.isSignificant ? nil : "muted")
            })
    }

    /// Bars to the left for fewer exits, to the right for more, with their intervals.
    private func differences(_ pair: BootComparison.Pair, _ group: BootComparison.Group, _ title: String) -> Markup {
        let rows = pair.rows.filter { $0.group == group && ($0.difference != 0 || $0.interval != 0...0) }.prefix(14)
        guard !rows.isEmpty else {
            let some = pair.rows.contains { $0.group == group }
            return some
                ? "<figure><h3>\(title): difference by reason</h3><p class=\"muted\">The same in every reason.</p></figure>\n"
                : ""
        }
        let names = rows.map(\.name.withoutPrefix)
        let width = 360.0
        let left = Double(names.map(\.count).max() ?? 0) * 7.2 + 8
        let room = 38.0  // beside a bar, for its number
        let line = 20.0
        let bottom = 8 + Double(rows.count) * line
        let lowest = min(0, rows.map { min($0.interval.lowerBound, $0.difference) }.min() ?? 0)
        let highest = max(0, rows.map { max($0.interval.upperBound, $0.difference) }.max() ?? 0)
        let scale = Scale(
            lowest...max(highest, lowest + 1), from: left + (lowest < 0 ? room : 6),
            to: width - (highest > 0 ? room : 10))
        var drawing = Drawing.horizontalAxis(scale, bottom: bottom, top: 4, ticks: 4, signed: true)
        let zero = scale(0)
        for (index, row) in rows.enumerated() {
            let y = 8 + Double(index) * line
            let end = scale(row.difference)
            let isLess = row.difference < 0
            let beside = scale(isLess ? row.interval.lowerBound : row.interval.upperBound)
            let number: Markup =
                "<text x=\"\(isLess ? min(end, beside) - 4 : max(end, beside) + 4)\" y=\"\(y + 12)\" text-anchor=\"\(isLess ? "end" : "start")\">"
                + "\(row.difference > 0 ? "+" : "")\(Drawing.short(row.difference))</text>"
            let series = row.isSignificant ? (row.difference > 0 ? 1 : 2) : 7
            let interval =
                "\(BootComparisonReport.signed(row.interval.lowerBound)) to \(BootComparisonReport.signed(row.interval.upperBound))"
            drawing += """
                <g><title>\(row.name): \(BootComparisonReport.signed(row.difference)), \(interval)</title>\
                <text x="\(left)" y="\(y + 12)" text-anchor="end">\(names[index])</text>\(number)\
                <rect x="\(min(zero, end))" y="\(y + 4)" width="\(abs(end - zero))" height="9" class="s\(series) fill"/>\
                <path class="s\(series) line" d="M\(scale(row.interval.lowerBound)) \(y + 8.5)H\
                \(scale(row.interval.upperBound))M\(scale(row.interval.lowerBound)) \(y + 5)v7M\
                \(scale(row.interval.upperBound)) \(y + 5)v7"/></g>

                """
        }
        drawing += "<path class=\"axis\" d=\"M\(zero) 4V\(bottom)\"/>\n"
        return """
            <figure><h3>\(title): difference by reason</h3>
            <figcaption>Medians, with their 95 % intervals. In colour: stands out from chance.</figcaption>
            \(Drawing.svg(width: width, height: bottom + 18, label: "\(title): difference of the medians by reason", drawing))</figure>

            """
    }

    // MARK: - Over time

    /// Both series, stacked by reason, on the same scales.
    private func stacks(
        _ pair: BootComparison.Pair, _ labels: (String, String), _ title: String,
        _ counts: KeyPath<BootSeries, [String: [UInt64]]>
    ) -> Markup {
        let both = [(labels.0, pair.before.series), (labels.1, pair.after.series)].compactMap { label, series in
            series.flatMap { $0[keyPath: counts].isEmpty ? nil : (label: label, series: $0) }
        }
        guard !both.isEmpty else { return "" }
        // The most frequent reasons have a colour of their own; the last is everything else's.
        var sums: [String: Double] = [:]
        for (_, series) in both {
            for (reason, values) in series[keyPath: counts] {
                sums[reason, default: 0] += values.reduce(0) { $0 + Double($1) } / Double(max(1, series.runs))
            }
        }
        let named = sums.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.map(\.key)
        let shown = Array(named.prefix(Page.seriesCount - 1))
        let hasRest = named.count > shown.count
        let layered = both.map { (label: $0.label, layers: Layers($0.series, counts, shown)) }
        let highest = layered.map(\.layers.peak).max() ?? 1
        let longest = layered.map(\.layers.seconds).max() ?? 1
        var legend = shown.enumerated().map { (series: $0.offset, name: $0.element.withoutPrefix) }
        if hasRest { legend.append((Page.seriesCount - 1, "others")) }
        let figures = layered.map { label, layers in
            self.stack(label, layers, title, highest: highest, longest: longest)
        }
        return """
            <h3>\(title) over the boot</h3>
            \(Page.legend(legend))<div class="pair">
            \(figures)</div>

            """
    }

    /// Running totals of exits per ms, reason upon reason.
    private struct Layers {
        /// For each layer, the upper edge in each bucket.
        let tops: [[Double]]
        let interval: Double
        var seconds: Double { Double(tops.first?.count ?? 0) * interval }
        var peak: Double { tops.last?.max() ?? 0 }

        init(_ series: BootSeries, _ counts: KeyPath<BootSeries, [String: [UInt64]]>, _ shown: [String]) {
            interval = Double(series.interval) / 1e9
            let values = series[keyPath: counts]
            let count = min(values.values.map(\.count).max() ?? 0, 10_000)
            let scale = 1e6 / (Double(max(1, series.runs)) * Double(max(1, series.interval)))
            var total = [Double](repeating: 0, count: count)
            var tops: [[Double]] = []
            func add(_ numbers: [UInt64]) {
                for index in 0..<min(count, numbers.count) {
                    total[index] += Double(numbers[index]) * scale
                }
            }
            for reason in shown {
                add(values[reason] ?? [])
                tops.append(total)
            }
            for (reason, numbers) in values where !shown.contains(reason) {
                add(numbers)
            }
            tops.append(total)
            self.tops = tops
        }
    }

    private func stack(_ label: String, _ layers: Layers, _ title: String, highest: Double, longest: Double) -> Markup {
        let (width, height, left) = (360.0, 170.0, 32.0)
        let x = Scale(0...max(longest, 1e-9), from: left, to: width - 8)
        let y = Scale(0...max(highest, 1e-9), from: height - 20, to: 8)
        var drawing = Drawing.verticalAxis(y, left: left, right: width - 8, ticks: 4)
        var below = [Double](repeating: 0, count: layers.tops.first?.count ?? 0)
        for (index, top) in layers.tops.enumerated() {
            defer { below = top }
            guard zip(top, below).contains(where: { $0 > $1 }) else { continue }
            func edge(_ values: [Double]) -> [(x: Double, y: Double)] {
                values.enumerated().flatMap { bucket, value in
                    [
                        (x(Double(bucket) * layers.interval), y(value)),
                        (x(Double(bucket + 1) * layers.interval), y(value)),
                    ]
                }
            }
            drawing += "<path class=\"s\(min(index, Page.seriesCount - 1)) fill\" d=\""
            drawing += "\(Drawing.path(edge(top) + edge(below).reversed(), closed: true))\"/>\n"
        }
        drawing += Drawing.horizontalAxis(x, bottom: height - 20, top: height - 20, ticks: 5, unit: " s")
        return """
            <figure><h3>\(label)</h3><figcaption>\(title) per ms, mean of the boots</figcaption>
            \(Drawing.svg(width: width, height: height, label: "\(title) per ms over boot time, \(label)", drawing))</figure>

            """
    }

    // MARK: - Where

    private func phases(_ pair: BootComparison.Pair, _ labels: (String, String)) -> Markup {
        let order = pair.before.runs.first?.phases?.map(\.name) ?? []
        let rows = order.compactMap { name in pair.rows.first { $0.group == .phase && $0.name == name } }
        guard !rows.isEmpty else { return "" }
        let counted = pair.before.runs.first?.hardware?.byName == nil ? "userspace exits" : "VM exits"
        return """
            <h3>By boot phase</h3>
            <p class="muted">Median \(counted) from one message of the kernel's log to the next.</p>
            \(Markup.table(
                ["phase", labels.0, labels.1, "difference"],
                rows.map { row in
                    (
                        [
                            "\(row.name)", "\(BootComparisonReport.number(row.before))",
                            "\(BootComparisonReport.number(row.after))", "\(BootComparisonReport.signed(row.difference))",
                        ], nil
                    )
                }))
            """
    }

    private func functions(_ pair: BootComparison.Pair, _ labels: (String, String)) -> Markup {
        func perBoot(_ configuration: BootConfiguration) -> [String: Double] {
            let boots = Double(configuration.series?.runs ?? configuration.runs.count)
            return (configuration.functions ?? []).reduce(into: [:]) { $0[$1.name] = Double($1.exits) / max(1, boots) }
        }
        let (before, after) = (perBoot(pair.before), perBoot(pair.after))
        let names = Set(before.keys).union(after.keys).sorted {
            (max(before[$1] ?? 0, after[$1] ?? 0), $0) < (max(before[$0] ?? 0, after[$0] ?? 0), $1)
        }
        guard !names.isEmpty else { return "" }
        func cell(_ value: Double?) -> Markup { value.map { "\(BootComparisonReport.number($0))" } ?? "" }
        return """
            <h3>Guest functions with the most VM exits</h3>
            <p class="muted">Mean of the boots; empty where it is not among a recording's first.</p>
            \(Markup.table(
                ["function", labels.0, labels.1],
                names.prefix(20).map { name in (["<code>\(name)</code>", cell(before[name]), cell(after[name])], nil) }))
            """
    }

    // MARK: - Machine and method

    private var method: Markup {
        var facts: [(name: String, value: String)] = []
        for recording in Self.recordings(comparisons) {
            let host = recording.host
            facts.append(
                (
                    recording.label,
                    "\(host.cpu), Linux \(host.kernel), \(host.backend)"
                        + (host.emulator.map { ", emulated by \($0): no time is a processor's" } ?? "")
                        + "; vmtally \(recording.tool.version); "
                        + "recorded \(Self.date(recording.recorded))"
                ))
            for configuration in recording.configurations {
                facts.append(
                    (
                        "",
                        [
                            configuration.name, configuration.vmm, configuration.kernel?.identity ?? "unknown",
                            configuration.initrd.map { "initrd \($0.identity)" }, configuration.commandLine,
                            "ends at \(configuration.marker)",
                        ].compactMap { $0 }.joined(separator: "; ")
                    ))
            }
        }
        return """
            <section><h2>Machines and method</h2>
            <p>A boot begins with the first KVM_RUN and ends at the guest's marker, by \(BootRecording.boots). VM exits are
            what makes the processor leave the guest; userspace exits are those that reach the VMM. Host interrupts are
            shown and not judged: their number is a matter of the host's load.</p>
            <p>Intervals are percentile bootstraps of the difference of medians. A change stands out from chance by a
            permutation test on ranks whose error is held to \(BootComparisonReport.percent(BootComparison.significance)) for
            all quantities together (Westfall and Young). Seed \(comparisons.first?.seed ?? 0).</p>
            \(Markup.facts(facts))</section>

            """
    }

    /// `2026-11-21 16:03 UTC` of seconds since 1970.
    private static func date(_ seconds: Int) -> String {
        var time = time_t(seconds)
        var parts = tm()
        guard gmtime_r(&time, &parts) != nil else { return "at \(seconds) s" }
        var text = [CChar](repeating: 0, count: 64)
        strftime(&text, text.count, "%Y-%m-%d %H:%M UTC", &parts)
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// Each recording once.
    private static func recordings(_ comparisons: [BootComparison]) -> [BootRecording] {
        (comparisons.first.map { [$0.baseline] } ?? []) + comparisons.map(\.candidate)
    }
}

extension String {
    /// A name that a narrow column may break after its underscores.
    fileprivate var breakable: Markup {
        var name: Markup = ""
        for (index, part) in split(separator: "_", omittingEmptySubsequences: false).enumerated() {
            name += index == 0 ? "\(part)" : "_<wbr/>\(part)"
        }
        return name
    }

    /// Without what all reasons of a vocabulary begin with.
    fileprivate var withoutPrefix: String {
        for prefix in ["KVM_EXIT_", "SVM_EXIT_", "EXIT_REASON_"] where hasPrefix(prefix) {
            return String(dropFirst(prefix.count))
        }
        return self
    }
}
