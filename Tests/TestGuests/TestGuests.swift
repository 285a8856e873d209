// SPDX-License-Identifier: Apache-2.0
/// Bare-metal guests that only tests run.
public enum TestGuests {
    /// Compares what the VMM answers with what KVM answers, leaf by leaf (guest-probe/CPUIDWalk).
    public static var cpuidWalk: UnsafeRawBufferPointer {
        withUnsafeBytes(of: &GuestImageCPUIDWalk.words) {
            UnsafeRawBufferPointer(rebasing: $0[..<GuestImageCPUIDWalk.count])
        }
    }

    /// Reads the tally over and over (guest-probe/PageReadings).
    ///
    /// - Parameters:
    ///   - user: readings of the page by ring 3.
    ///   - others: of each other way.
    public static func pageReadings(user: UInt64, others: UInt64) -> [UInt8] {
        var image = withUnsafeBytes(of: &GuestImagePageReadings.words) { Array($0[..<GuestImagePageReadings.count]) }
        let mark = Array("PageReadingsPlan".utf8)
        guard let start = image.indices.dropLast(mark.count + 16).first(where: { image[$0...].starts(with: mark) })
        else {
            return []
        }
        for (index, value) in [user, others].enumerated() {
            for byte in 0..<8 {
                image[start + mark.count + index * 8 + byte] = UInt8(truncatingIfNeeded: value >> (byte * 8))
            }
        }
        return image
    }
}
