// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

/// kvm-unit-tests' x86/*.flat, unchanged, against this VMM. No Debian package has them: KVM_UNIT_TESTS names the folder
/// where they have been built.
@Suite(
    "kvm-unit-tests", .ownThread,
    .enabled(if: KVMUnitTests.folder != nil, "KVM_UNIT_TESTS=FOLDER is not given: where make has built x86/*.flat"))
struct KVMUnitTestsTests {
    /// What passes in a ground, and on how many processors.
    struct Ground: CustomTestStringConvertible, Sendable {
        let testDescription: String
        let images: [(name: String, cpus: Int)]
    }

    private static let grounds = [
        // Those that QEMU passes there too, on as many processors as their own configuration asks for.
        Ground(
            testDescription: "svm",
            images: [
                ("ioapic", 4), ("smptest", 3), ("idt_test", 1), ("tsc", 1), ("tsc_adjust", 1), ("eventinj", 1),
                ("hypercall", 1), ("rmap_chain", 1), ("setjmp", 1), ("umip", 1), ("smap", 1), ("pku", 1), ("pcid", 1),
                ("syscall", 1), ("memory", 1), ("rdpru", 1), ("realmode", 1),
            ]),
        // One processor: those that wait for each other do so for a time slice, millions of Bochs's instructions.
        Ground(
            testDescription: "vmx",
            images: [
                ("ioapic", 1), ("idt_test", 1), ("tsc", 1), ("tsc_adjust", 1), ("eventinj", 1), ("hypercall", 1),
                ("setjmp", 1), ("umip", 1), ("smap", 1), ("pcid", 1), ("memory", 1), ("rdpru", 1), ("la57", 1),
                ("kvmclock_test", 1), ("msr", 1), ("rmap_chain", 1), ("realmode", 1),
            ]),
    ]

    @Test(
        "in the lab: every check of every image passes", .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"),
        arguments: grounds)
    func lab(ground: Ground) throws {
        let folder = try #require(KVMUnitTests.folder)
        let output = try Lab.boot(
            ground.testDescription, script: "unit-tests.sh", ground.images.flatMap { [$0.name, "\($0.cpus)"] },
            files: Dictionary(
                uniqueKeysWithValues: ground.images.map {
                    ("unit-tests/\($0.name).flat", "\(folder)/\($0.name).flat")
                }))
        for (name, _) in ground.images {
            // Exit port: (0 << 1) | 1.
            #expect(output.contains("=== \(name)\nstatus 1\n"), "\(output)")
        }
        #expect(!output.contains("FAIL"), "\(output)")
    }

    /// Images that keep to what a host under kvm_pvm can run in ring 0.
    @Test("here: every check passes", arguments: ["smptest", "setjmp", "idt_test", "kvmclock_test"])
    func here(name: String) throws {
        let folder = try #require(KVMUnitTests.folder)
        let run = try Lab.run(
            Lab.path("build/vmtally"),
            [
                "run", "--multiboot", "\(folder)/\(name).flat", "--append", "\(name) 1000", "--cpus", "2", "--memory",
                "512", "--live-cpuid", "off", "--quiet", "--timeout", "60",
            ])
        #expect(run.status == 1 && run.output.contains("PASS") && !run.output.contains("FAIL"), "\(run.output)")
    }
}

private enum KVMUnitTests {
    static let folder = ProcessInfo.processInfo.environment["KVM_UNIT_TESTS"].map { root in
        FileManager.default.fileExists(atPath: root + "/x86") ? root + "/x86" : root
    }
}
