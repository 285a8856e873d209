// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

/// What the tests in emulated hosts have in common.
enum Lab {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    /// A file of the project.
    static func path(_ name: String) -> String { root.appending(path: name).path }

    static let isCI = ProcessInfo.processInfo.environment["CI"] != nil

    /// Boots of many minutes are run too.
    static let isPatient = ProcessInfo.processInfo.environment["VMTALLY_SLOW_TESTS"] != nil

    /// Why there is no lab here; nil when there is one. CI must have it.
    static let missing: String? = {
        if isCI {
            return nil
        }
        let made = [
            "vmtally", "vmtally-fidelity", "vmtally-probe", "guest/vmlinuz", "guest/vmlinux", "guest/initrd",
            "guest/host/tun.ko",
        ].map { path("build/" + $0) }
        if let absent = made.first(where: { !FileManager.default.fileExists(atPath: $0) }) {
            return "\(absent) is not there: make test makes it"
        }
        // Root has the lab install what it lacks.
        let grounds = (try? run(path("Lab/run"), ["--list"]).output) ?? ""
        let isThere = grounds.matches(of: /(svm|vmx) +ready/).count == 2
        return isThere || getuid() == 0 ? nil : "a ground lacks packages: Lab/run --list"
    }()

    /// Seconds of wall clock after which a host in the lab is taken to hang. No test judges how long one takes.
    static let hang = 3600

    /// Runs a program to its end. Those that boot an emulated host have time limits of their own.
    static func run(_ program: String, _ arguments: [String]) throws -> (status: Int32, output: String) {
        let process = Process()
        let pipe = Pipe()
        process.executableURL = URL(filePath: program)
        process.arguments = arguments
        process.standardOutput = pipe
        process.standardError = pipe
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }

    /// Runs one of Scripts in an emulated host with the guest of `make guest`; its output.
    ///
    /// - Parameters:
    ///   - files: names in the host's root, and where they are here.
    ///   - kernel: the host's; nil: the usual one.
    static func boot(
        _ ground: String, script: String, _ arguments: [String], files: [String: String] = [:], kernel: String? = nil,
        seconds: Int = hang
    ) throws -> String {
        let all = [
            "bin/vmtally": path("build/vmtally"), "guest/vmlinuz": path("build/guest/vmlinuz"),
            "guest/initrd": path("build/guest/initrd"),
        ].merging(files) { $1 }
        // Linux takes its clock from the TSC: see Lab/init. Bochs has nothing to refine.
        let clock = ground == "svm" ? ["--append", "vmtally.refined_tsc"] : []
        return try run(
            path("Lab/run"),
            [ground, "--memory", "1500", "--timeout", "\(seconds)"] + clock
                + (kernel.map { ["--kernel", $0] } ?? [])
                + all.flatMap { ["--file", $0.value + "=/" + $0.key] }
                + ["--script", path("Tests/LabTests/Scripts/" + script), "--"] + arguments
        ).output
    }
}

extension TemporaryFolder {
    /// Makes a guest as docs/guests.md wants it out of assembly.
    static let bareMetal =
        "-nostdlib -static -no-pie -Wl,-Ttext=0x100000 -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096"

    /// The guest of Scripts/storm.S; its path.
    func storm(cpuids: Int, outs: Int, idle: Bool = false) throws -> String {
        let name = "storm-\(cpuids)-\(outs)\(idle ? "-idle" : "")"
        // A VM that starts may be reading it.
        if access(path + "/" + name, R_OK) == 0 { return path + "/" + name }
        return try compile(
            "storm.S",
            "\(Self.bareMetal) -DCPUIDS=\(cpuids) -DOUTS=\(outs)\(idle ? " -DIDLE" : "")", named: name)
    }

    /// Compiles a program of Scripts; its path.
    func compile(_ source: String, _ options: String, named name: String? = nil) throws -> String {
        let program = path + "/" + (name ?? String(source.split(separator: ".")[0]))
        let compiler = try Lab.run(
            "/usr/bin/env",
            ["cc", Lab.path("Tests/LabTests/Scripts/" + source), "-o", program]
                + options.split(separator: " ").map(String.init))
        try #require(compiler.status == 0, "\(compiler.output)")
        return program
    }
}
