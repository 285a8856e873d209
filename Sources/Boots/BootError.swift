// SPDX-License-Identifier: Apache-2.0

/// A boot that did not reach its marker, or could not be begun.
package struct BootError: Error, CustomStringConvertible {
    package let description: String

    init(_ description: String) {
        self.description = description
    }
}
