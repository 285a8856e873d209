// SPDX-License-Identifier: Apache-2.0

/// Digits in groups of three.
public func grouped(_ value: UInt64) -> String {
    var digits = Array(String(value))
    for position in stride(from: digits.count - 3, to: 0, by: -3) {
        digits.insert(",", at: position)
    }
    return String(digits)
}

/// How much of the whole, in percent; empty for nothing of nothing.
package func share(_ part: UInt64, _ whole: UInt64) -> String {
    whole == 0 ? "" : fixed(100 * Double(part) / Double(whole), 1) + " %"
}

/// A number with so many decimals.
package func fixed(_ value: Double, _ decimals: Int) -> String {
    var scale: UInt64 = 1
    for _ in 0..<decimals {
        scale *= 10
    }
    // Too large for that, or no number: as Swift writes it.
    guard value * Double(scale) < 1e18 else { return "\(value)" }
    let scaled = UInt64((max(0, value) * Double(scale)).rounded())
    guard decimals > 0 else { return "\(scaled)" }
    let fraction = String(scaled % scale)
    return "\(scaled / scale)." + String(repeating: "0", count: decimals - fraction.count) + fraction
}

/// Filled up with spaces; at least one follows a text.
package func padded(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(text.isEmpty ? 0 : 1, width - text.count))
}

/// TSC cycles as nanoseconds; nil where the TSC's frequency is not known.
///
/// - Parameter kHz: of the TSC; 0: unknown.
package func nanoseconds(_ cycles: UInt64, kHz: UInt32) -> UInt64? {
    guard kHz > 0 else { return nil }
    let product = cycles.multipliedFullWidth(by: 1_000_000)
    guard product.high < UInt64(kHz) else { return .max }
    let (quotient, remainder) = UInt64(kHz).dividingFullWidth(product)
    return quotient + (remainder * 2 >= UInt64(kHz) ? 1 : 0)
}
