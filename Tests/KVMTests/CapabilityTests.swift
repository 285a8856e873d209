// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
@testable import KVM

@Suite struct CapabilityTests {
    @Test(arguments: [
        (Capability.irqChip, "KVM_CAP_IRQCHIP", 0), (.syncRegs, "KVM_CAP_SYNC_REGS", 74),
        (.x86UserSpaceMSR, "KVM_CAP_X86_USER_SPACE_MSR", 188), (.binaryStatsFD, "KVM_CAP_BINARY_STATS_FD", 203),
        (Capability(rawValue: 244), "KVM_CAP_GUEST_MEMFD_FLAGS", 244),
        (Capability(rawValue: 5), "KVM_CAP_5", 5),
        (Capability(rawValue: -7), "KVM_CAP_-7", -7),
    ]) func nameAndNumber(capability: Capability, name: String, number: Int32) {
        #expect(capability.name == name)
        #expect(capability.rawValue == number)
    }

    @Test func namesAreUniqueAndInOrder() {
        #expect(Set(Capability.all.map(\.name)).count == Capability.all.count)
        #expect(Capability.all.map(\.rawValue) == Capability.all.map(\.rawValue).sorted())
    }

    /// This build host's header knows no capability that we do not, and none by another number.
    @Test func agreesWithTheHeader() throws {
        let path = "/usr/include/linux/kvm.h"
        guard let file = fopen(path, "r") else { return }
        defer { fclose(file) }
        let ours = Dictionary(uniqueKeysWithValues: Capability.all.map { ($0.name, $0.rawValue) })
        var line = [CChar](repeating: 0, count: 4096)
        var count = 0
        while fgets(&line, Int32(line.count), file) != nil {
            let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
            let words = text.split(whereSeparator: \.isWhitespace)
            guard words.count >= 3, words[0] == "#define", words[1].hasPrefix("KVM_CAP_"),
                let number = Int32(words[2])
            else { continue }
            #expect(ours[String(words[1])] == number, "\(words[1])")
            count += 1
        }
        #expect(count > 200)
    }
}
