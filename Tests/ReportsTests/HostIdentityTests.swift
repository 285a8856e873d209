// SPDX-License-Identifier: Apache-2.0
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
}
