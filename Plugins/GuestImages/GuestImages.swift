// SPDX-License-Identifier: Apache-2.0
import Foundation
import PackagePlugin

/// Builds the bare-metal guests of guest-probe and turns each into a Swift source of the target that uses the plugin.
///
/// Every folder NAME of guest-probe that holds a `Guest.swift` is a guest; a target gets those whose `GuestImageNAME`
/// its sources mention. How one is made is guest-probe/build's business; the plugin says what it is made of, so that it
/// is made anew when one of these files changes.
@main
struct GuestImages: BuildToolPlugin {
    func createBuildCommands(context: PluginContext, target: any Target) throws -> [Command] {
        let package = context.package.directoryURL
        let sources = try files(in: target.directoryURL).map { try String(contentsOf: $0, encoding: .utf8) }.joined()
        let guests = package.appending(path: "guest-probe")
        let script = guests.appending(path: "build")
        let shared =
            try files(in: guests.appending(path: "Runtime"))
            + files(in: guests.appending(path: "Runtime/include"))
            + files(in: guests.appending(path: "include"))
            + files(in: package.appending(path: "Sources/ExitStats/Leaf"))
        // No more of the environment than this: a change of it would build the guests anew.
        var environment = try ["SWIFTC": "swiftc", "CLANG": "clang", "LLD": "lld"].mapValues {
            try context.tool(named: $0).url.path
        }
        environment["PATH"] = ProcessInfo.processInfo.environment["PATH"]

        return try FileManager.default.contentsOfDirectory(at: guests, includingPropertiesForKeys: nil)
            .filter { FileManager.default.fileExists(atPath: $0.appending(path: "Guest.swift").path) }
            .filter { sources.contains("GuestImage\($0.lastPathComponent)") }
            .sorted { $0.path < $1.path }
            .map { folder in
                let name = folder.lastPathComponent
                let image = context.pluginWorkDirectoryURL.appending(path: "\(name).elf")
                let source = context.pluginWorkDirectoryURL.appending(path: "\(name).swift")
                return .buildCommand(
                    displayName: "Building guest \(name)",
                    executable: URL(filePath: "/bin/sh"),
                    arguments: [script.path, name, image.path, source.path],
                    environment: environment,
                    inputFiles: try [script] + files(in: folder) + shared,
                    outputFiles: [source])
            }
    }

    private func files(in folder: URL) throws -> [URL] {
        try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: [.isRegularFileKey])
            .filter { try $0.resourceValues(forKeys: [.isRegularFileKey]).isRegularFile == true }
            .sorted { $0.path < $1.path }
    }
}
