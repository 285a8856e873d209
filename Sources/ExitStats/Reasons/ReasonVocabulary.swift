// SPDX-License-Identifier: Apache-2.0
/// One exit reason: the number that the interface gives, the name that the kernel gives it, and what happened.
public struct ExitReason: Sendable {
    /// The number, as a query of ``TallyLeaf/reason`` carries it in ECX.
    public let code: UInt32
    /// The kernel's name in full, such as `KVM_EXIT_IO`. Where the kernel has none for a code that the manual
    /// defines, a name made in the same style.
    public let name: StaticString
    /// One line: what made the guest stop.
    public let meaning: StaticString

    // No initializer of its own: with the memberwise one the compiler turns an array literal of reasons into constant
    // data, without it into code that fills a heap array at first use.
}

/// A set of reason codes: what ``TallyFeatures/vocabulary`` names.
///
/// The host and the guest probe share it, so it needs neither Foundation nor a heap: the tables are constant data.
public struct ReasonVocabulary: Sendable {
    /// The number of this vocabulary in EDX of ``TallyLeaf/features``.
    public let id: TallyFeatures.Vocabulary
    /// The short name in reports and JSON: `kvm`, `vmx` or `svm`.
    public let key: StaticString
    /// What starts the name of a code that is not in the table, and of most that are.
    public let prefix: StaticString
    /// Every reason that is defined, by ascending code.
    public let reasons: [ExitReason]

    /// The vocabulary that a guest is told of by ``TallyFeatures/vocabulary``.
    public static func vocabulary(_ id: TallyFeatures.Vocabulary) -> ReasonVocabulary {
        switch id {
        case .kvm: .kvm
        case .vmx: .vmx
        case .svm: .svm
        }
    }

    /// The reason of this code; nil when the vocabulary does not define it.
    public func reason(_ code: UInt32) -> ExitReason? {
        guard let index = index(of: code) else { return nil }
        return reasons[index]
    }

    /// True when the vocabulary has a meaning for this code: a query for it is answered, if only by zeros.
    public func defines(_ code: UInt32) -> Bool {
        index(of: code) != nil
    }

    /// Where in ``reasons`` this code is; nil when it is not defined.
    public func index(of code: UInt32) -> Int? {
        // All three tables begin with a run in which the index is the code, and nearly every exit falls into it.
        let guess = Int(code)
        if guess < reasons.count, reasons[guess].code == code {
            return guess
        }
        var low = 0
        var high = reasons.count
        while low < high {
            let middle = (low + high) / 2
            if reasons[middle].code < code {
                low = middle + 1
            } else {
                high = middle
            }
        }
        return low < reasons.count && reasons[low].code == code ? low : nil
    }
}
