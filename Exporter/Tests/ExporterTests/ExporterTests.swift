// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

@testable import vmtally_export

@Suite("export")
struct ExporterTests {
    @Test(
        "--listen takes an IPv4 address and a port",
        arguments: [
            ("127.0.0.1:9435", true), ("0.0.0.0:1", true), ("127.0.0.1", false), (":9435", false),
            ("127.0.0.1:65536", false), ("localhost:1", false), ("1.2.3.4:5:6", false), ("", false),
        ])
    func listen(text: String, isGood: Bool) {
        #expect((ExportCommand.address(text) != nil) == isGood)
    }

    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent()
    /// Beside the tests.
    private static let exporter = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
        .appending(path: "vmtally-export").path
    private static let missing: String? = {
        if geteuid() != 0 || access("/dev/kvm", R_OK | W_OK) != 0 { return "needs root and /dev/kvm" }
        if ProcessInfo.processInfo.environment["CI"] != nil { return nil }
        let vmtally = root.appending(path: "build/vmtally").path
        if access(vmtally, X_OK) != 0 { return "\(vmtally) is not there: make build" }
        return access("/usr/bin/promtool", X_OK) == 0 ? nil : "no prometheus: scripts/require export"
    }()

    @Test(
        "Debian's Prometheus scrapes it and answers a rate by reason; promtool finds no fault",
        .enabled(if: missing == nil, "\(missing ?? "")"))
    func prometheus() throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "vmtally-export-\(UUID())")
        defer { try? FileManager.default.removeItem(at: folder) }
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let storm = folder.appending(path: "storm").path
        let build = try Self.run(
            "/usr/bin/gcc",
            [
                "-nostdlib", "-static", "-no-pie", "-DCPUIDS=1", "-DOUTS=50000", "-Wl,-Ttext=0x100000",
                "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096",
                Self.root.appending(path: "Tests/LabTests/Scripts/storm.S").path, "-o", storm,
            ])
        try #require(build.status == 0, "\(build.output)")
        let run = try Self.run(
            Self.root.appending(path: "Exporter/try").path,
            [
                Self.exporter, Self.root.appending(path: "build/vmtally").path,
                storm, "20",
            ])
        #expect(run.status == 0, "\(run.output)")
        #expect(run.output.contains("metrics pass") && run.output.contains("# EOF"), "\(run.output)")
        let rate = run.output.firstMatch(of: /reason="KVM_EXIT_IO"\} => ([0-9.e+]+) @/)
        #expect(try #require(Double(rate?.1 ?? "0"), "\(run.output)") > 0, "\(run.output)")
    }

    private static func run(_ program: String, _ arguments: [String]) throws -> (status: Int32, output: String) {
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
}
