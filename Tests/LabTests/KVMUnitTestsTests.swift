import Foundation
import Testing

/// kvm-unit-tests' x86/*.flat, unchanged, against this VMM. No Debian package has them: KVM_UNIT_TESTS names the folder
/// where they have been built.
@Suite(
    "kvm-unit-tests",
    .enabled(if: KVMUnitTests.folder != nil, "KVM_UNIT_TESTS=FOLDER is not given: where make has built x86/*.flat"))
struct KVMUnitTestsTests {
    /// Those that QEMU passes there too, and the number of processors that their own configuration asks for.
    private static let inLab: [(name: String, cpus: Int)] = [
        ("ioapic", 4), ("smptest", 3), ("idt_test", 1), ("tsc", 1), ("tsc_adjust", 1), ("eventinj", 1),
        ("hypercall", 1), ("rmap_chain", 1), ("setjmp", 1), ("umip", 1), ("smap", 1), ("pku", 1), ("pcid", 1),
        ("syscall", 1), ("memory", 1), ("rdpru", 1), ("realmode", 1),
    ]

    @Test("SVM: every check of every image passes", .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"))
    func svm() throws {
        let folder = try #require(KVMUnitTests.folder)
        let output = try Lab.boot(
            "svm", script: "unit-tests.sh", Self.inLab.flatMap { [$0.name, "\($0.cpus)"] },
            files: Dictionary(
                uniqueKeysWithValues: Self.inLab.map { ("unit-tests/\($0.name).flat", "\(folder)/\($0.name).flat") }))
        for (name, _) in Self.inLab {
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
