// SPDX-License-Identifier: Apache-2.0
import CBenchmarks
import CLinux
import CLinuxKVM
import ExitStats

/// What `begin` and `end` cost on top of the two RDTSC that time an exit, and beside the same in plain C; what reading a
/// tally costs. Cycles hang on the machine's hour, so that the target is the ratio.
///
/// Durations come from an array, but hang on the result of the second RDTSC, as in the exit loop: a store whose address
/// waits for that result holds up what follows on some processors (docs/performance.md).
struct AccountingBenchmark {
    var rounds = 25
    /// 400,000 exits make a sample, 25 rounds 10 million. Long enough for a TSC that steps by tens of cycles, short
    /// enough that few are interrupted.
    let chunks = 200
    let exitsPerChunk = 2_000

    /// Exits as a guest makes them, precomputed and known to no compiler.
    private struct Workload {
        static let size = 1 << 13
        let exits: [accounted_exit]
        /// Zero, known at run time alone: hangs a duration on the RDTSC without changing it.
        let mask: UInt64

        init() {
            var random = SystemRandomNumberGenerator()
            exits = (0..<Self.size).map { _ in
                let code: UInt32 =
                    switch UInt32.random(in: 0..<100, using: &random) {
                    case 0..<78: 2  // KVM_EXIT_IO
                    case 78..<96: 6  // KVM_EXIT_MMIO
                    case 96..<99: 29  // KVM_EXIT_X86_RDMSR
                    default: 4  // KVM_EXIT_DEBUG
                    }
                // From 48 cycles to 400,000, thinning out: each octave half as likely as the one below it.
                let octave = UInt32(UInt32.random(in: 1...(1 << 12), using: &random).leadingZeroBitCount - 19)
                return accounted_exit(
                    code: code, cycles: 48 << octave + UInt32.random(in: 0..<(48 << octave), using: &random))
            }
            mask = UInt64.random(in: 0..<2, using: &random) & 2
        }
    }

    func run(progress: (String) -> Void) throws -> [Figure] {
        let workload = Workload()
        let tally = try Tally()
        guard let plainC = plain_accounting_new() else { throw BenchmarkError("no memory for the counters in C") }
        defer { plain_accounting_free(plainC) }
        var alone: [Double] = []
        var accounted: [Double] = []
        var differences: [Double] = []
        var bare: [Double] = []
        var inC: [Double] = []
        for round in 0..<rounds {
            let sample = (0..<chunks).map { chunk in
                // There and back, so that what drifts hits all alike.
                let there = Variant.allCases.map { ($0, time($0, chunk, workload, tally.writer, plainC)) }
                let back = Variant.allCases.reversed().map { ($0, time($0, chunk, workload, tally.writer, plainC)) }
                return Dictionary(there + back) { ($0 + $1) / 2 }
            }
            func median(_ value: ([Variant: Double]) -> Double) -> Double { Series(sample.map(value)).median }
            alone.append(median { $0[.timestamps, default: 0] })
            accounted.append(median { $0[.both, default: 0] })
            differences.append(median { $0[.both, default: 0] - $0[.timestamps, default: 0] })
            bare.append(median { $0[.accounting, default: 0] - $0[.nothing, default: 0] })
            inC.append(median { $0[.plainC, default: 0] - $0[.nothing, default: 0] })
            progress("accounting: round \(round + 1) of \(rounds)")
        }
        let exits = UInt64(rounds * chunks * exitsPerChunk)
        guard tally.total.count == exits * 4, plain_accounting_count(plainC) == exits * 2 else {
            throw BenchmarkError("exits were lost")
        }
        return [
            Figure("two RDTSC", unit: "cycles/exit", alone),
            Figure("two RDTSC and accounting", unit: "cycles/exit", accounted),
            Figure("accounting on top of two RDTSC", unit: "cycles/exit", differences),
            Figure("accounting without RDTSC", unit: "cycles/exit", bare),
            Figure("the same in plain C", unit: "cycles/exit", inC),
            Figure(
                "accounting / the same in plain C", unit: "ratio", zip(bare, inC).map { $0 / $1 },
                // From process to process 0.94 to 1.14: where the memory of each lies.
                ratioOfMedians: Series(bare).median / Series(inC).median, target: 1.25),
        ] + reading(tally)
    }

