// SPDX-License-Identifier: Apache-2.0
import ExitStats
import SeededRandom
import Testing

/// By number, since a failing test prints its argument, and a table would fill the screen.
private let vocabularies: [TallyFeatures.Vocabulary] = [.kvm, .vmx, .svm]

@Suite("Reason vocabularies")
struct ReasonVocabularyTests {
    @Test("codes ascend, so each is there once and binary search works", arguments: vocabularies)
    func sorted(_ id: TallyFeatures.Vocabulary) {
        let vocabulary = ReasonVocabulary.vocabulary(id)
        for (reason, next) in zip(vocabulary.reasons, vocabulary.reasons.dropFirst()) {
            #expect(reason.code < next.code, "\(reason.name) is not below \(next.name)")
        }
    }

    @Test("names are unique, printable, and start as the vocabulary says", arguments: vocabularies)
    func names(_ id: TallyFeatures.Vocabulary) {
        let vocabulary = ReasonVocabulary.vocabulary(id)
        let names = vocabulary.reasons.map(\.name.description)
        #expect(Set(names).count == names.count)
        for name in names {
            // The header names SEV-ES events after the GHCB, not after the exit.
            let prefixes = vocabulary.id == .svm ? ["SVM_EXIT_", "SVM_VMGEXIT_"] : [vocabulary.prefix.description]
            #expect(prefixes.contains { name.hasPrefix($0) && name.count > $0.count }, "\(name)")
            #expect(name.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || $0 == 0x5F })
        }
    }

    @Test("every reason has a meaning of one line", arguments: vocabularies)
    func meanings(_ id: TallyFeatures.Vocabulary) {
        let vocabulary = ReasonVocabulary.vocabulary(id)
        for reason in vocabulary.reasons {
            let meaning = reason.meaning.description
            #expect(!meaning.isEmpty && !meaning.contains("\n") && meaning.count <= 80, "\(reason.name)")
        }
    }

    @Test("each code is found", arguments: vocabularies)
    func lookup(_ id: TallyFeatures.Vocabulary) {
        let vocabulary = ReasonVocabulary.vocabulary(id)
        for (index, reason) in vocabulary.reasons.enumerated() {
            #expect(vocabulary.index(of: reason.code) == index)
            #expect(vocabulary.defines(reason.code))
            #expect(vocabulary.reason(reason.code)?.code == reason.code)
            #expect(vocabulary.name(reason.code) == reason.name.description)
            #expect(vocabulary.meaning(reason.code) == reason.meaning.description)
        }
    }

    @Test("lookup agrees with a plain search, for codes near the defined ones and anywhere", arguments: vocabularies)
    func randomCodes(_ id: TallyFeatures.Vocabulary) {
        let vocabulary = ReasonVocabulary.vocabulary(id)
        var random = SplitMix64(seed: 0x7461_6C6C_79)
        var codes: [UInt32] = [0, .max]
        for reason in vocabulary.reasons {
            codes += [reason.code &- 1, reason.code &+ 1]
        }
        for _ in 0..<20_000 {
            // Shifted by a random amount, so that short codes come as often as long ones.
            codes.append(UInt32.random(in: 0 ... .max, using: &random) >> UInt32.random(in: 0..<32, using: &random))
        }
        let defined = Dictionary(uniqueKeysWithValues: vocabulary.reasons.map { ($0.code, $0.name.description) })
        var wrong: [UInt32] = []
        for code in codes {
            let name = defined[code] ?? "\(vocabulary.prefix)0x" + String(code, radix: 16)
            let agrees =
                vocabulary.defines(code) == (defined[code] != nil)
                && vocabulary.reason(code)?.name.description == defined[code]
                && vocabulary.name(code) == name
            if !agrees { wrong.append(code) }
        }
        #expect(wrong.isEmpty)
    }

    @Test("a code that is not defined is named by its number")
    func undefined() {
        #expect(ReasonVocabulary.kvm.name(0x2C) == "KVM_EXIT_0x2c")
        #expect(ReasonVocabulary.vmx.name(35) == "EXIT_REASON_0x23")
        #expect(ReasonVocabulary.svm.name(0x404) == "SVM_EXIT_0x404")
        #expect(ReasonVocabulary.svm.name(0x7FFF_FFFF) == "SVM_EXIT_0x7fffffff")
        #expect(ReasonVocabulary.kvm.reason(.max) == nil)
        #expect(!ReasonVocabulary.vmx.defines(0x8000_0021), "a whole exit reason, not its basic part")
    }

    @Test("the ABI's numbers lead to the right table")
    func ids() {
        #expect(vocabularies.map(\.rawValue) == [0, 1, 2])
        let tables = vocabularies.map(ReasonVocabulary.vocabulary)
        #expect(tables.map(\.id) == vocabularies)
        #expect(tables.map(\.key.description) == ["kvm", "vmx", "svm"])
    }

    @Test(
        "reasons newer than the oldest supported headers",
        arguments: [
            (.kvm, 39, "KVM_EXIT_MEMORY_FAULT"), (.kvm, 43, "KVM_EXIT_SNP_REQ_CERTS"),
            (.vmx, 74, "EXIT_REASON_BUS_LOCK"), (.vmx, 75, "EXIT_REASON_NOTIFY"),
            (.vmx, 84, "EXIT_REASON_MSR_READ_IMM"), (.vmx, 85, "EXIT_REASON_MSR_WRITE_IMM"),
            (.svm, 0xA6, "SVM_EXIT_IDLE_HLT"), (.svm, 0x8000_001A, "SVM_VMGEXIT_SAVIC"),
            (.svm, 0xFFFF_FFFF, "SVM_EXIT_ERR"),
        ] as [(TallyFeatures.Vocabulary, UInt32, String)])
    func newer(_ id: TallyFeatures.Vocabulary, _ code: UInt32, _ name: String) {
        #expect(ReasonVocabulary.vocabulary(id).name(code) == name)
    }
}
