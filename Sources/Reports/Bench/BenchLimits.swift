// SPDX-License-Identifier: Apache-2.0

/// What a bench document may hold, so that no table and no page trips over it: a file may say anything.
extension BenchDocument {
    private static let number: UInt64 = 1 << 53
    private static let items = 10_000

    /// The first thing that no bench can have measured; nil: it is sound.
    func problem() -> String? {
        guard method.overhead <= Self.number, method.wallNanoseconds <= Self.number,
            (0...1 << 20).contains(method.cpus), method.pinned.count <= Self.items
        else { return "method" }
        guard kinds.count <= Self.items else { return "too many kinds" }
        for (index, kind) in kinds.enumerated() {
            if let problem = kind.measured.flatMap(Self.problem) { return "kinds[\(index)].measured: \(problem)" }
        }
        return nil
    }

    private static func problem(_ m: Measured) -> String? {
        let counts = 0...Int(number)
        guard counts.contains(m.n), counts.contains(m.outliers), counts.contains(m.blocks), m.iterations <= number,
            m.vmExits ?? 0 <= number
        else { return "a count" }
        let c = m.cycles
        guard [c.min, c.p50, c.p90, c.p99, c.p999, c.max, c.mean, c.p50Low, c.p50High].allSatisfy({ $0 <= number })
        else {
            return "cycles"
        }
        let rising = [c.min, c.p50, c.p90, c.p99, c.p999, c.max]
        guard zip(rising, rising.dropFirst()).allSatisfy({ $0 <= $1 }), c.p50Low <= c.p50High else {
            return "cycles: percentiles that fall"
        }
        guard [m.parts.userspace, m.parts.kernel ?? 0, m.parts.rest].allSatisfy({ $0 <= number }) else {
            return "parts"
        }
        guard m.exits.count <= items, m.exits.allSatisfy({ max($0.counted, $0.expected) <= number }) else {
            return "exits"
        }
        guard m.distribution.count <= items else { return "distribution" }
        var least: UInt64 = 0
        var samples = 0
        for bin in m.distribution {
            // One after the other, so that their widths and their sum are numbers too.
            guard bin.from >= least, bin.to >= bin.from, bin.to <= number, counts.contains(bin.n) else {
                return "distribution"
            }
            least = bin.to + 1
            samples += bin.n
            guard counts.contains(samples) else { return "distribution" }
        }
        return nil
    }
}
