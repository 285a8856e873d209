// SPDX-License-Identifier: Apache-2.0
import ExitStats
import GuestCode
import Rendering

/// Where a run's userspace exits come from, along one axis: the places with the most.
public struct PlaceReport: Sendable {
    public struct Row: Equatable, Sendable {
        public let place: ExitPlace
        public let pair: TallyPair
        /// Of code; nil: no symbol table, or none of this code.
        public let location: SymbolTable.Location?

        /// Hexadecimal, as all who speak of ports, MSRs and addresses write them.
        public var value: String { "0x" + String(place.value, radix: 16) }
    }

    public let axis: PlaceAxis
    /// Most exits first.
    public let rows: [Row]
    /// All exits of the axis that no row has.
    public let rest: TallyPair
    /// Those of them whose place found no room in a vCPU's table.
    public let withoutRoom: TallyPair
    /// All exits that have a place on the axis.
    public let total: TallyPair
    /// What KASLR added to the symbols' addresses; nil: no symbols, or none that the guest's processor points to.
    public let slide: UInt64?
    private let hasSymbols: Bool
    private let allExits: UInt64

    /// - Parameters:
    ///   - count: rows at most.
    ///   - allExits: of the run, of whatever place.
    ///   - anchors: addresses that tell what KASLR did.
    public init(
        _ axis: PlaceAxis, _ snapshot: PlaceSnapshot, top count: Int, allExits: UInt64, symbols: SymbolTable? = nil,
        anchors: [SymbolTable.Anchor] = []
    ) {
        let (counts, rest) = snapshot.top(count)
        let slide = symbols?.slide(anchors)
        self.axis = axis
        self.rest = rest
        self.slide = slide
        self.allExits = allExits
        hasSymbols = symbols != nil
        withoutRoom = snapshot.withoutRoom
        total = snapshot.total
        rows = counts.map { count in
            Row(
                place: count.place, pair: count.pair,
                location: symbols?.location(of: count.place.value, slide: slide ?? 0))
        }
    }

    /// - Parameter width: columns of the terminal.
    public func lines(width: Int = .max) -> [String] {
        guard total.count > 0 else { return ["userspace exits by \(axis.rawValue): none" + Self.absence(axis)] }
        var table = TextTable(
            header: header + ["count", "share", "cycles"],
            expendable: hasSymbols ? ["rip", "cycles", "share"] : ["share"])
        for row in rows {
            table.add(cells(row) + numbers(row.pair))
        }
        let blanks = Array(repeating: "", count: header.count - 1)
        if rest.count > 0 {
            table.add(["all others"] + blanks + numbers(rest))
        }
        if axis != .rip {
            table.add(["total"] + blanks + numbers(total))
        }
        guard withoutRoom.count > 0 else { return table.lines(width: width) }
        return table.lines(width: width) + [
            "all others: \(grouped(withoutRoom.count)) of them beyond the "
                + "\(grouped(UInt64(PlaceTally.slotCount))) places that a vCPU's table has room for"
        ]
    }

    private var header: [String] {
        switch axis {
        case .rip:
            hasSymbols ? ["userspace exits by guest code", "rip", "reason"] : ["userspace exits by rip", "reason"]
        default: ["userspace exits by \(axis.rawValue)", "access"]
        }
    }

    private func cells(_ row: Row) -> [String] {
        let name = row.place.name(on: axis).map { "\(row.value) \($0)" } ?? row.value
        switch axis {
        case .rip:
            let reason = PlaceSnapshot.reason(of: row.place)
            return hasSymbols
                ? [row.location?.description ?? "?", row.value, reason] : [row.value, reason]
        case .msr: return [name, access(row)]
        case .port, .address: return [name, "\(access(row)) \(row.place.size)"]
        }
    }

    /// The word for what the guest did there, in table and JSON.
    func access(_ row: Row) -> String {
        switch axis {
        case .port: row.place.isWrite ? "out" : "in"
        case .address: row.place.isWrite ? "write" : "read"
        case .msr: PlaceSnapshot.reason(of: row.place) == "KVM_EXIT_X86_WRMSR" ? "write" : "read"
        case .rip: ""
        }
    }

    /// The place, for a cell.
    func label(_ row: Row) -> String {
        row.location.map { "\(row.value) \($0)" } ?? row.value
    }

    private static func absence(_ axis: PlaceAxis) -> String {
        axis == .msr ? " (MSRs that KVM handles itself make no userspace exit)" : ""
    }

    private func numbers(_ pair: TallyPair) -> [String] {
        [grouped(pair.count), share(pair.count, allExits), grouped(pair.cycles)]
    }
}
