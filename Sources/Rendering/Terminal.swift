// SPDX-License-Identifier: Apache-2.0
import Glibc

/// How wide what we print may be.
public enum Terminal {
    /// Where sentences on standard output are to break; nowhere when a program reads them.
    public static var proseColumns: Int { isatty(STDOUT_FILENO) == 1 ? columns(STDOUT_FILENO) : .max }

    /// Columns of the terminal behind a descriptor, 80 or more; of COLUMNS, or 80, where there is none.
    public static func columns(_ descriptor: Int32) -> Int {
        var size = winsize()
        if ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 {
            return max(80, Int(size.ws_col))
        }
        let wished = getenv("COLUMNS").flatMap { Int(String(cString: $0)) } ?? 80
        return min(max(80, wished), 1000)
    }
}
