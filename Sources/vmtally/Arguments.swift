// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import CLinux
import Rendering

/// The command line, without /proc: see startup.c.
enum Arguments {
    /// Without the program's name.
    ///
    /// - Throws: `ValidationError` for what is not UTF-8: repaired, it would name another file.
    static func read() throws -> [String] {
        var count: Int32 = 0
        guard let words = vmtally_arguments(&count), count > 1 else { return [] }
        return try (1..<Int(count)).compactMap { words[$0] }.map { word in
            guard let text = String(validatingCString: word) else {
                throw ValidationError(
                    "'\(printable(String(cString: word)))' is not UTF-8: rename the file, or reach it by a link of another name"
                )
            }
            return text
        }
    }

    /// As given, for a program that takes our place.
    static var all: [String] {
        var count: Int32 = 0
        guard let words = vmtally_arguments(&count) else { return [] }
        return (0..<Int(count)).compactMap { words[$0] }.map { String(cString: $0) }
    }
}
