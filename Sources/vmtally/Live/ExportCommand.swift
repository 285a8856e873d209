// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc

/// `vmtally export`: the program vmtally-export beside this one.
struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export",
        abstract: "Exits of this host's VMs for Prometheus (OpenMetrics).",
        discussion: "A program of its own, vmtally-export; `make export` builds it."
    )

    @Argument(parsing: .captureForPassthrough, help: ArgumentHelp("See vmtally export --help.", valueName: "arguments"))
    var arguments: [String] = []

    func run() throws {
        let program = ReadyGuest.programFolder + "/vmtally-export"
        let words = [program] + arguments
        var argv: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        execv(program, &argv)
        throw Failure("\(program): \(String(cString: strerror(errno))). Run make export")
    }
}
