// SPDX-License-Identifier: Apache-2.0
import CBenchmarks
import Machine

/// The exit loop against the same loop without accounting, with more of it, and against a plain C program, by the C
/// library's ioctl(2), without it, and with the same accounting, on the same guest.
///
/// All seven run in turns, in an order that changes from turn to turn, on one CPU. A round's sample is the median of the
/// guest's chunks in fourteen turns: chunks are short, so that what else the machine does meanwhile hits few of them, and
/// turns are, so that what drifts hits all loops alike.
struct LoopBenchmark {
    var rounds = 25
    /// 280,000 exits make a sample.
    let turns = 14
    let chunks = 200
    let exitsPerChunk = 100

    enum Loop: CaseIterable {
        case counted, uncounted, plainC, inlinedC, countingC, byRIP, withoutPage
    }

    func run(progress: (String) -> Void) throws -> [Figure] {
        try LoopGuest.Exit.allCases.flatMap { exit in
            let guest = LoopGuest(exit, chunks: chunks, exits: exitsPerChunk)
            var samples: [Loop: [Double]] = [:]
            for round in 0..<rounds {
                for (loop, cycles) in try sample(guest) {
                    samples[loop, default: []].append(Series(cycles).median)
                }
                progress("\(exit.rawValue): round \(round + 1) of \(rounds)")
            }
            return figures(exit, samples)
        }
    }

    /// Cycles per exit in each chunk of one round, as the guest saw them.
    private func sample(_ guest: LoopGuest) throws -> [Loop: [Double]] {
        var chunks: [Loop: [Double]] = [:]
        for turn in 0..<turns {
            for loop in Self.order(turn) {
                let serial =
                    switch loop {
                    case .plainC: try runPlainC(guest, PLAIN_LOOP_IOCTL)
                    case .inlinedC: try runPlainC(guest, PLAIN_LOOP_INLINE)
                    case .countingC: try runPlainC(guest, PLAIN_LOOP_COUNTS)
                    default: try runVMTally(guest, loop)
                    }
                guard let cycles = guest.cycles(serial) else {
                    throw BenchmarkError("the guest sent \(serial.count) bytes, not \(guest.chunks * 8)")
                }
                chunks[loop, default: []] += cycles
            }
        }
        return chunks
    }

    /// Each loop comes first as often as the others, and they run there and back.
    private static func order(_ turn: Int) -> [Loop] {
        var rest = Loop.allCases
        let first = rest.remove(at: turn % rest.count)
        return [first] + (turn / Loop.allCases.count % 2 == 0 ? rest : rest.reversed())
    }

    private func runVMTally(_ guest: LoopGuest, _ loop: Loop) throws -> [UInt8] {
        var configuration = MachineConfiguration()
        configuration.liveCPUID = .off
        configuration.serial = .capture
        configuration.countsExits = loop != .uncounted
        configuration.tallyPage = loop != .withoutPage
        configuration.places = loop == .byRIP ? [.rip] : []
        let machine = try guest.elf.withUnsafeBytes { try Machine(configuration, elf: $0) }
        let result = try machine.run()
        let expected = configuration.countsExits ? UInt64(guest.chunks * (guest.exits + 8) + 1) : 0
        guard case .exited(status: 1) = result.end, result.total.total == expected else {
            throw BenchmarkError("the guest ended with \(result.end) after \(result.total.total) exits")
        }
        return machine.output.captured
    }

    private func runPlainC(_ guest: LoopGuest, _ loop: plain_loop) throws -> [UInt8] {
        var serial = [UInt8](repeating: 0, count: guest.chunks * 8)
        guard let tally = plain_accounting_new() else { throw BenchmarkError("no memory for the counters in C") }
        defer { plain_accounting_free(tally) }
        let length = plain_loop_run(
            guest.elf, guest.elf.count, MachineConfiguration().memoryMiB << 20, &serial, serial.count, loop,
            tally)
        guard length >= 0 else { throw BenchmarkError("the C program failed with errno \(-length)") }
        let expected = loop == PLAIN_LOOP_COUNTS ? UInt64(guest.chunks * (guest.exits + 8) + 1) : 0
        guard plain_accounting_count(tally) == expected else {
            throw BenchmarkError("the C program counted \(plain_accounting_count(tally)) exits of \(expected)")
        }
        return Array(serial.prefix(length))
    }

    private func figures(_ exit: LoopGuest.Exit, _ samples: [Loop: [Double]]) -> [Figure] {
        let counted = samples[.counted, default: []]
        let uncounted = samples[.uncounted, default: []]
        let plainC = samples[.plainC, default: []]
        let inlinedC = samples[.inlinedC, default: []]
        let countingC = samples[.countingC, default: []]
        let withoutPage = samples[.withoutPage, default: []]
        let byRIP = samples[.byRIP, default: []]
        func ratio(_ name: String, _ some: [Double], _ others: [Double], target: Double? = nil) -> Figure {
            Figure(
                "\(exit.rawValue): \(name)", unit: "ratio", zip(some, others).map { $0 / $1 },
                ratioOfMedians: Series(some).median / Series(others).median, target: target)
        }
        let name = exit.rawValue
        return [
            Figure("\(name): vmtally", unit: "cycles/exit", counted),
            Figure("\(name): the same loop without accounting", unit: "cycles/exit", uncounted),
            Figure("\(name): plain C", unit: "cycles/exit", plainC),
            Figure("\(name): plain C, KVM_RUN inline", unit: "cycles/exit", inlinedC),
            Figure("\(name): plain C, counting likewise", unit: "cycles/exit", countingC),
            ratio("vmtally / without accounting", counted, uncounted),
            ratio("plain C: counting likewise / not", countingC, inlinedC),
            ratio("vmtally / plain C, counting likewise", counted, countingC, target: 1.01),
            ratio("vmtally / plain C", counted, plainC, target: 1.01),
            ratio("vmtally / plain C, KVM_RUN inline", counted, inlinedC),
            ratio("without accounting / the same", uncounted, inlinedC),
            ratio("vmtally with --by-rip / vmtally", byRIP, counted),
            ratio("vmtally / vmtally with --tally-page off", counted, withoutPage),
        ]
    }
}
