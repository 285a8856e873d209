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
            Lab.runner, [ground.name, "--", Lab.fidelity, "--expect", ground.mode, "--scale", "\(ground.scale)"])
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
                checks: ["--quick", "counts", "capability", "off", "selftests", "demo", "linux", "nested"]),
            Patched(ground: "svm", checks: ["time", "cost", "install"]),
            Patched(ground: "vmx", checks: ["--quick", "counts", "capability", "off", "selftests", "demo", "linux"]),
            Patched(ground: "vmx", checks: ["fastpath"]),
        ])
    func kernelPatch(patched: Patched) throws {
        let run = try Lab.run(Lab.patched, [patched.ground] + patched.checks)
        #expect(run.status == 0, "\(run.output)")
    }

    @Test(
        "the patched kernel's tally is KVM's own count, for our guests too",
        .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"), arguments: ["svm", "vmx"])
    func patchedFidelity(ground: String) throws {
        let run = try Lab.run(Lab.patched, [ground, "--", Lab.fidelity, "--expect", "host", "--scale", "100"])
        #expect(run.status == 0, "\(run.output)")
        #expect(run.output.contains("ok   the patched kernel's tally by reason"), "\(run.output)")
    }
}

/// `vmtally demo` where KVM cannot be used: in a mount namespace with a /dev of its own.
@Suite("demo without /dev/kvm", .enabled(if: Lab.noNamespaces == nil, "\(Lab.noNamespaces ?? "")"))
struct DemoWithoutKVMTests {
    /// Runs `$1 demo` in a /dev that has what programs need, and what `device` makes there.
    private func demo(_ program: String, device: String = "", through launcher: String = "") throws -> (
        status: Int32, output: String
    ) {
        let script = """
            mount -t tmpfs -o mode=755 none /dev && cd /dev &&
            mknod -m 666 null c 1 3 && mknod -m 666 zero c 1 5 && mknod -m 666 random c 1 8 &&
            mknod -m 666 urandom c 1 9 && ln -s /proc/self/fd fd && mkdir shm && \(device.isEmpty ? "true" : device) || exit 99
            cd / && exec \(launcher) "$1" demo
            """
        return try Lab.run("/usr/bin/unshare", ["-m", "sh", "-c", script, "sh", program])
    }

    @Test(
        "it says that there is no /dev/kvm, and runs in the SVM ground",
        .enabled(if: Lab.missing == nil, "\(Lab.missing ?? "")"))
    func missing() throws {
        let run = try demo(Lab.vmtally)
        #expect(run.status == 0, "\(run.output)")
        #expect(run.output.hasPrefix("vmtally: open /dev/kvm: No such file or directory"), "\(run.output)")
        for line in [
            "in an emulated AMD host", "kvm_amd", "live CPUID: snapshot", "the guest's own checks: 8 of 8 right",
        ] {
            #expect(run.output.contains(line), "no '\(line)' in: \(run.output)")
        }
    }

    /// A copy of the program without a checkout around it has no lab: then it says where one is to be had.
    @Test(
        "it says why /dev/kvm is forbidden and what to do",
        .enabled(if: access("/usr/bin/setpriv", X_OK) == 0, "no setpriv"))
    func forbidden() throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "vmtally-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: false)
        defer { try? FileManager.default.removeItem(at: folder) }
        let copy = folder.appending(path: "vmtally").path
        try FileManager.default.copyItem(atPath: Lab.vmtally, toPath: copy)
        // Root may open any file, but for these two capabilities.
        let run = try demo(
            copy, device: "mknod -m 000 kvm c 10 232",
            through: "setpriv --bounding-set=-dac_override,-dac_read_search")
        #expect(run.status == 1, "\(run.output)")
        for part in ["open /dev/kvm: Permission denied", "usermod -aG kvm", "type make demo there"] {
            #expect(run.output.contains(part), "no '\(part)' in: \(run.output)")
        }
    }
}

enum Lab {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
    static let fidelity = root.appending(path: "build/vmtally-fidelity").path
    static let vmtally = root.appending(path: "build/vmtally").path
    static let runner = root.appending(path: "Tests/Lab/run").path
    static let patched = root.appending(path: "kernel-patch/try").path

    /// Why there is no lab here; nil when there is one. CI must have it.
    static let missing: String? = {
        if ProcessInfo.processInfo.environment["CI"] != nil {
            return nil
        }
        for file in ["vmtally-fidelity", "vmtally", "guest/vmlinuz", "guest/initrd"]
        where !FileManager.default.fileExists(atPath: root.appending(path: "build/\(file)").path) {
            return "build/\(file) is not there: make test makes it"
        }
        let tools = ["qemu-system-x86_64", "bochs", "genisoimage"]
        let absent = tools.filter { !FileManager.default.isExecutableFile(atPath: "/usr/bin/\($0)") }
        return absent.isEmpty || getuid() == 0 ? nil : "not installed: \(absent.joined(separator: ", "))"
    }()

    /// Why there can be no /dev without kvm here; nil when there can.
    static let noNamespaces: String? = {
        guard FileManager.default.isExecutableFile(atPath: vmtally) else {
            return ProcessInfo.processInfo.environment["CI"] == nil ? "build/vmtally is not built: make builds it" : nil
        }
        let trial = try? run("/usr/bin/unshare", ["-m", "mount", "-t", "tmpfs", "none", "/mnt"])
        return trial?.status == 0 ? nil : "no right to mount in a namespace: needs root"
    }()

    /// Runs a script that boots an emulated host; it has time limits of its own.
    static func run(_ script: String, _ arguments: [String]) throws -> (status: Int32, output: String) {
        let process = Process()
        let pipe = Pipe()
        process.executableURL = URL(filePath: script)
        process.arguments = arguments
        process.standardOutput = pipe
        process.standardError = pipe
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }
}
