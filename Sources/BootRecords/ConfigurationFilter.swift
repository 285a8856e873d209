// SPDX-License-Identifier: Apache-2.0
/// Picks configurations by words of their names, as a user gives them: `console=virtio,cpus=1`.
public struct ConfigurationFilter: Sendable, CustomStringConvertible {
    private let words: [Substring]

    /// Words that `vmtally boot` takes for others.
    private static let aliases: [Substring: Substring] = ["console=8250": "console=serial"]

    /// - Parameter text: separated by commas or spaces; none: all configurations.
    public init(_ text: some StringProtocol) {
        words = Substring(text).split { $0 == " " || $0 == "," }.map { Self.aliases[$0] ?? $0 }
    }

    /// It takes all configurations.
    public var isEmpty: Bool { words.isEmpty }
    /// The words, with spaces between.
    public var description: String { words.joined(separator: " ") }

    /// Whether a configuration's name has them all.
    public func match(_ name: String) -> Bool {
        let own = name.split(separator: " ")
        return words.allSatisfy { own.contains($0) }
    }
}
