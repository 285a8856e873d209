// SPDX-License-Identifier: Apache-2.0

/// As recordings have it: counts by the kernel's names, without times.
extension ExitCounts: Codable {
    enum CodingKeys: String, CodingKey {
        case source, vocabulary, total
        case byReason = "by_reason"
    }

    /// Counts by name; times are left out.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(source, forKey: .source)
        try container.encode(total, forKey: .total)
        try container.encodeIfPresent(vocabulary?.key, forKey: .vocabulary)
        try container.encodeIfPresent(byName, forKey: .byReason)
    }

    /// Older recordings do not name the vocabulary; their reasons do.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        let source = try container.decode(Source.self, forKey: .source)
        let total = try container.decode(UInt64.self, forKey: .total)
        guard let byName = try container.decodeIfPresent([String: UInt64].self, forKey: .byReason) else {
            self.init(source: source, total: total)
            return
        }
        guard byName.values.reduce(into: UInt64(0), { $0 &+= $1 }) == total else {
            throw Contradiction()
        }
        let key = try container.decodeIfPresent(String.self, forKey: .vocabulary)
        self.init(source: source, byName: byName, key.flatMap(TallyFeatures.Vocabulary.init(key:)))
    }

    private struct Contradiction: Error, CustomStringConvertible {
        var description: String { "total is not the sum of by_reason" }
    }

    /// By the kernel's names, which tell their vocabulary. What has no code in it counts as `other`.
    public init(source: Source, byName: [String: UInt64], _ vocabulary: TallyFeatures.Vocabulary? = nil) {
        let known = byName.compactMap { name, count in
            ReasonVocabulary.reason(named: name).map { (vocabulary: $0.vocabulary, code: $0.code, count: count) }
        }
        let vocabulary = vocabulary ?? known.first?.vocabulary ?? .kvm
        let own = known.filter { $0.vocabulary == vocabulary }
        let rest = byName.values.reduce(0, &+) &- own.reduce(0) { $0 &+ $1.count }
        self.init(
            source: source, vocabulary: vocabulary,
            reasons: own.map { Reason(code: $0.code, count: $0.count) }
                + (rest > 0 ? [Reason(code: nil, count: rest)] : []))
    }
}

extension TallyFeatures.Vocabulary {
    /// The short name in reports and JSON: `kvm`, `vmx` or `svm`.
    public var key: String { ReasonVocabulary.vocabulary(self).key.description }

    init?(key: String) {
        guard let vocabulary = [Self.kvm, .vmx, .svm].first(where: { $0.key == key }) else { return nil }
        self = vocabulary
    }
}

extension ReasonVocabulary {
    private static let named: [String: (vocabulary: TallyFeatures.Vocabulary, code: UInt32)] =
        [kvm, vmx, svm].reduce(into: [:]) { named, vocabulary in
            for reason in vocabulary.reasons {
                named[reason.name.description] = (vocabulary.id, reason.code)
            }
        }

    /// The inverse of ``name(_:)``; nil for what is no such name.
    public static func reason(named name: String) -> (vocabulary: TallyFeatures.Vocabulary, code: UInt32)? {
        if let reason = named[name] { return reason }
        for vocabulary in [kvm, vmx, svm] {
            let prefix = vocabulary.prefix.description + "0x"
            guard name.hasPrefix(prefix), let code = UInt32(name.dropFirst(prefix.count), radix: 16) else { continue }
            return (vocabulary.id, code)
        }
        return nil
    }
}
