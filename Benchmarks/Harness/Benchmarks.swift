// SPDX-License-Identifier: Apache-2.0
import CBenchmarks
import Glibc

/// `vmtally-benchmarks loop|accounting|start|scrape... [--check] [--program PATH]`: see Benchmarks/README.md.
@main
enum Benchmarks {
    static func main() {
        do {
            try run(Array(CommandLine.arguments.dropFirst()))
        } catch {
            tell("vmtally-benchmarks: \(error)\n")
            exit(1)
        }
    }

    private static func run(_ arguments: [String]) throws {
        let checking = arguments.contains("--check")
        let names = arguments.filter { !$0.hasPrefix("--") }
        let setting = try Setting()
        var failures: [Figure] = []
        for name in names {
            // A check is done in two minutes, at the price of wider intervals.
            let figures = try measure(name, rounds: checking ? 12 : 25)
            let goal = ["start", "scrape"].contains(name) ? name : "loop"
            let results = Results(benchmark: name, command: "make bench-\(goal)", setting: setting, figures: figures)
            print(results.text())
            failures += figures.filter(\.fails)
            if !checking {
                try results.record(in: "Benchmarks/results")
            }
        }
        guard checking else { return }
        for figure in failures {
            print("MISSED: \(figure.name): \(figure.format(figure.low)) \(figure.unit) or more, \(figure.verdict)")
        }
        guard failures.isEmpty else { exit(1) }
        print("bench-check: nothing is above its target with 95 % certainty")
    }

    private static func measure(_ name: String, rounds: Int) throws -> [Figure] {
        let progress = { (line: String) in
            if isatty(STDERR_FILENO) == 1 {
                tell("\r\u{1B}[K\(line)")
            }
        }
        defer { progress("") }
        switch name {
        case "loop":
            try pin()
            return try LoopBenchmark(rounds: rounds).run(progress: progress)
        case "accounting":
            try pin()
            return try AccountingBenchmark(rounds: rounds).run(progress: progress)
        case "start":
            return try StartBenchmark(rounds: rounds, program: "build/vmtally").run(progress: progress)
        case "scrape":
            return try ScrapeBenchmark(rounds: rounds).run(progress: progress)
        default:
            throw BenchmarkError("no benchmark '\(name)'; there are loop, accounting, start and scrape")
        }
    }

    private static func tell(_ text: String) {
        _ = text.withCString { write(STDERR_FILENO, $0, strlen($0)) }
    }

    private static func pin() throws {
        let cpu = pin_to_last_cpu()
        guard cpu >= 0 else { throw BenchmarkError("cannot stay on one CPU: errno \(-cpu)") }
    }
}
