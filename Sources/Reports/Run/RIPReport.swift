// SPDX-License-Identifier: Apache-2.0
import ExitStats
import GuestCode
import Rendering

/// Which guest code makes how many userspace exits: the places with the most, with names where a symbol table has them.
public struct RIPReport: Sendable {
    public struct Row: Equatable, Sendable {
        public let place: RIPSnapshot.Place
        /// nil: no symbol table, or none of its code.
        public let location: SymbolTable.Location?

        public var rip: String { "0x" + String(place.rip, radix: 16) }
    }

    /// Most exits first.
    public let rows: [Row]
    /// All exits that no row has.
    public let rest: TallyPair
    public let total: TallyPair
    /// What KASLR added to the symbols' addresses; nil: no symbols, or none that the guest's processor points to.
    public let slide: UInt64?
    private let hasSymbols: Bool

    /// - Parameters:
    ///   - count: rows at most.
    ///   - anchors: where the guest's kernel lies, which tell what KASLR did.
    public init(
        _ snapshot: RIPSnapshot, top count: Int, symbols: SymbolTable? = nil, anchors: [SymbolTable.Anchor] = []
    ) {
        let (places, rest) = snapshot.top(count)
        let slide = symbols?.slide(anchors)
        self.rest = rest
        self.slide = slide
        hasSymbols = symbols != nil
        total = snapshot.total
        rows = places.map { Row(place: $0, location: symbols?.location(of: $0.rip, slide: slide ?? 0)) }
    }

    public func lines() -> [String] {
        var table = TextTable(
            header: (hasSymbols ? ["userspace exits by guest code", "rip"] : ["userspace exits by rip"])
                + ["reason", "count", "share", "cycles"])
        for row in rows {
            table.add(
                (hasSymbols ? [row.location?.description ?? "?", row.rip] : [row.rip])
                    + [RIPSnapshot.name(of: row.place)] + numbers(row.place.pair))
        }
        if rest.count > 0 {
            table.add(["all others"] + Array(repeating: "", count: hasSymbols ? 2 : 1) + numbers(rest))
        }
        return table.lines()
    }

    private func numbers(_ pair: TallyPair) -> [String] {
        [grouped(pair.count), share(pair.count, total.count), grouped(pair.cycles)]
    }
}
