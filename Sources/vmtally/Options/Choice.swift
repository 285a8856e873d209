// SPDX-License-Identifier: Apache-2.0
import ArgumentParser

/// An option's value that is one word out of a few. What the parser asks of each option, given or not, is answered here
/// without the runtime's searches for conformances, of which a start would have a dozen more.
public protocol Choice: ExpressibleByArgument, CaseIterable, RawRepresentable where RawValue == String {}

extension Choice {
    public init?(argument: String) { self.init(rawValue: argument) }

    public var defaultValueDescription: String { rawValue }

    public static var allValueStrings: [String] { allCases.map { $0.rawValue } }

    public static var allValueDescriptions: [String: String] { [:] }

    public static var defaultCompletionKind: CompletionKind { .list(allValueStrings) }
}
