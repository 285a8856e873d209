// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

/// The tally page inside Linux guests (docs/tally-page.md). Under live CPUID it is tried in LinuxBootTests' boots.
@Suite(.serialized, .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"))
struct TallyPageLabTests {
    @Test("Linux reads the page, makes no exit by that, and cannot change it", arguments: [1, 4])
    func svm(cpus: Int) throws {
        try boot("svm", cpus: cpus, readings: 10_000_000, live: false)
    }

    @Test(
        "the same on kvm-intel, where the leaves are live too",
        .enabled(if: Lab.isPatient, "VMTALLY_SLOW_TESTS is not set: two boots of minutes"), arguments: [1, 4])
    func vmx(cpus: Int) throws {
        try boot("vmx", cpus: cpus, readings: 10_000_000, live: true)
    }

    private func boot(_ ground: String, cpus: Int, readings: Int, live: Bool) throws {
        let folder = try TemporaryFolder()
        let output = try Lab.boot(
            ground, script: "page.sh", ["\(cpus)", "\(readings)", ""], files: try folder.tallyPagePrograms(),
            seconds: 900)
        try Self.check(output, live: live)
        #expect(output.contains("VMTL0001:00") && output.contains("page: \(cpus) vCPUs"), "\(output)")
        // A user who is nobody falls back to CPUID and is told so, or gets an error.
        #expect(
            output.contains("the tally page takes root") && output.contains("reading by CPUID instead"), "\(output)")
        #expect(output.contains("\nnobody 0") && output.contains("\nnobody by the page 1"), "\(output)")
        #expect(output.contains("\nstatus 0"), "\(output)")
    }

    /// What /page and the probe on /known say.
    static func check(_ output: String, live: Bool) throws {
        #expect(output.contains("\npage: 0 failed") && !output.contains("FAILED"), "\(output)")
        #expect(output.contains("no userspace exit more"), "\(output)")
        if live {
            #expect(output.contains("agreement: 200 of 200 between"), "\(output)")
            #expect(output.contains("since: 0 exits with nothing in between"), "\(output)")
        }
        // 1,234 exits of a program that makes 1,234: no more, no less.
        let known = output.split(separator: "\n").filter { $0.contains("\"command\":\"/known\"") }
        let exact = #""total":{"count":1234,"#
        let byPage = known.filter { $0.contains(#""via":"page""#) && $0.contains(#""scope":"vm""#) }
        #expect(!byPage.isEmpty && byPage.allSatisfy { $0.contains(exact) }, "\(known)")
        for report in byPage {
            #expect(report.contains(/"by_reason":\[{"code":2,"name":"KVM_EXIT_IO","count":1234,"cycles":[0-9]+}]}/))
        }
    }
}

extension TemporaryFolder {
    /// /page and /known for the guest: names in the host's root, and where they are here.
    func tallyPagePrograms() throws -> [String: String] {
        [
            "page": try compile("page.c", "-O2 -static -I \(Lab.path("guest-probe/include"))"),
            "known": try compile("known.c", "-O1 -static -nostdlib -fno-stack-protector -fcf-protection=none"),
        ]
    }
}
