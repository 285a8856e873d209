// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Foundation
import Testing

/// The tables against the kernel's own headers, whichever version is installed: what the header defines has to be in
/// our table, under the same number and name. The tables may know more.
@Suite("Reason vocabularies against the installed kernel headers")
struct ReasonHeaderTests {
    @Test("linux/kvm.h", .enabled(if: KernelHeader.kvm.isToBeTested, KernelHeader.advice))
    func kvm() throws {
        // Other KVM_EXIT_* are values of fields; the reasons stand in one block.
        let lines = try KernelHeader.kvm.lines()
            .drop { !$0.contains("KVM_EXIT_UNKNOWN") || !$0.hasPrefix("#define") }
            .prefix { $0.hasPrefix("#define") }
        check(defines(lines, prefix: "KVM_EXIT_"), in: .kvm, atLeast: 38)
    }

    @Test("asm/vmx.h", .enabled(if: KernelHeader.vmx.isToBeTested, KernelHeader.advice))
    func vmx() throws {
        check(defines(try KernelHeader.vmx.lines(), prefix: "EXIT_REASON_"), in: .vmx, atLeast: 60)
    }

    @Test("asm/svm.h", .enabled(if: KernelHeader.svm.isToBeTested, KernelHeader.advice))
    func svm() throws {
        let lines = try KernelHeader.svm.lines()
        let range = ["SVM_EXIT_EXCP_BASE": UInt32(0x40), "SVM_EXIT_LAST_EXCP": 0x5F]
        let exits = defines(lines, prefix: "SVM_EXIT_").filter { range[$0.name] == nil }
        // The small ones are what a guest passes along with an event.
        let events = defines(lines, prefix: "SVM_VMGEXIT_").filter { $0.code >= 0x8000_0000 }
        check(exits + events, in: .svm, atLeast: 100)
        for vector in UInt32(0)..<32 {
            #expect(ReasonVocabulary.svm.name(0x40 + vector).hasPrefix("SVM_EXIT_EXCP_"))
        }
    }

    private func check(_ defined: [(name: String, code: UInt32)], in vocabulary: ReasonVocabulary, atLeast: Int) {
        #expect(defined.count >= atLeast, "the header reads differently than it used to")
        for (name, code) in defined {
            #expect(vocabulary.name(code) == name, "\(name) is \(code) in the header")
        }
    }

    /// Every `#define` of a number whose name starts with the prefix.
    private func defines(_ lines: some Sequence<Substring>, prefix: String) -> [(name: String, code: UInt32)] {
        lines.compactMap { line in
            let words = line.split { $0 == " " || $0 == "\t" }
            guard words.count >= 3, words[0] == "#define", words[1].hasPrefix(prefix) else { return nil }
            guard let code = number(words[2]) else { return nil }
            return (String(words[1]), code)
        }
    }

    private func number(_ word: Substring) -> UInt32? {
        let digits = word.lowercased().prefix { $0 != "u" && $0 != "l" }
        let value = digits.hasPrefix("0x") ? Int64(digits.dropFirst(2), radix: 16) : Int64(digits)
        return value.map { UInt32(truncatingIfNeeded: $0) }
    }
}

/// A header of linux-libc-dev.
private enum KernelHeader: String {
    case kvm = "linux/kvm.h"
    case vmx = "asm/vmx.h"
    case svm = "asm/svm.h"

    static let advice: Comment = "the header is not installed; on Debian: apt-get install linux-libc-dev"

    private var path: String? {
        ["/usr/include/", "/usr/include/x86_64-linux-gnu/"]
            .map { $0 + rawValue }
            .first { FileManager.default.fileExists(atPath: $0) }
    }

    /// CI has to have the headers: there the test runs without one, and fails.
    var isToBeTested: Bool {
        path != nil || ProcessInfo.processInfo.environment["CI"] != nil
    }

    func lines() throws -> [Substring] {
        let path = try #require(self.path, KernelHeader.advice)
        let text = try String(contentsOfFile: path, encoding: .utf8)
        return text.split(separator: "\n", omittingEmptySubsequences: false)
    }
}
