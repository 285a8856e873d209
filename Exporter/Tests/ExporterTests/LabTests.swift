// SPDX-License-Identifier: Apache-2.0
import Foundation
import Glibc
import Testing

/// The exporter beside the kernel's own counts, in an emulated host.
@Suite("lab")
struct LabTests {
    private static let missing = Tools.missing("/usr/bin/qemu-system-x86_64", root.path + "/build/vmtally")

    /// This build of it, with all that it loads.
    private static func carry(to folder: URL) throws {
        let program = try Tools.exporter
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let libraries = try Tools.run("/usr/bin/ldd", [program]).output.matches(of: /\/\S+/).map { String($0.output) }
        for file in libraries + [program] {
            let copied = try Tools.run("/bin/cp", ["-L", file, folder.path])
            try #require(copied.status == 0, "\(copied.output)")
        }
    }

    @Test(
        "a scrape says by reason what a histogram trigger counts, in all what KVM counts",
        .enabled(if: missing == nil, "\(missing ?? "")"), arguments: ["bpf", "tracefs"])
    func exact(collector: String) throws {
        let folder = try Folder()
        let carried = folder.url.appending(path: "export")
        try Self.carry(to: carried)
        let storm = try Background.guest(folder.url, cpuids: 3000, outs: 2000)
        let output = try Tools.run(
            root.path + "/Lab/run",
            [
                "svm", "--timeout", "600", root.path + "/build/vmtally=/bin/vmtally", carried.path + "=/export",
                storm + "=/guest/storm", "--script", root.path + "/Tests/LabTests/Scripts/scrape.sh", "--", collector,
            ]
        ).output
        let scraped = output.matches(of: /vmtally_vm_exits_total\{.*reason="SVM_EXIT_(\w+)"\} (\d+)/)
            .reduce(into: [String: Int]()) { $0[String($1.1)] = Int($1.2) }
        let names = [96: "INTR", 97: "NMI", 100: "VINTR", 114: "CPUID", 123: "IOIO", 124: "MSR", 1024: "NPF"]
        let traced = output.matches(of: /\ntraced (\d+) (\d+)/)
            .reduce(into: [String: Int]()) { $0[names[Int($1.1) ?? 0] ?? String($1.1)] = Int($1.2) }
        #expect(scraped == traced && scraped["CPUID"] == 3000, "\(output)")
        let kernel = output.firstMatch(of: /\nkernel (\d+)/).flatMap { Int($0.1) }
        #expect(scraped.values.reduce(0, +) == kernel, "\(output)")
        #expect(!output.contains(/lost_events_total\{.*\} [1-9]/), "\(output)")
    }
}
