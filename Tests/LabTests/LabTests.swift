// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

/// The fidelity checks on real kvm-intel and kvm-amd: stock Debian hosts under emulation (docs/lab.md).
@Suite("Lab", .ownThread)
struct LabTests {
    /// A ground, and what live CPUID must be there.
    struct Ground: CustomTestStringConvertible, Sendable {
        let name: String
        let mode: String
        /// Divides the numbers of exits: Bochs makes a few thousand a second.
        let scale: Int

        var testDescription: String { name }
    }

    @Test(
        "every count is KVM's own, and live CPUID is what this ground can do",
        .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"),
        arguments: [
            Ground(name: "svm", mode: "fault+sites", scale: 10),
            Ground(name: "vmx", mode: "fault+sites", scale: 100),
        ])
    func fidelity(ground: Ground) throws {
        let run = try Lab.run(
            Lab.path("Lab/run"),
            [
                ground.name, "--", Lab.path("build/vmtally-fidelity"), "--expect", ground.mode, "--scale",
                "\(ground.scale)",
            ])
        #expect(run.status == 0, "\(run.output)")
        #expect(run.output.contains(" passed, 0 failed"), "\(run.output)")
    }

    /// Ring 0 changes its IDT as ring 3 asks for the tally: Scripts/idt.S.
    @Test(
        "live CPUID follows the guest's #GP gate: no #GP of ours comes to the guest",
        .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"), arguments: ["svm", "vmx"])
    func faultGate(ground: String) throws {
        let folder = try TemporaryFolder()
        var files: [String: String] = [:]
        for change in 1...6 {
            let options = "-DCHANGE=\(change) -nostdlib -static -no-pie -Wl,-Ttext=0x100000,--build-id=none"
            files["idt\(change)"] = try folder.compile("idt.S", options + ",-z,noexecstack", named: "idt\(change)")
        }
        let output = try Lab.boot(ground, script: "idt.sh", files.keys.sorted(), files: files)
        for change in 1...6 {
            // Exit port: (0 << 1) | 1. At least a hundred readings.
            let line = try #require(
                output.firstMatch(of: try Regex("idt\(change) status 1 answered ([0-9]+)")), "\(output)")
            #expect(Int(line.output[1].substring ?? "") ?? 0 > 100, "\(output)")
        }
    }

    /// A KVM with course work's hook: Scripts/course-work.patch.
    @Test(
        "a host that answers the range itself is told of, and not shown as our snapshot",
        .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"))
    func courseWork() throws {
        let folder = try TemporaryFolder()
        // Beside kernel-patch/try, which builds in the same place.
        let script =
            "cache=${XDG_CACHE_HOME:-$HOME/.cache}/vmtally/kernel; mkdir -p $cache; exec flock $cache/modules.lock \"$@\""
        let build = try Lab.run(
            "/bin/sh",
            [
                "-c", script, "sh", Lab.path("kernel-patch/build"), "--patches", "0", "--extra",
                Lab.path("Tests/LabTests/Scripts/course-work.patch"), "--output",
                folder.path, "6.1",
            ])
        try #require(build.status == 0, "\(build.output)")
        for mode in ["auto", "sites"] {
            let run = try Lab.run(
                Lab.path("Lab/run"),
                ["svm", "--modules", folder.path, "--", Lab.path("build/vmtally"), "demo", "--live-cpuid", mode])
            #expect(run.output.contains("answers of its own to CPUID 0x4FFFFFFF"), "\(run.output)")
            // Ring 3 or ring 0 is ours all the same.
            #expect(run.output.contains("live CPUID: \(mode == "auto" ? "fault+sites" : "sites")"), "\(run.output)")
        }
    }

    /// The patched kernel in one emulated host, or one for each check that wants a clock or modules of its own.
    struct Patched: CustomTestStringConvertible, Sendable {
        let ground: String
        let checks: [String]

        var testDescription: String { ([ground] + checks).joined(separator: " ") }
    }

    @Test(
        "the patched kernel holds what kernel-patch/README.md says of it",
        .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"),
        arguments: [
            Patched(
                ground: "svm",
                checks: ["--quick", "counts", "capability", "off", "table", "knobs", "debugfs", "nested"]),
            Patched(
                ground: "svm",
                checks: [
                    "--version", "newest", "--quick", "counts", "capability", "off", "table", "knobs", "debugfs",
                    "nested",
                ]),
        ])
    func kernelPatch(patched: Patched) throws {
        try check("kernel-patch/try", patched)
    }

    @Test(
        "the patched kernels, all checks", .serialized,
        .enabled(if: Lab.isPatient, "VMTALLY_SLOW_TESTS is not set: it takes half an hour"),
        arguments: [
            Patched(ground: "svm", checks: ["--quick", "storm", "selftests", "demo", "linux"]),
            Patched(ground: "svm", checks: ["time", "preempt", "cost", "install"]),
            Patched(ground: "vmx", checks: ["--quick", "counts", "capability", "off", "selftests", "demo", "linux"]),
            Patched(ground: "vmx", checks: ["fastpath"]),
        ])
    func kernelPatchInFull(patched: Patched) throws {
        try check("kernel-patch/try", patched)
    }

    @Test(
        "the module holds on stock kernels what kernel-module/README.md says of it", .serialized,
        .enabled(if: Lab.isPatient, "VMTALLY_SLOW_TESTS is not set: it takes a quarter of an hour"),
        arguments: [
            Patched(
                ground: "svm",
                checks: ["--quick", "counts", "late", "beside", "vendor", "privileges", "l2", "attach", "joined"]),
            Patched(ground: "svm", checks: ["story"]),
            Patched(ground: "svm", checks: ["--version", "newest", "--quick", "late", "l2"]),
            Patched(ground: "vmx", checks: ["--quick", "late", "emulated"]),
        ])
    func kernelModule(module: Patched) throws {
        try check("kernel-module/try", module)
    }

    private func check(_ program: String, _ patched: Patched) throws {
        let run = try Lab.run(Lab.path(program), [patched.ground] + patched.checks)
        #expect(run.status == 0, "\(run.output)")
    }

    @Test(
        "the patched kernel's tally is KVM's own count, for our guests too",
        .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"), arguments: ["svm", "vmx"])
    func patchedFidelity(ground: String) throws {
        let run = try Lab.run(
            Lab.path("kernel-patch/try"),
            [ground, "--", Lab.path("build/vmtally-fidelity"), "--expect", "host", "--scale", "100"])
        #expect(run.status == 0, "\(run.output)")
        #expect(run.output.contains("ok   the patched kernel's tally by reason"), "\(run.output)")
    }
}