    /// What a loop over the exits does with each.
    private enum Variant: CaseIterable {
        case nothing, timestamps, accounting, plainC, both
    }

    /// Cycles per exit.
    private func time(
        _ variant: Variant, _ chunk: Int, _ workload: Workload, _ writer: TallyWriter, _ plainC: UnsafeMutableRawPointer
    ) -> Double {
        var sum: UInt64 = 0
        let elapsed =
            switch variant {
            case .nothing: loop(chunk, workload) { sum &+= UInt64($0) &+ $1 }
            case .timestamps:
                loop(chunk, workload) { code, cycles in
                    let returned = vmtally_rdtsc()
                    sum &+= UInt64(code) &+ cycles
                    sum &+= vmtally_rdtsc() &- returned
                }
            case .accounting: loop(chunk, workload) { writer.end(writer.begin($0), cycles: $1) }
            case .plainC:
                Double(
                    plain_accounting_run(
                        plainC, workload.exits, Workload.size - 1, chunk &* exitsPerChunk, exitsPerChunk))
                    / Double(exitsPerChunk)
            case .both:
                loop(chunk, workload) { code, cycles in
                    let returned = vmtally_rdtsc()
                    let slot = writer.begin(code)
                    let measured = vmtally_rdtsc() &- returned
                    writer.end(slot, cycles: measured & workload.mask &+ cycles)
                }
            }
        precondition(variant != .nothing && variant != .timestamps || sum > 0)
        return elapsed
    }

    @inline(__always)
    private func loop(_ chunk: Int, _ workload: Workload, _ body: (UInt32, UInt64) -> Void) -> Double {
        let offset = chunk &* exitsPerChunk
        return workload.exits.withUnsafeBufferPointer { exits in
            let start = vmtally_rdtsc()
            for exit in 0..<exitsPerChunk {
                let exit = exits[(exit &+ offset) & (Workload.size - 1)]
                body(exit.code, UInt64(exit.cycles))
            }
            return Double(vmtally_rdtsc() - start) / Double(exitsPerChunk)
        }
    }

    /// What others pay: none of it delays a vCPU. Targets are twice what was measured first.
    private func reading(_ tally: Tally) -> [Figure] {
        let snapshot = tally.snapshot()
        let answer = CPUIDRegisters(tally.total)
        var leaf = TallyLeaf.total
        return [
            timeCall("snapshot of a tally with \(snapshot.reasons.count) reasons", batch: 20, target: 20_000) {
                tally.snapshot().reasons.count
            },
            timeCall("merge of two such snapshots", batch: 20, target: 20_000) {
                snapshot.adding(snapshot).reasons.count
            },
            timeCall("99th percentile of one reason", batch: 200, target: 1_500) {
                Int(snapshot.reasons[0].times?.percentile(0.99) ?? 0)
            },
            timeCall("answer to leaf 0x4FFFFFFF", batch: 10_000, target: 10) { Int(CPUIDRegisters(tally.total).eax) },
            timeCall("query and answer decoded", batch: 10_000, target: 10) {
                leaf = leaf & ~3 | (leaf &+ 1) & 3
                guard TallyQuery(leaf: leaf, subleaf: 0) != nil else { return .min }
                return Int(truncatingIfNeeded: answer.tallyPair?.cycles ?? 0)
            },
        ]
    }

    /// Time per call. In batches, for RDTSC may step by tens of cycles.
    private func timeCall(_ name: String, batch: Int, target: Double, _ body: () -> Int) -> Figure {
        let values = (0..<rounds).map { _ in
            var sum = 0
            let start = vmtally_rdtsc()
            for _ in 0..<batch {
                sum &+= body()
            }
            let elapsed = vmtally_rdtsc() - start
            precondition(sum != .min)
            return Double(elapsed) / Double(batch)
        }
        return Figure(name, unit: "cycles", values, target: target)
    }
}
