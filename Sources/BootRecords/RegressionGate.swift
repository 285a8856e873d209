// SPDX-License-Identifier: Apache-2.0

/// What a limit on growth comes to: `--fail-above`.
///
/// A gate passes only when it could see all that it is to judge.
public struct RegressionGate: Equatable, Sendable {
    /// What a gate says.
    public enum Verdict: String, Codable, Sendable {
        case passed
        case regression
        /// Nothing grew too much, as far as could be seen; what could not is in ``RegressionGate/unjudged``.
        case notJudged = "not judged"
    }

    /// What may grow, and by what share.
    public let limit: Double
    /// What grew by more.
    public let regressions: [String]
    /// Why something could not be judged.
    public let unjudged: [String]

    /// What was found.
    public init(limit: Double, regressions: [String], unjudged: [String]) {
        self.limit = limit
        self.regressions = regressions
        self.unjudged = unjudged
    }

    /// A regression, if there is any; passed, if all could be judged.
    public var verdict: Verdict {
        !regressions.isEmpty ? .regression : !unjudged.isEmpty ? .notJudged : .passed
    }

    /// The exit status of a command that has the gate.
    public var status: Int32 {
        switch verdict {
        case .passed: 0
        case .regression: 2
        case .notJudged: 3
        }
    }
}

/// A share as people write it: `2%`, or `0.02`.
public struct Share: Equatable, Sendable {
    /// 0.02 for 2 %.
    public let value: Double

    /// - Throws: ``ShareError``; for a bare number from 1 on too, of which half the readers think that it is in percent.
    public init(_ text: String) throws(ShareError) {
        let isPercent = text.hasSuffix("%")
        guard let number = Double(isPercent ? text.dropLast() : text[...]), number >= 0, number < 100_000 else {
            throw .notAShare(text)
        }
        guard isPercent || number < 1 else { throw .ambiguous(text) }
        value = isPercent ? number / 100 : number
    }
}

/// Why a text is not a share.
public enum ShareError: Error, Equatable, CustomStringConvertible {
    case notAShare(String)
    case ambiguous(String)

    /// What is wrong with the text, and the remedy.
    public var description: String {
        switch self {
        case .notAShare(let text): "'\(text)' is not a share: give 2% or 0.02"
        case .ambiguous(let text): "'\(text)' could be a share or a percentage: give \(text)% or a number below 1"
        }
    }
}
