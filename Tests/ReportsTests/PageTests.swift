// SPDX-License-Identifier: Apache-2.0
import Foundation
import FoundationXML
import Reports
import Testing
@testable import Rendering

#if canImport(FoundationXML)
#endif

/// What every page is made of.
@Suite struct PageTests {
    @Test(arguments: [
        ("a < b & c > d", "a &lt; b &amp; c &gt; d"), ("\"'", "&quot;&#39;"),
        ("</style><script>", "&lt;/style&gt;&lt;script&gt;"),
        ("nul \0 bell \u{7}", "nul \u{FFFD} bell \u{FFFD}"), ("tab\tend\n", "tab\tend\n"), ("µs", "µs"),
    ])
    func textIsEscaped(text: String, expected: String) {
        let markup: Markup = "<p title=\"\(text)\">\(text)</p>"
        #expect(markup.source == "<p title=\"\(expected)\">\(expected)</p>")
    }

    @Test(arguments: [(0.0, "0"), (1.25, "1.3"), (-0.04, "0"), (-0.26, "-0.3"), (12.0, "12"), (1e300, "1000000")])
    func coordinatesAreShort(value: Double, expected: String) {
        let markup: Markup = "\(value)"
        #expect(markup.source == expected)
    }

    @Test func aPageIsWellFormedAndSelfContained() throws {
        let scale = Scale(1...1000, from: 0, to: 100, logarithmic: true)
        let body: Markup = """
            <section><h2>\("<One> & two")</h2>
            \(Markup.table(["name", "n"], [(["\("a<b")", "1"], nil), (["c", "2"], "wrong")]))
            \(Markup.facts([("CPU", "A & B")]))
            \(Page.legend([(0, "x < y"), (9, "z")]))
            \(Drawing.svg(width: 100, height: 50, label: "p50 < p90", Drawing.horizontalAxis(scale, bottom: 40, top: 0)))
            </section>
            """
        let html = Page(title: "T & <t>", summary: "\"s\"", body: body).html()
        let names = try WellFormed.elements(html)
        #expect(names.isDisjoint(with: ["script", "link", "img", "iframe"]))
        #expect(names.isSuperset(of: ["svg", "table", "dl", "style"]))
        #expect(!html.contains("url(") && !html.contains("@import"))
        #expect(html.contains("prefers-color-scheme: dark"))
    }

    @Test(
        arguments: [
            (Scale(0...100, from: 0, to: 10), 5, [0, 20, 40, 60, 80, 100]),
            (Scale(0...1, from: 0, to: 10), 2, [0, 0.5, 1]),
            (Scale(1...1000, from: 0, to: 10, logarithmic: true), 5, [1, 10, 100, 1000]),
            (Scale(10...100, from: 0, to: 10, logarithmic: true), 4, [10, 20, 50, 100]),
            (Scale(1_000...1e12, from: 0, to: 10, logarithmic: true), 5, [1e3, 1e6, 1e9, 1e12]),
        ] as [(Scale, Int, [Double])])
    func ticksAreRoundAndFew(scale: Scale, wanted: Int, expected: [Double]) {
        let ticks = scale.ticks(wanted)
        #expect(ticks.count == expected.count)
        #expect(zip(ticks, expected).allSatisfy { abs($0 - $1) <= 1e-9 * max(1, abs($1)) }, "\(ticks)")
    }

    @Test(
        arguments: [
            ([0, 20, 40], ["0", "20", "40"]), ([1_000, 2_000], ["1k", "2k"]),
            ([999, 1_000, 1_001], ["999", "1,000", "1,001"]), ([1_200, 1_210, 1_220], ["1,200", "1,210", "1,220"]),
            ([0.5, 1, 1.5], ["0.5", "1", "1.5"]), ([-12_340, -12_330], ["-12,340", "-12,330"]), ([], []),
        ] as [([Double], [String])])
    func labelsTellTicksApart(ticks: [Double], expected: [String]) {
        #expect(Drawing.labels(ticks) == expected)
    }

    @Test func ticksOfWholeNumbersAreWhole() {
        #expect(Scale(888...890, from: 0, to: 10, whole: true).ticks(5) == [888, 889, 890])
    }

    @Test(arguments: [5.0...5, 0...0, 3.0e18...3.1e18, 7...7.2])
    func anyDomainHasAPlaceForItsValues(domain: ClosedRange<Double>) {
        for logarithmic in [false, true] {
            let scale = Scale(domain, from: 0, to: 10, logarithmic: logarithmic)
            #expect((0...10).contains(scale(domain.lowerBound)) && (0...10).contains(scale(domain.upperBound)))
            #expect(scale.ticks(5).count < 20)
        }
    }

    @Test(arguments: [
        (0.0, "0"), (0.25, "0.25"), (7, "7"), (950, "950"), (1_000, "1k"), (1_250, "1.3k"), (35_000, "35k"),
        (1.5e6, "1.5M"), (2e9, "2G"), (-1_500, "-1.5k"), (.infinity, ""),
    ])
    func shortNumbers(value: Double, expected: String) {
        #expect(Drawing.short(value) == expected)
    }
}

/// Reads a page as XML.
enum WellFormed {
    private final class Names: NSObject, XMLParserDelegate {
        var seen: Set<String> = []

        func parser(
            _ parser: XMLParser, didStartElement name: String, namespaceURI: String?, qualifiedName: String?,
            attributes: [String: String]
        ) {
            seen.insert(name)
        }
    }

    /// The names of all elements. Throws where the page is not well-formed.
    static func elements(_ html: String) throws -> Set<String> {
        let parser = XMLParser(data: Data(html.utf8))
        let names = Names()
        parser.delegate = names
        guard parser.parse() else { throw parser.parserError ?? CocoaError(.fileReadCorruptFile) }
        return names.seen
    }
}
