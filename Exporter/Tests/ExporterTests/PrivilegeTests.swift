// SPDX-License-Identifier: Apache-2.0
import Foundation
import Glibc
import Testing

@testable import vmtally_export

@Suite("privileges", .serialized)
struct PrivilegeTests {
    private static let unit = root.path + "/Exporter/systemd/vmtally-export.service"
    private static let missingHost = Tools.missingHost("/usr/bin/setpriv")
    private static let missingSystemd = Tools.missing("/usr/bin/systemd-analyze")

    /// The words that start a program as nobody, with these capabilities and no more.
    private static func nobody(_ capabilities: [String]) -> [String] {
        let list = (["-all"] + capabilities.map { "+" + $0 }).joined(separator: ",")
        return [
            "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--inh-caps=\(list)",
            "--ambient-caps=\(list)", "--bounding-set=\(list)",
        ]
    }

    /// A place that nobody may run a program from: this checkout may be root's alone.
    private static func copy(_ folder: Folder) throws -> String {
        let program = folder.url.appending(path: "vmtally-export")
        try FileManager.default.copyItem(at: URL(filePath: try Tools.exporter), to: program)
        for path in [folder.url.path, program.path] { chmod(path, 0o755) }
        return program.path
    }

    @Test(
        "a user of its own with the unit's capabilities sees others' VMs, and without CAP_SYS_PTRACE none; all are given up",
        .enabled(if: missingHost == nil, "\(missingHost ?? "")"), arguments: [true, false])
    func least(seesAll: Bool) throws {
        let folder = try Folder()
        let vm = try Background.storm(folder.url)
        let exporter = try Background(
            "/usr/bin/setpriv",
            Self.nobody(["bpf", "perfmon"] + (seesAll ? ["sys_ptrace"] : []))
                + [try Self.copy(folder), "--listen", "127.0.0.1:0"], folder.url)
        let port = try exporter.port()
        let status = try String(contentsOfFile: "/proc/\(exporter.process.processIdentifier)/status", encoding: .utf8)
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            #expect(status.contains("\(set):\t0000000000000000\n"), "\(status)")
        }
        let name = "pid=\"\(vm.process.processIdentifier)\",reason=\"KVM_EXIT_IO\""
        let lost = "vmtally_lost_events_total"
        if seesAll {
            _ = try Background.wait("the VM") {
                try Client.get(port, "/metrics").body.contains(name) ? true : nil
            }
        } else {
            // It counts them, and tells nobody.
            for _ in 0..<20 {
                let body = try Client.get(port, "/metrics").body
                #expect(body.contains(lost) && !body.contains(name))
                usleep(100_000)
            }
        }
    }

    @Test(
        "what is missing is said, with the command",
        .enabled(if: missingHost == nil, "\(missingHost ?? "")"),
        arguments: [([], "CAP_BPF and CAP_PERFMON"), (["bpf"], "BPF needs CAP_PERFMON:")] as [([String], String)])
    func missing(capabilities: [String], message: String) throws {
        let folder = try Folder()
        let program = try Self.copy(folder)
        let output = try Tools.run(
            "/usr/bin/setpriv", Self.nobody(capabilities) + [program, "--listen", "127.0.0.1:0", "--collector", "bpf"])
        #expect(output.status == 1 && output.output.contains(message), "\(output.output)")
        #expect(output.output.contains("sudo setcap cap_bpf,cap_perfmon=ep \(program)"), "\(output.output)")
    }

    @Test("systemd takes the unit and its user", .enabled(if: missingSystemd == nil, "\(missingSystemd ?? "")"))
    func unit() throws {
        let folder = try Folder()
        let text = try String(contentsOfFile: Self.unit, encoding: .utf8)
        let copy = folder.url.appending(path: "vmtally-export.service")
        let program = "/usr/libexec/vmtally/vmtally-export"
        #expect(text.contains("ExecStart=\(program) "))
        try Data(text.replacing(program, with: try Tools.exporter).utf8).write(to: copy)
        let verified = try Tools.run("/usr/bin/systemd-analyze", ["verify", "--man=no", copy.path])
        #expect(verified.status == 0 && verified.output.isEmpty, "\(verified.output)")
        // Of 100: what systemd calls exposed begins at 70, OK ends at 40.
        let security = try Tools.run(
            "/usr/bin/systemd-analyze", ["security", "--offline=true", "--threshold=25", copy.path])
        #expect(security.status == 0, "\(security.output.suffix(200))")
        let user = try Tools.run(
            "/usr/bin/systemd-sysusers", ["--dry-run", root.path + "/Exporter/systemd/vmtally-export.conf"])
        #expect(user.status == 0, "\(user.output)")
    }
}
