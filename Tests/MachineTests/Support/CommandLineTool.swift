// SPDX-License-Identifier: Apache-2.0
import Foundation

/// The built `vmtally`, run by a shell under a wall clock.
enum CommandLineTool {
    /// Beside the test bundle; nil when it has not been built.
    static let path: String? = {
        guard let own = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe") else { return nil }
        let tool = URL(fileURLWithPath: own).deletingLastPathComponent().appendingPathComponent("vmtally").path
        return FileManager.default.isExecutableFile(atPath: tool) ? tool : nil
    }()

    /// Why its tests cannot run; nil when they can.
    static var missing: String? {
        path == nil ? "the executable vmtally is not built: swift build" : Host.noKVM
    }

    /// Seconds after which a script is taken to hang. No test judges how long one takes.
    static let hang = 3600

    struct Outcome: Sendable {
        let status: Int32
        let output: String
        let error: String

        /// What `--stats-json` wrote, where `output` is that and nothing else.
        var json: [String: Any]? {
            (try? JSONSerialization.jsonObject(with: Data(output.utf8))) as? [String: Any]
        }
    }

    /// Runs a shell script with $VMTALLY and the $variables given; a script that hangs is killed and ends with 137.
    ///
    /// - Parameters:
    ///   - signal: sent to the tool once it has written something to standard output; then the script must be one `exec`.
    ///   - isSentAgain: and then every 0.3 ms, as long as the tool is there.
    static func run(
        _ script: String, _ variables: [String: String] = [:], seconds: Int = hang, signal: Int32? = nil,
        isSentAgain: Bool = false
    ) throws -> Outcome {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        let output = Pipe()
        let error = Pipe()
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = output
        process.standardError = error
        process.environment = ProcessInfo.processInfo.environment.merging(variables) { $1 }
            .merging(["VMTALLY": path ?? ""]) { $1 }
        process.arguments = ["-c", script]
        try process.run()
        let watchdog = DispatchWorkItem { kill(process.processIdentifier, SIGKILL) }
        DispatchQueue.global().asyncAfter(deadline: .now() + .seconds(seconds), execute: watchdog)
        nonisolated(unsafe) var errorBytes = Data()
        let errors = DispatchQueue(label: "errors")
        errors.async { errorBytes = error.fileHandleForReading.readDataToEndOfFile() }
        var outputBytes = Data()
        if let signal {
            outputBytes = output.fileHandleForReading.availableData
            kill(process.processIdentifier, signal)
            while isSentAgain, process.isRunning {
                usleep(300)
                kill(process.processIdentifier, signal)
            }
        }
        outputBytes += output.fileHandleForReading.readDataToEndOfFile()
        errors.sync {}
        process.waitUntilExit()
        watchdog.cancel()
        let status =
            process.terminationReason == .exit ? process.terminationStatus : 128 + process.terminationStatus
        return Outcome(
            status: status, output: String(decoding: outputBytes, as: UTF8.self),
            error: String(decoding: errorBytes, as: UTF8.self))
    }
}
