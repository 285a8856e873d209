// SPDX-License-Identifier: Apache-2.0
import TestSupport
import Testing

/// What the guest reads of itself beside what `vmtally top` counts of it: the same numbers at the same exit. The module's
/// side is kernel-module/try's check `joined`.
@Suite("both sides", .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"))
struct JoinedTests {
    @Test("top shows what the guest has read") func joined() throws {
        let folder = try TemporaryFolder()
        let guest = try folder.compile("joined.S", TemporaryFolder.bareMetal)
        let symbols = try Lab.run("/usr/bin/env", ["nm", guest]).output
        let query = try #require(symbols.firstMatch(of: /([0-9a-f]+) T query/)?.1)
        let run = try Lab.run(
            Lab.path("Lab/run"),
            [
                "svm", "--kernel", "6.1", "--timeout", "400", Lab.path("build/vmtally") + "=/bin/vmtally",
                guest + "=/guest/joined", "--script", Lab.path("Tests/LabTests/Scripts/joined.sh"), "--", "ours",
                String(query),
            ])
        #expect(run.status == 0 && run.output.contains("\nok    userspace exits: guest and top say "), "\(run.output)")
    }
}
