// SPDX-License-Identifier: Apache-2.0
// The helpers that build a String, in a file of their own: a freestanding guest leaves it out and prints
// ``ExitReason/name`` byte by byte.

extension ReasonVocabulary {
    /// The kernel's name of a code, `KVM_EXIT_IO`; of a code that is not defined, its number behind the vocabulary's
    /// prefix, such as `KVM_EXIT_0x2a` or `SVM_EXIT_0x7fffffff`, lower-case and without leading zeros.
    public func name(_ code: UInt32) -> String {
        reason(code)?.name.description ?? prefix.description + "0x" + String(code, radix: 16)
    }

    /// One line on what the code means; of a code that is not defined, that it is not.
    public func meaning(_ code: UInt32) -> String {
        reason(code)?.meaning.description ?? "not defined by this vocabulary"
    }
}
