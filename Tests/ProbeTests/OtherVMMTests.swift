// SPDX-License-Identifier: Apache-2.0
import Foundation
import ProbeImage
import Testing

/// Under a VMM that does not tally exits the probe says so, and nothing else.
@Suite struct OtherVMMTests {
    @Test(.enabled(if: Command.find("qemu-system-x86_64") != nil))
    func underQEMU() throws {
        let file = FileManager.default.temporaryDirectory.appending(path: "vmtally-\(UUID().uuidString).elf")
        defer { try? FileManager.default.removeItem(at: file) }
        try Data(ProbeImage.elf).write(to: file)
        let result = try Command.run(
            "timeout",
            ["60", "qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-kernel", file.path, "-nodefaults"]
                + ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-display", "none", "-serial", "stdio"])
        #expect(result.status == 2 << 1 | 1)
        #expect(result.output.contains("vmtally probe: CPUID leaf 0x4fffff00 has no signature"))
        let line = try #require(result.output.split(separator: "\n").first { $0.hasPrefix("vmtally-probe-json ") })
        let json = try JSONSerialization.jsonObject(with: Data(line.dropFirst("vmtally-probe-json ".count).utf8))
        let report = try #require(json as? [String: Any])
        #expect(report["schema"] as? String == "vmtally.bare-metal-probe/1")
        #expect(report["signature"] as? Bool == false)
    }
}
