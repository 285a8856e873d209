// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering

/// VM exits by the guest's code.
public struct PlaceTable: Sendable {
    /// Exits of one reason at one place.
    public struct Place: Sendable {
        /// The VM's name.
        public var machine: String
        /// A function's name, or an address in hexadecimal.
        public var code: String
        public var reason: String
        public var count: UInt64

        public init(machine: String, code: String, reason: String, count: UInt64) {
            self.machine = machine
            self.code = code
            self.reason = reason
            self.count = count
        }
    }

    private let places: [Place]

    /// Places of one name and reason are one.
    public init(_ places: [Place]) {
        var sums: [[String]: Place] = [:]
        for place in places {
            let key = [place.machine, place.code, place.reason]
            if let sum = sums[key] {
                sums[key]?.count = sum.count &+ place.count
            } else {
                sums[key] = place
            }
        }
        self.places = sums.values.sorted {
            $0.count != $1.count
                ? $0.count > $1.count : ($0.machine, $0.code, $0.reason) < ($1.machine, $1.code, $1.reason)
        }
    }

    /// The most frequent.
    public func lines(_ count: Int, width: Int = .max) -> [String] {
        let total = places.reduce(0) { $0 &+ $1.count }
        var table = TextTable(header: ["VM exits by guest code", "reason", "count", "share"])
        for place in places.prefix(count) {
            table.add([place.code, place.reason, grouped(place.count), share(place.count, total)])
        }
        let rest = places.dropFirst(count).reduce(0) { $0 &+ $1.count }
        if rest > 0 { table.add(["all others", "", grouped(rest), share(rest, total)]) }
        return table.lines(width: width)
    }

    /// A line a stack, as flame graphs are made of: `VM;function;reason count`.
    public var folded: [String] {
        places.map { place in
            let frames = [place.machine, place.code, place.reason].map { $0.replacing(";", with: ":") }
            return frames.joined(separator: ";") + " \(place.count)"
        }
    }
}
