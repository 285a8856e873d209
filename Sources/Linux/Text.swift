// SPDX-License-Identifier: Apache-2.0
import Glibc

package func hex(_ value: some BinaryInteger) -> String {
    "0x" + String(value, radix: 16)
}

package func hex(_ range: Range<UInt64>) -> String {
    "\(hex(range.lowerBound))-\(hex(range.upperBound))"
}

package func describe(errno: Int32) -> String {
    String(cString: strerror(errno))
}

package func monotonicNanoseconds() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

/// The monotonic time so many milliseconds from now, ns; 0 means never.
package func deadline(milliseconds: Int) -> UInt64 {
    milliseconds > 0 ? monotonicNanoseconds() + UInt64(milliseconds) * 1_000_000 : .max
}
