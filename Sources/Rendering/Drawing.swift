// SPDX-License-Identifier: Apache-2.0
import Glibc

/// Where values lie in a drawing: linear or logarithmic, from data to user units of the SVG.
public struct Scale: Sendable {
    public let domain: ClosedRange<Double>
    public let start: Double
    public let end: Double
    public let isLogarithmic: Bool
    /// Values are whole numbers: so are the ticks.
    public let isWhole: Bool

    /// - Parameters:
    ///   - domain: of the data. A logarithmic one begins above 0: what is not is moved there.
    ///   - start: where the lower bound lies, user units; `end` may be less.
    public init(
        _ domain: ClosedRange<Double>, from start: Double, to end: Double, logarithmic: Bool = false,
        whole: Bool = false
    ) {
        let lower = logarithmic ? max(domain.lowerBound, 1e-9) : domain.lowerBound
        let upper = max(domain.upperBound, logarithmic ? lower * 1.0001 : lower + 1e-9)
        self.domain = lower...upper
        self.start = start
        self.end = end
        isLogarithmic = logarithmic
        isWhole = whole
    }

    /// The place of a value; one outside the domain lies at its end.
    public func callAsFunction(_ value: Double) -> Double {
        let value = min(max(value, domain.lowerBound), domain.upperBound)
        let share =
            isLogarithmic
            ? log(value / domain.lowerBound) / log(domain.upperBound / domain.lowerBound)
            : (value - domain.lowerBound) / (domain.upperBound - domain.lowerBound)
        return start + share * (end - start)
    }

    /// Round values in the domain, about as many as asked for (2 to 12): 1, 2, 5 times a power of ten.
    public func ticks(_ wanted: Int) -> [Double] {
        let ticks = isLogarithmic ? logarithmicTicks(wanted) : linearTicks(wanted)
        let whole = ticks.filter { $0 == $0.rounded() }
        return isWhole && !whole.isEmpty ? whole : ticks
    }

    private func linearTicks(_ wanted: Int) -> [Double] {
        let rough = (domain.upperBound - domain.lowerBound) / Double(max(1, wanted))
        let power = pow(10, floor(log10(rough)))
        let step = [1, 2, 5, 10].map { $0 * power }.first { $0 >= rough } ?? rough
        let first = (domain.lowerBound / step).rounded(.up)
        let last = (domain.upperBound / step).rounded(.down)
        guard step > 0, first <= last, last - first < 100 else { return [] }
        return stride(from: first, through: last, by: 1).map { $0 * step }
    }

    private func logarithmicTicks(_ wanted: Int) -> [Double] {
        let decades = Int(floor(log10(domain.lowerBound)))...Int(ceil(log10(domain.upperBound)))
        func ticks(_ steps: [Double], every: Int = 1) -> [Double] {
            decades.filter { $0 % every == 0 }.flatMap { decade in steps.map { $0 * pow(10, Double(decade)) } }
                .filter { domain.contains($0) }
        }
        let choices = [ticks([1, 1.5, 2, 3, 5, 7]), ticks([1, 2, 5]), ticks([1, 3]), ticks([1])]
        // A narrow domain lies between the round values of its decade.
        if choices[0].count < 2 { return Scale(domain, from: start, to: end).linearTicks(wanted) }
        return choices.first { $0.count <= wanted } ?? ticks([1], every: max(1, decades.count / max(1, wanted) + 1))
    }
}

/// An inline SVG and what is common to all: axes, paths.
public enum Drawing {
    /// The drawing itself, scaled to the width that there is. `label` says in words what it shows.
    public static func svg(width: Double, height: Double, label: String, _ content: Markup) -> Markup {
        """
        <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(width) \(height)" role="img" aria-label="\(label)">
        \(content)</svg>

        """
    }

    /// Tick labels below `bottom`, and grid lines from there up to `top`.
    ///
    /// - Parameter unit: what follows each label.
    public static func horizontalAxis(
        _ scale: Scale, bottom: Double, top: Double, ticks: Int = 6, unit: String = "", signed: Bool = false
    ) -> Markup {
        var axis: Markup = ""
        let ticks = scale.ticks(ticks)
        for (tick, label) in zip(ticks, labels(ticks)) {
            let x = scale(tick)
            let text = (signed && tick > 0 ? "+" : "") + label + unit
            // One that would stand out beyond the axis ends with it.
            let isLast = x + Double(text.count) * 3.1 > scale.end + 8
            axis += "<path class=\"gridline\" d=\"M\(x) \(bottom)V\(top)\"/>"
            axis += """
                <text x="\(isLast ? scale.end + 8 : x)" y="\(bottom + 13)" \
                text-anchor="\(isLast ? "end" : "middle")">\(text)</text>

                """
        }
        return axis + "<path class=\"axis\" d=\"M\(scale.start) \(bottom)H\(scale.end)\"/>\n"
    }

    /// Tick labels to the left of `left`, and grid lines from there to `right`.
    public static func verticalAxis(
        _ scale: Scale, left: Double, right: Double, ticks: Int = 5
    ) -> Markup {
        var axis: Markup = ""
        let ticks = scale.ticks(ticks)
        for (tick, label) in zip(ticks, labels(ticks)) {
            let y = scale(tick)
            axis += "<path class=\"gridline\" d=\"M\(left) \(y)H\(right)\"/>"
            axis += "<text x=\"\(left - 5)\" y=\"\(y + 4)\" text-anchor=\"end\">\(label)</text>\n"
        }
        return axis
    }

    /// The `d` of a path through points; `closed` joins the last to the first.
    public static func path(_ points: [(x: Double, y: Double)], closed: Bool = false) -> Markup {
        var path: Markup = ""
        for (index, point) in points.enumerated() {
            path += index == 0 ? "M\(point.x) \(point.y)" : "L\(point.x) \(point.y)"
        }
        return points.isEmpty || !closed ? path : path + "Z"
    }

    /// What to write at the ticks of an axis: in few characters where that tells them apart, else with as many digits as
    /// it takes.
    public static func labels(_ ticks: [Double]) -> [String] {
        let candidates = [ticks.map(short)] + (0...6).map { decimals in ticks.map { precise($0, decimals) } }
        return candidates.first { Set($0).count == ticks.count } ?? ticks.map { "\($0)" }
    }

    private static func precise(_ value: Double, _ decimals: Int) -> String {
        guard abs(value) < 1e18 else { return "\(value)" }
        let text = fixed(abs(value), decimals)
        let whole = UInt64(text.prefix { $0 != "." }) ?? 0
        return (value < 0 ? "-" : "") + grouped(whole) + text.drop { $0 != "." }
    }

    /// A number in few characters: `950`, `1.2k`, `35k`, `1.5M`, `0.25`.
    public static func short(_ value: Double) -> String {
        guard value.isFinite else { return "" }
        let magnitude = abs(value)
        let sign = value < 0 ? "-" : ""
        for (unit, suffix) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] where magnitude >= unit * 0.9995 {
            return sign + trimmed(magnitude / unit, magnitude / unit < 9.95 ? 1 : 0) + suffix
        }
        return sign + trimmed(magnitude, magnitude >= 9.95 ? 0 : magnitude >= 0.95 ? 1 : 3)
    }

    /// Without zeros at the end of its decimals.
    private static func trimmed(_ value: Double, _ decimals: Int) -> String {
        var text = fixed(value, decimals)
        guard text.contains(".") else { return text }
        while text.hasSuffix("0") { text.removeLast() }
        if text.hasSuffix(".") { text.removeLast() }
        return text
    }
}
