import CLinuxKVM
import ExitStats

/// What `begin` and `end` cost on top of the two RDTSC that time an exit, and what reading a tally costs.
struct AccountingBenchmark {
    var rounds = 25
    /// Exits of one sample; 25 rounds make 10 million.
    var exits = 400_000

    /// Exits as a guest makes them, precomputed and known to no compiler.
    private struct Workload {
        static let size = 1 << 13
        let codes: [UInt32]
        let cycles: [UInt32]
        /// Zero. What RDTSC says must be used, or it would not be read, but must not blur the durations.
        let mask: UInt64

        init() {
            var random = SystemRandomNumberGenerator()
            codes = (0..<Self.size).map { _ in
                switch UInt32.random(in: 0..<100, using: &random) {
                case 0..<78: 2  // KVM_EXIT_IO
                case 78..<96: 6  // KVM_EXIT_MMIO
                case 96..<99: 29  // KVM_EXIT_X86_RDMSR
                default: 4  // KVM_EXIT_DEBUG
                }
            }
            // From 50 cycles to 50,000 and more, thinning out: each half as likely as one half as long.
            cycles = (0..<Self.size).map { _ in
                let octave = UInt32(UInt32.random(in: 1...(1 << 12), using: &random).leadingZeroBitCount - 19)
                return 48 << octave + UInt32.random(in: 0..<(48 << octave), using: &random)
            }
            mask = UInt64.random(in: 0..<2, using: &random) & 2
        }
    }

    func run(progress: (String) -> Void) throws -> [Figure] {
        let workload = Workload()
        let tally = try Tally()
        var pairs: [Double] = []
        var accounted: [Double] = []
        for round in -1..<rounds {
            let pairFirst = round % 2 == 0
            let first = pairFirst ? timestamps(workload) : accounting(workload, tally.writer)
            let second = pairFirst ? accounting(workload, tally.writer) : timestamps(workload)
            if round >= 0 {
                pairs.append(pairFirst ? first : second)
                accounted.append(pairFirst ? second : first)
            }
        }
        progress("accounting: \(rounds) rounds")
        guard tally.total.count == UInt64(exits * (rounds + 1)) else { throw BenchmarkError("exits were lost") }
        return [
            Figure("two RDTSC", unit: "cycles/exit", pairs),
            Figure("two RDTSC and accounting", unit: "cycles/exit", accounted),
            Figure("accounting", unit: "cycles/exit", zip(accounted, pairs).map { $0 - $1 }, target: 10),
        ] + reading(tally)
    }

    /// Cycles per exit of the two RDTSC alone.
    @inline(never)
    private func timestamps(_ workload: Workload) -> Double {
        var sum: UInt64 = 0
        let elapsed = workload.cycles.withUnsafeBufferPointer { cycles in
            workload.codes.withUnsafeBufferPointer { codes in
                let start = vmtally_rdtsc()
                for exit in 0..<exits {
                    let place = exit & (Workload.size - 1)
                    let returned = vmtally_rdtsc()
                    let slot = UInt64(codes[place])
                    let measured = vmtally_rdtsc() &- returned
                    sum &+= measured & workload.mask &+ UInt64(cycles[place]) &+ slot
                }
                return vmtally_rdtsc() - start
            }
        }
        precondition(sum > 0)
        return Double(elapsed) / Double(exits)
    }

    /// Cycles per exit with counting in between and timing after them, as in the exit loop.
    @inline(never)
    private func accounting(_ workload: Workload, _ writer: TallyWriter) -> Double {
        let elapsed = workload.cycles.withUnsafeBufferPointer { cycles in
            workload.codes.withUnsafeBufferPointer { codes in
                let start = vmtally_rdtsc()
                for exit in 0..<exits {
                    let place = exit & (Workload.size - 1)
                    let returned = vmtally_rdtsc()
                    let slot = writer.begin(codes[place])
                    let measured = vmtally_rdtsc() &- returned
                    writer.end(slot, cycles: measured & workload.mask &+ UInt64(cycles[place]))
                }
                return vmtally_rdtsc() - start
            }
        }
        return Double(elapsed) / Double(exits)
    }

    /// What others pay: none of it delays a vCPU.
    private func reading(_ tally: Tally) -> [Figure] {
        let snapshot = tally.snapshot()
        return [
            time("snapshot of a tally with \(snapshot.reasons.count) reasons", batch: 20) {
                tally.snapshot().reasons.count
            },
            time("merge of two such snapshots", batch: 20) {
                var merged = snapshot
                merged.merge(snapshot)
                return merged.reasons.count
            },
            time("99th percentile of one reason", batch: 200) { Int(snapshot.reasons[0].percentile(0.99)) },
            time("answer to leaf 0x4FFFFFFF", batch: 10_000) { Int(CPUIDRegisters(tally.total).eax) },
        ]
    }

    /// Time per call. In batches, for RDTSC may step by tens of cycles.
    private func time(_ name: String, batch: Int, _ body: () -> Int) -> Figure {
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
        return Figure(name, unit: "cycles", values)
    }
}
