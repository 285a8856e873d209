// SPDX-License-Identifier: Apache-2.0
import Foundation
import PackagePlugin

/// Builds the BPF programs of bpf/ and turns each into a Swift source of the target that uses the plugin: how, is
/// bpf/build's business.
@main
struct BPFPrograms: BuildToolPlugin {
    func createBuildCommands(context: PluginContext, target: any Target) throws -> [Command] {
        let folder = context.package.directoryURL.appending(path: "bpf")
        let script = folder.appending(path: "build")
        var environment = try ["CLANG": "clang", "OBJCOPY": "llvm-objcopy"].mapValues {
            try context.tool(named: $0).url.path
        }
        environment["PATH"] = ProcessInfo.processInfo.environment["PATH"]

        return try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
            .filter { $0.lastPathComponent.hasSuffix(".bpf.c") }
            .sorted { $0.path < $1.path }
            .map { program in
                let name = String(program.lastPathComponent.dropLast(".bpf.c".count))
                let object = context.pluginWorkDirectoryURL.appending(path: "\(name).bpf.o")
                let source = context.pluginWorkDirectoryURL.appending(path: "\(name).swift")
                return .buildCommand(
                    displayName: "Building BPF program \(name)",
                    executable: URL(filePath: "/bin/sh"),
                    arguments: [script.path, name, object.path, source.path],
                    environment: environment,
                    inputFiles: [script, program, folder.appending(path: "exits.h")],
                    outputFiles: [source])
            }
    }
}
