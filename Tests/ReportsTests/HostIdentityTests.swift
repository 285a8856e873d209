// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

@testable import ThisHost

@Suite("Host identity")
struct HostIdentityTests {
    @Test(
        "an emulated host says so on its kernel's command line",
        arguments: [
            ("quiet vmtally.emulator=Bochs console=ttyS0\n", "Bochs"), ("vmtally.emulator=QEMU", "QEMU"),
            ("vmtally.emulator=\(String(repeating: "x", count: 99))", String(repeating: "x", count: 40)),
        ])
    func emulator(commandLine: String, name: String) {
        #expect(HostIdentity.emulator(commandLine: commandLine) == name)
        #expect(HostIdentity.caveat(name).contains("no time is a processor's"))
    }

    /// Linux takes its model name from the same leaves.
    @Test("the processor's name is the kernel's")
    func processor() throws {
        let information = try String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)
        let line = try #require(information.split(separator: "\n").first { $0.hasPrefix("model name") })
        let name = line.drop { $0 != ":" }.dropFirst().split(separator: " ").joined(separator: " ")
        #expect(HostIdentity.processorName == name)
        #expect(HostIdentity(tscKHz: 0).cpu == name)
    }
}
