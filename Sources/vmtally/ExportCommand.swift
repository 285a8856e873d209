// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc

/// `vmtally export`: the program vmtally-export beside this one.
struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export",
        abstract: "Serves the exits of this host's VMs to Prometheus, as OpenMetrics.",
        discussion: "A program of its own, vmtally-export: `make export`, or the package of that name."
    )

    @Argument(parsing: .captureForPassthrough, help: ArgumentHelp("See vmtally export --help.", valueName: "arguments"))
    var arguments: [String] = []

    func run() throws {
        let name = "vmtally-export"
        let error = Installation.become(name, arguments)
        guard error == ENOENT else { throw Failure("\(name): \(String(cString: strerror(error)))") }
        throw Failure("\(name) is not here yet. \(Installation.companionRemedy(name)).")
    }
}
