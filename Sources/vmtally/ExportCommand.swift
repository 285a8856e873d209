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

    /// Of `vmtally export --help`, which the program itself has in full.
    static let overview = """
        OVERVIEW: Serves the exits of this host's VMs to Prometheus, as OpenMetrics.

        USAGE: vmtally export [--listen <addr:port>] [--histograms <vm|reason|none>] [--collector <collector>]

        """

    func run() throws {
        try Installation.become("vmtally-export", arguments, overview: Self.overview, brings: "SwiftNIO")
    }
}
