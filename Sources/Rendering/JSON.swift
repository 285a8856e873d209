// SPDX-License-Identifier: Apache-2.0
import FoundationEssentials

/// The encoding that all documents share.
package func encodeAsJSON(_ report: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    encoder.keyEncodingStrategy = .convertToSnakeCase
    return String(decoding: try encoder.encode(report), as: UTF8.self)
}
