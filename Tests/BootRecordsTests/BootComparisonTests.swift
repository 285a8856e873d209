// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Testing
@testable import BootRecords

struct BootComparisonTests {
    static func compare(_ before: [BootRun], _ after: [BootRun]) -> BootComparison {
        BootComparison(
            Samples.recording("A", [Samples.configuration(runs: before)]),
            Samples.recording("B", [Samples.configuration(runs: after)]), effort: (300, 4000))
    }

    @Test func equalsGiveNoAlarmInTwentyComparisons() {
        for seed in 0..<20 as Range<UInt64> {
            let comparison = Self.compare(Samples.boots(10, seed: 2 * seed), Samples.boots(10, seed: 2 * seed + 1))
            #expect(comparison.pairs[0].significant.map(\.name) == [])
            #expect(comparison.regressions(above: 0).isEmpty)
        }
    }

    @Test(arguments: ["SVM_EXIT_IOIO", "SVM_EXIT_MSR"])
    func onePercentInOneReasonIsFound(reason: String) throws {
        for seed in 100..<105 as Range<UInt64> {
            let comparison = Self.compare(
                Samples.boots(10, seed: 2 * seed), Samples.boots(10, seed: 2 * seed + 1, scaling: [reason: 1.01]))
            let pair = comparison.pairs[0]
            let row = try #require(pair.significant.first { $0.name == reason }, "seed \(seed)")
            #expect(row.relative > 0.005 && row.relative < 0.015)
            #expect(row.interval.lowerBound > 0)
            let others = pair.significant.filter { $0.name != reason && $0.group != .total }
            #expect(others.map(\.name) == [])
            #expect(pair.rows.first?.isSignificant == true)
        }
    }

    /// The host's interrupts depend on how long a boot takes there.
    @Test func hostsInterruptsAreNotJudged() {
        let comparison = Self.compare(
            Samples.boots(10, seed: 1), Samples.boots(10, seed: 2, scaling: ["SVM_EXIT_INTR": 2]))
        #expect(comparison.pairs[0].significant.isEmpty)
        let row = comparison.pairs[0].rows.first { $0.name == "SVM_EXIT_INTR" }
        #expect(row?.p == nil && row.map { $0.relative > 0.8 } == true)
    }

    /// By how much a reason grows, what is allowed, and whether that is a regression: shares are of the total.
    @Test(
        arguments: [
            ("SVM_EXIT_MSR", 1.10, 0.02, true), ("SVM_EXIT_MSR", 1.02, 0.02, false), ("SVM_EXIT_MSR", 0.5, 0.02, false),
            ("SVM_EXIT_WRITE_DR7", 5, 0.02, false), ("SVM_EXIT_WRITE_DR7", 5, 0, true),
        ])
    func regressions(reason: String, factor: Double, allowed: Double, isRegression: Bool) {
        let comparison = Self.compare(
            Samples.boots(10, seed: 5), Samples.boots(10, seed: 6, scaling: [reason: factor]))
        #expect(!comparison.regressions(above: allowed).isEmpty == isRegression)
    }

    @Test func fewRunsAreSaidToBeTooFew() {
        let comparison = Self.compare(
            Samples.boots(4, seed: 1), Samples.boots(4, seed: 2, scaling: ["SVM_EXIT_IOIO": 2]))
        #expect(comparison.pairs[0].significant.isEmpty)
        #expect(comparison.pairs[0].unjudged.count == 1)
        #expect(comparison.unjudged.contains { $0.contains("too few") })
    }

    @Test func configurationsAreMatchedByName() {
        let one = Samples.configuration("cpus=1", runs: Samples.boots(3, seed: 1))
        let two = Samples.configuration("cpus=2", runs: Samples.boots(3, seed: 2))
        let four = Samples.configuration("cpus=4", runs: Samples.boots(3, seed: 3))
        let comparison = BootComparison(Samples.recording("A", [one, two]), Samples.recording("B", [four, two]))
        #expect(comparison.pairs.map(\.before.name) == ["cpus=2"])
        #expect(comparison.unmatched == ["A: cpus=1", "B: cpus=4"])
        let alone = BootComparison(Samples.recording("A", [one]), Samples.recording("B", [four]))
        #expect(alone.pairs.count == 1 && alone.unmatched.isEmpty)
    }

    /// Another vendor's exits are others: totals are shown, nothing is judged.
    @Test func backendsAreNotMixed() {
        var other = Samples.recording("B", [Samples.configuration(runs: Samples.boots(10, seed: 2))])
        other.host.backend = "kvm_intel"
        let comparison = BootComparison(
            Samples.recording("A", [Samples.configuration(runs: Samples.boots(10, seed: 1))]), other)
        #expect(comparison.pairs[0].rows.allSatisfy { $0.p == nil && [.total, .time].contains($0.group) })
        #expect(comparison.unjudged == ["console=virtio: hosts of different backends (kvm_amd, kvm_intel)"])
    }

    @Test func whatSomeRunsLackIsSaid() {
        var runs = Samples.boots(10, seed: 2)
        runs[3].hardware = ExitCounts(source: .statistics, total: 3000)
        runs[4].hardware = nil
        let comparison = Self.compare(Samples.boots(10, seed: 1), runs)
        #expect(
            comparison.unjudged == [
                "console=virtio: VM exits are known of 19 of 20 runs only",
                "console=virtio: VM exits by reason are known of 18 of 20 runs only",
            ])
    }

    @Test func differencesOfTheSetupAreSaid() {
        var other = Samples.configuration(runs: Samples.boots(9, seed: 1))
        other.memoryMiB = 512
        other.kernel?.version = "6.12"
        let comparison = BootComparison(
            Samples.recording("A", [Samples.configuration(runs: Samples.boots(9, seed: 1))]),
            Samples.recording("B", [other]))
        #expect(
            comparison.pairs[0].remarks == [
                "memory: 256 MiB, then 512 MiB",
                "kernel: vmlinuz (6 bytes, cksum 667919890), then 6.12 (6 bytes, cksum 667919890)",
            ])
    }
}
