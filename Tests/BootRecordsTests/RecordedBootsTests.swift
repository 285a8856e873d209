// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing
@testable import BootRecords

/// Linux, booted ten times in each configuration under real kvm-amd: Benchmarks/boots svm.
struct RecordedBootsTests {
    private static let results = URL(filePath: #filePath).appending(path: "../../../Benchmarks/results").standardized

    private static func recording(_ name: String) throws -> BootRecording {
        try BootRecording(json: Array(Data(contentsOf: results.appending(path: "boot-svm-\(name).json"))))
    }

    private static let effort = (resamples: 100, permutations: 4000)

    /// Four recordings of the same: six pairs of six configurations.
    @Test func equalsGiveNoAlarm() throws {
        let recordings = try ["6.1", "6.1-b", "6.1-c", "6.1-d"].map(Self.recording)
        var compared = 0
        for (index, before) in recordings.enumerated() {
            for after in recordings[(index + 1)...] {
                for pair in BootComparison(before, after, effort: Self.effort).pairs {
                    compared += 1
                    let alarms = pair.significant.map { "\($0.name): \($0.before), \($0.after)" }
                    #expect(alarms == [], "\(pair.before.name) of \(before.recorded) and of \(after.recorded)")
                }
            }
        }
        #expect(compared == 36)
    }

    /// Ten CPUIDs more than 1,003, by one more program. Starting it costs CR4 writes, flushes of global pages.
    @Test func onePercentOfOneReasonIsFound() throws {
        let before = try Self.recording("6.1"), after = try Self.recording("planted")
        let comparison = BootComparison(before, after, effort: Self.effort)
        #expect(comparison.pairs.count == 3)
        for pair in comparison.pairs {
            let row = try #require(pair.significant.first { $0.name == "SVM_EXIT_CPUID" }, "\(pair.before.name)")
            #expect(row.difference == 10)
            #expect(Set(pair.significant.map(\.name)).subtracting(["SVM_EXIT_CPUID", "SVM_EXIT_WRITE_CR4"]) == [])
        }
    }
}
