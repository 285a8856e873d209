// SPDX-License-Identifier: Apache-2.0
/// One self-contained page: no script, no font and no image from elsewhere. Light or dark as the reader's system is,
/// and readable on a phone.
public struct Page: Sendable {
    public let title: String
    /// One line below the title.
    public let summary: String
    /// What comes below, in sections of `<section><h2>...</h2>...</section>`.
    public let body: Markup

    public init(title: String, summary: String, body: Markup) {
        self.title = title
        self.summary = summary
        self.body = body
    }

    public func html() -> String {
        let page: Markup = """
            <!DOCTYPE html>
            <html lang="en">
            <head>
            <meta charset="utf-8"/>
            <meta name="viewport" content="width=device-width, initial-scale=1"/>
            <title>\(title)</title>
            <style>
            \(Self.style)
            </style>
            </head>
            <body>
            <main>
            <header>
            <h1>\(title)</h1>
            <p class="summary">\(summary)</p>
            </header>
            \(body)
            </main>
            </body>
            </html>

            """
        return page.source
    }

    /// Classes for what is in a body: `scroll` (a box that scrolls sideways), `muted`, `wrong`, `good`; `grid` (cards
    /// side by side where there is room) and `pair` (two larger ones) with `figure`s in them, `wide` (one that fills a column of
    /// text); in drawings `axis`, `tick`,
    /// `gridline`, and for data `s0` to `s7`, filled with `fill` or drawn with `line`.
    private static let style: Markup = """
        :root { color-scheme: light dark;
          --paper: #fcfcfb; --card: #ffffff; --ink: #1b1c1e; --muted: #62666d; --rule: #dcdee2; --soft: #eceef1;
          --bad: #b3261e; --good: #1a7f45;
          --s0: #2a6fdb; --s1: #d9611a; --s2: #12876f; --s3: #8450d6; --s4: #a67a00; --s5: #c73a80; --s6: #4c8a1f; \
        --s7: #767b83; }
        @media (prefers-color-scheme: dark) { :root {
          --paper: #15171a; --card: #1c1f23; --ink: #e6e8eb; --muted: #9aa0a8; --rule: #34383e; --soft: #272b30;
          --bad: #ff8a80; --good: #6fd699;
          --s0: #6ea8ff; --s1: #ff9a5c; --s2: #4fcab0; --s3: #b794f6; --s4: #e0b73e; --s5: #f285b5; --s6: #9ad063; \
        --s7: #a3a9b1; } }
        * { box-sizing: border-box; }
        body { margin: 0; background: var(--paper); color: var(--ink);
          font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
        main { max-width: 82rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
        h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
        h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
        h3 { font-size: 1rem; margin: 0; }
        section > h3 { margin: 1.5rem 0 .25rem; }
        p { margin: .5rem 0; max-width: 68ch; }
        .summary, .muted { color: var(--muted); }
        .wrong { color: var(--bad); }
        .good { color: var(--good); }
        code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
        pre { overflow-x: auto; padding: .75rem; background: var(--soft); border-radius: 6px; }
        a { color: var(--s0); }
        .scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; margin: .5rem 0; }
        table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
        th, td { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid var(--rule); }
        th { font-weight: 600; color: var(--muted); border-bottom-width: 2px; white-space: normal; vertical-align: bottom; }
        th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
          background: var(--paper); }
        @media (max-width: 40rem) { td:first-child { white-space: normal; overflow-wrap: break-word; min-width: 7.5rem; }
          th, td { padding: .2rem .3rem; } td small { white-space: normal; } }
        tbody tr:hover { background: var(--soft); }
        dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .2rem 1rem; margin: .5rem 0; }
        dt { color: var(--muted); }
        dd { margin: 0; overflow-wrap: anywhere; }
        .grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
        .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 32rem)); gap: 1rem;
          margin: 1rem 0; }
        figure { margin: 0; padding: .75rem; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
          min-width: 0; }
        .wide { max-width: 46rem; }
        figcaption { font-size: .875rem; color: var(--muted); margin: .1rem 0 .4rem; }
        .legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; font-size: .875rem; margin: .5rem 0; }
        .legend svg { width: .8rem; height: .8rem; display: inline-block; vertical-align: -.05rem; margin-right: .35rem; }
        svg { display: block; width: 100%; height: auto; font: 11px system-ui, -apple-system, "Segoe UI", Roboto, \
        "Noto Sans", sans-serif; }
        svg text { fill: var(--muted); font-variant-numeric: tabular-nums; }
        svg .mark { fill: var(--ink); }
        .axis { stroke: var(--muted); stroke-width: 1; fill: none; }
        .gridline { stroke: var(--rule); stroke-width: 1; fill: none; }
        .line { fill: none; stroke-width: 1.75; stroke-linejoin: round; }
        \((0..<seriesCount).map { ".s\($0).fill { fill: var(--s\($0)); } .s\($0).line { stroke: var(--s\($0)); }\n" })\
        @media print { body { background: none; } figure { break-inside: avoid; } }
        """

    /// Colours for data that keep apart in light and dark: classes `s0` to `s7`, the last one grey.
    public static let seriesCount = 8

    /// What the colours stand for.
    public static func legend(_ entries: [(series: Int, name: String)]) -> Markup {
        let items = entries.map { entry -> Markup in
            "<span><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect width=\"10\" height=\"10\" rx=\"2\" "
                + "class=\"s\(entry.series % seriesCount) fill\"/></svg>\(entry.name)</span>\n"
        }
        return "<div class=\"legend\">\n\(items)</div>\n"
    }
}
