// SPDX-License-Identifier: Apache-2.0
import Testing
@testable import BootRecords

struct RegressionGateTests {
    @Test(
        arguments: [
            ([], [], RegressionGate.Verdict.passed, 0), (["a"], [], .regression, 2), ([], ["b"], .notJudged, 3),
            // What has been seen counts, whatever has not.
            (["a"], ["b"], .regression, 2),
        ] as [([String], [String], RegressionGate.Verdict, Int32)])
    func verdicts(regressions: [String], unjudged: [String], verdict: RegressionGate.Verdict, status: Int32) {
        let gate = RegressionGate(limit: 0.02, regressions: regressions, unjudged: unjudged)
        #expect(gate.verdict == verdict && gate.status == status)
    }

    @Test(arguments: [("2%", 0.02), ("0.02", 0.02), ("0", 0), ("0%", 0), ("150%", 1.5), ("0.999", 0.999)])
    func shares(text: String, value: Double) throws {
        #expect(try Share(text).value == value)
    }

    @Test(arguments: ["1", "2", "1.0", "0x1p3", "99999"])
    func bareNumbersFromOneOnAreAmbiguous(text: String) {
        #expect(throws: ShareError.ambiguous(text)) { try Share(text) }
    }

    @Test(arguments: ["", "%", "x", "-1%", "-0.1", "nan", "inf", "inf%", "1e9%", "2 %", "2%%"])
    func otherTextsAreNotShares(text: String) {
        #expect(throws: ShareError.notAShare(text)) { try Share(text) }
    }

    @Test func aConsoleHasTwoNames() {
        #expect(ConfigurationFilter("console=8250,cpus=1").match("console=serial cpus=1"))
        #expect(!ConfigurationFilter("console=8250").match("console=virtio cpus=1"))
    }
}
