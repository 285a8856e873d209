// SPDX-License-Identifier: Apache-2.0
import Bench
import ExitStats
import Glibc
import Machine
import Outcomes
import ProbeImage
import Reports
import TestGuests

/// Checks of the tally against KVM's own counts, on whatever host this runs: the lab's emulated ones above all.
///
///     vmtally-fidelity [--expect MODE] [--scale N] [--only page]
///
/// MODE is what live CPUID must be: `fault+sites`, `sites` or `snapshot`. N divides the numbers of exits, and of readings.
/// With `--only page` nothing but the readings of the tally page is tried, with 1, 2 and 4 vCPUs.
@main
enum Fidelity {
    static func main() {
        var checks = Checks()
        let arguments = Arguments(CommandLine.arguments.dropFirst())
        let readings = 10_000_000 / UInt64(arguments.scale)
        if arguments.only == "page" {
            for cpus in [1, 2, 4] {
                checks.run("page readings") { checks throws in
                    try PageReadings(cpus: cpus, readings: readings).check(&checks)
                }
            }
            checks.finish()
        }
        checks.run("exact counts") { checks throws in try ExactCounts(scale: arguments.scale).check(&checks) }
        checks.run("demo guest") { checks throws in try demo(expecting: arguments.mode, &checks) }
        checks.run("page readings") { checks throws in
            try PageReadings(cpus: 1, readings: readings).check(&checks)
        }
        checks.run("CPUID walk") { checks throws in try cpuidWalk(&checks) }
        checks.run("bench") { checks throws in try bench(&checks) }
        checks.finish()
    }

    /// Each kind of exit is counted under its reason, the processor's too where the kernel counts them.
    private static func bench(_ checks: inout Checks) throws {
        let names: Set = [
            "cpuid", "cr4-write", "rdmsr", "wrmsr", "rdmsr-userspace", "pio-out", "pio-in", "pio-kernel-out",
            "pio-ioeventfd", "pio-coalesced", "mmio-read", "mmio-write", "mmio-coalesced", "touch-mmio", "live-sites",
            "live-fault", "live-host", "live-host-exit",
        ]
        var options = BenchOptions()
        options.kinds = BenchKind.catalogue.filter { names.contains($0.name) }
        // The fewest iterations that there are: in Bochs each costs.
        options.seconds = 0.05
        options.cpus = 1
        for row in try Bench(options, elf: ProbeImage.bench).run({ _ in true }).rows {
            switch row.outcome {
            case .measured(let measurement):
                checks.expect(
                    "bench, \(row.kind.name)", measurement.isExact,
                    "\(measurement.userspace) \(measurement.hardware.map { "\($0)" } ?? "")")
            case .unavailable(let reason): checks.skip("bench, \(row.kind.name)", because: reason)
            }
        }
    }

    /// The probe finds nothing wrong, and the host knows of every reading that it took.
    private static func demo(expecting mode: String?, _ checks: inout Checks) throws {
        for cpus in [1, 2] {
            var configuration = MachineConfiguration()
            configuration.cpus = cpus
            configuration.serial = .capture
            configuration.timeoutMilliseconds = 3_600_000
            let machine = try Machine(configuration, elf: ProbeImage.elf)
            let result = try machine.run()
            guard let probe = ProbeReport(serial: machine.output.captured) else {
                throw Unexpected("no report from the probe; the run ended \(result.end)")
            }
            let report = DemoReport(RunReport(result, of: machine), probe: probe)
            checks.expect("demo guest, \(cpus) vCPU", report.isRight, report.lines().joined(separator: "\n"))
            if let mode {
                checks.expect(
                    "live CPUID is \(mode)", machine.liveCPUID.name == mode, "it is \(machine.liveCPUID.name)")
                let answered = result.leaf.answered
                checks.expect(
                    "ring 3 by faulting, ring 0 by sites",
                    mode != "fault+sites" || (answered.faults > 0 && answered.sites > 0),
                    "\(answered)")
            }
        }
    }

    /// Every leaf that is not ours is answered as KVM answers it.
    private static func cpuidWalk(_ checks: inout Checks) throws {
        var configuration = MachineConfiguration()
        configuration.serial = .capture
        configuration.timeoutMilliseconds = 3_600_000
        let machine = try Machine(configuration, elf: TestGuests.cpuidWalk)
        guard machine.liveCPUID.name != "host", machine.liveCPUID.isLive else {
            return checks.skip("CPUID walk", because: machine.liveCPUID.shortfall ?? "KVM answers every leaf itself")
        }
        let result = try machine.run()
        let serial = String(decoding: machine.output.captured, as: UTF8.self)
        checks.expect("CPUID walk", result.end == .exited(status: 1), "\(result.end)\n\(serial)")
        checks.note(serial)
    }
}

/// A check could not even be made.
struct Unexpected: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}

struct Arguments {
    private(set) var mode: String?
    private(set) var scale: UInt32 = 1
    private(set) var only: String?

    init(_ words: ArraySlice<String>) {
        for (word, value) in zip(words, words.dropFirst()) {
            switch word {
            case "--expect": mode = value
            case "--only": only = value
            case "--scale": scale = max(1, UInt32(value) ?? 1)
            default: break
            }
        }
    }
}

/// Results, a line each, and the closing line.
struct Checks {
    private var passed = 0
    private var failed = 0
    private var skipped = 0

    /// Runs a group of checks; an error that it throws is a failure.
    mutating func run(_ name: String, _ body: (inout Checks) throws -> Void) {
        do {
            try body(&self)
        } catch {
            expect(name, false, "\(error)")
        }
    }

    mutating func expect(_ name: String, _ condition: Bool, _ detail: @autoclosure () -> String) {
        if condition {
            passed += 1
            print("ok   \(name)")
        } else {
            failed += 1
            print("FAIL \(name): \(detail())")
        }
    }

    mutating func expectEqual(_ name: String, _ got: UInt64, _ expected: UInt64) {
        expect("\(name): \(expected)", got == expected, "got \(got)")
    }

    mutating func skip(_ name: String, because reason: String) {
        skipped += 1
        print("skip \(name): \(reason)")
    }

    func note(_ text: String) {
        for line in text.split(separator: "\n") {
            print("     \(line)")
        }
    }

    func finish() -> Never {
        print("\(passed) passed, \(failed) failed, \(skipped) skipped")
        exit(failed == 0 ? 0 : 1)
    }
}
