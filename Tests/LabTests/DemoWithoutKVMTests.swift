// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

/// `vmtally demo` where KVM cannot be used: in a mount namespace with a /dev of its own.
@Suite("demo without /dev/kvm", .ownThread, .enabled(if: noNamespaces == nil, "\(noNamespaces ?? "")"))
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
        let run = try demo(Lab.path("build/vmtally"))
        #expect(run.status == 0, "\(run.output)")
        #expect(run.output.hasPrefix("vmtally: open /dev/kvm: No such file or directory"), "\(run.output)")
        for line in [
            "in an emulated AMD host", "kvm_amd", "live CPUID: fault+sites", "the guest's own checks: 56 of 56 passed",
        ] {
            #expect(run.output.contains(line), "no '\(line)' in: \(run.output)")
        }
    }

    /// A copy of the program without a checkout around it has no lab: then it says where one is to be had.
    @Test(
        "it says why /dev/kvm is forbidden and what to do",
        .enabled(if: access("/usr/bin/setpriv", X_OK) == 0, "no setpriv"))
    func forbidden() throws {
        let folder = try TemporaryFolder()
        let copy = folder.path + "/vmtally"
        // In a process of its own: one that is started meanwhile would hold the copy open for writing, and keep it from running.
        try Process.run(URL(fileURLWithPath: "/bin/cp"), arguments: [Lab.path("build/vmtally"), copy]).waitUntilExit()
        // Root may open any file, but for these two capabilities.
        let run = try demo(
            copy, device: "mknod -m 000 kvm c 10 232",
            through: "setpriv --bounding-set=-dac_override,-dac_read_search")
        #expect(run.status == 1, "\(run.output)")
        let parts = [
            "open /dev/kvm: Permission denied", "usermod -aG kvm", "run it from the build folder of a source checkout",
        ]
        for part in parts {
            #expect(run.output.contains(part), "no '\(part)' in: \(run.output)")
        }
    }
}

/// Why there can be no /dev without kvm here; nil when there can.
private let noNamespaces: String? = {
    let program = Lab.path("build/vmtally")
    guard FileManager.default.isExecutableFile(atPath: program) else {
        return Lab.isCI ? nil : "\(program) is not built: make builds it"
    }
    let trial = try? Lab.run("/usr/bin/unshare", ["-m", "mount", "-t", "tmpfs", "none", "/mnt"])
    return trial?.status == 0 ? nil : "no right to mount in a namespace: needs root"
}()
