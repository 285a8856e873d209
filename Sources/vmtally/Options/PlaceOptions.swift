// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import ExitStats

/// `--by` and `--by-rip`.
struct PlaceOptions {
    /// How many places to show of each axis.
    private(set) var tops: [(axis: PlaceAxis, count: Int)] = []

    /// - Parameters:
    ///   - words: axes, each followed by its number of places or not.
    ///   - byRIP: the number of `--by-rip`.
    init(_ words: [String], _ byRIP: Int?) throws {
        for word in words {
            if let axis = PlaceAxis(rawValue: word) {
                try add(axis, 20)
            } else if let count = Int(word), let last = tops.indices.last {
                tops[last].count = try Self.checked(count, "--by")
            } else {
                throw ValidationError("--by takes port, msr, address or rip, and a number of places: not '\(word)'.")
            }
        }
        if let byRIP { try add(.rip, try Self.checked(byRIP, "--by-rip")) }
    }

    private mutating func add(_ axis: PlaceAxis, _ count: Int) throws {
        guard !tops.contains(where: { $0.axis == axis }) else {
            throw ValidationError("--by: \(axis.rawValue) is there twice.")
        }
        tops.append((axis, count))
    }

    private static func checked(_ count: Int, _ option: String) throws -> Int {
        guard (1...10_000).contains(count) else {
            throw ValidationError("\(option) takes a number of places, 1 to 10000.")
        }
        return count
    }
}
