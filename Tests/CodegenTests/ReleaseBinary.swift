// SPDX-License-Identifier: Apache-2.0
import Foundation

/// The release build of `vmtally` with its symbols, as `make test` leaves it.
enum ReleaseBinary {
    /// VMTALLY_RELEASE, or where the Makefile's build puts it.
    static let path: String = {
        let package = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        return ProcessInfo.processInfo.environment["VMTALLY_RELEASE"]
            ?? package.appending(path: ".build-static/release/vmtally").path
    }()

    /// Whether the tests of the release build can run. In CI they do, and fail without it.
    static var isThere: Bool {
        ProcessInfo.processInfo.environment["CI"] != nil || FileManager.default.fileExists(atPath: path)
    }

    /// The machine code of the function whose mangled name ends so.
    static func listing(_ mangled: String) throws -> Listing {
        let text = try output(["objdump", "-d", "--no-show-raw-insn", "--disassemble=\(mangled)", path])
        return Listing(symbol: mangled, text: text)
    }

    /// The functions whose mangled names contain this.
    static func functions(containing part: String) throws -> [String] {
        try output(["nm", "--defined-only", path]).split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ")
            guard words.count == 3, ["t", "T"].contains(words[1]), words[2].contains(part) else { return nil }
            return String(words[2])
        }
    }

    private static func output(_ command: [String]) throws -> String {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = command
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        let bytes = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return String(decoding: bytes, as: UTF8.self)
    }
}
