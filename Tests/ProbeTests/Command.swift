// SPDX-License-Identifier: Apache-2.0
import Foundation

/// Runs programs of the toolchain and of the system.
enum Command {
    struct Result {
        let status: Int32
        /// What it said, errors included.
        let output: String
    }

    /// A program beside the Swift compiler in PATH, or in PATH itself.
    static func find(_ name: String) -> URL? {
        let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").map(String.init)
        let compilers = folders.map { URL(filePath: $0).appending(path: "swiftc").resolvingSymlinksInPath() }
        let candidates =
            compilers.map { $0.deletingLastPathComponent().appending(path: name) }
            + folders.map { URL(filePath: $0).appending(path: name) }
        return candidates.first { FileManager.default.isExecutableFile(atPath: $0.path) }
    }

    static func run(_ name: String, _ arguments: [String]) throws -> Result {
        guard let program = find(name) else { throw NotFound(name: name) }
        let process = Process()
        let output = Pipe()
        process.executableURL = program
        process.arguments = arguments
        process.standardOutput = output
        process.standardInput = FileHandle.nullDevice
        process.standardError = output
        try process.run()
        let data = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return Result(status: process.terminationStatus, output: String(decoding: data, as: UTF8.self))
    }

    struct NotFound: Error {
        let name: String
    }
}
