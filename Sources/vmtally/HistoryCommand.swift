// SPDX-License-Identifier: Apache-2.0
import ArgumentParser

/// `vmtally history`: the program vmtally-history beside this one.
struct HistoryCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "history",
        abstract: "Recordings of boots in one SQLite file: add, list, trend, compare, remove.",
        discussion: "A program of its own, vmtally-history: `make history`, or the package of that name."
    )

    @Argument(parsing: .captureForPassthrough, help: ArgumentHelp("See vmtally history help.", valueName: "arguments"))
    var arguments: [String] = []

    func run() throws {
        try Installation.become("vmtally-history", arguments)
    }
}
