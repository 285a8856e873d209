// SPDX-License-Identifier: Apache-2.0
import Bench
import ExitStats
import Glibc
import Reports
import ThisHost

extension BenchDocument {
    /// - Parameter cutOff: a signal ended the run before all was measured.
    package init(_ result: BenchResult, host: HostIdentity, version: String, cutOff: Bool = false) {
        self.init(
            version: version, host: host,
            method: Method(
                seed: result.seed, cpus: result.cpus, pinned: result.pinned, overhead: result.overhead,
                taken: Self.now(), wallNanoseconds: result.wallNanoseconds),
            exact: result.isExact, cutOff: cutOff, kinds: result.rows.map(Kind.init))
    }

    private static func now() -> String {
        var seconds = time(nil)
        var parts = tm()
        gmtime_r(&seconds, &parts)
        var text = [CChar](repeating: 0, count: 32)
        strftime(&text, text.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}

extension BenchDocument.Kind {
    fileprivate init(_ row: BenchResult.Row) {
        let kind = row.kind
        let (measured, unavailable): (BenchDocument.Measured?, String?) =
            switch row.outcome {
            case .measured(let measurement): (BenchDocument.Measured(measurement), nil)
            case .unavailable(let reason): (nil, reason)
            }
        self.init(
            name: kind.name, group: kind.group.rawValue, summary: kind.summary, vm: kind.vm, measured: measured,
            unavailable: unavailable)
    }
}

extension BenchDocument.Measured {
    fileprivate init(_ m: BenchMeasurement) {
        func count(_ count: BenchMeasurement.Count, _ id: TallyFeatures.Vocabulary) -> BenchDocument.Count {
            BenchDocument.Count(id, code: count.code, counted: count.counted, expected: count.expected)
        }
        let hardware = m.hardware.flatMap { hardware in m.vocabulary.map { count(hardware, $0) } }
        self.init(
            n: m.samples, iterations: m.iterations, blocks: m.blocks,
            cycles: BenchDocument.Cycles(
                min: m.minimum, p50: m.p50, p90: m.p90, p99: m.p99, p999: m.p999, max: m.maximum,
                mean: UInt64(m.mean.rounded()), p50Low: m.interval.lowerBound, p50High: m.interval.upperBound),
            outliers: m.outliers,
            parts: BenchDocument.Parts(userspace: m.userspaceCycles, kernel: m.kernelCycles, rest: m.restCycles),
            exact: m.isExact, exits: m.userspace.map { count($0, .kvm) } + [hardware].compactMap(\.self),
            vmExits: m.exits,
            distribution: m.distribution.map { BenchDocument.Bin(from: $0.lower, to: $0.upper, n: $0.count) })
    }
}
