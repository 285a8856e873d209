import Foundation
import Testing

/// The fidelity checks on real kvm-intel and kvm-amd: stock Debian hosts under emulation (docs/lab.md).
@Suite("Lab")
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
            // QEMU's TCG honours no debug registers under VMRUN: the snapshot is all there is.
            Ground(name: "svm", mode: "snapshot", scale: 10),
            Ground(name: "vmx", mode: "fault+sites", scale: 100),
            Ground(name: "svm-b", mode: "fault+sites", scale: 100),
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

    /// The patched kernel in one emulated host, or one for each check that wants a clock or modules of its own.
    struct Patched: CustomTestStringConvertible, Sendable {
        let ground: String
        let checks: [String]

        var testDescription: String { ([ground] + checks).joined(separator: " ") }
    }

    @Test(
        "the patched kernel holds what kernel-patch/README.md says of it", .serialized,
        .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"),
        arguments: [
            Patched(
                ground: "svm",
                checks: [
                    "--quick", "counts", "capability", "off", "table", "knobs", "debugfs", "storm", "selftests", "demo",
                    "linux", "nested", "qemu",
                ]),
            Patched(ground: "svm", checks: ["time", "preempt", "cost", "install"]),
            Patched(
                ground: "svm",
                checks: [
                    "--version", "newest", "--quick", "counts", "capability", "off", "table", "knobs", "debugfs", "nested",
                ]),
            Patched(ground: "vmx", checks: ["--quick", "counts", "capability", "off", "selftests", "demo", "linux"]),
            Patched(ground: "vmx", checks: ["fastpath"]),
        ])
    func kernelPatch(patched: Patched) throws {
        let run = try Lab.run(Lab.path("kernel-patch/try"), [patched.ground] + patched.checks)
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
