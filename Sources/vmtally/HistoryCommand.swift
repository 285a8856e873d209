// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc

/// `vmtally history`: the program vmtally-history beside this one.
struct HistoryCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "history",
        abstract: "Recordings of boots in one SQLite file: add, list, trend, compare, remove.",
        discussion: "A program of its own, vmtally-history: `make history`, or the package of that name."
    )

    @Argument(
        parsing: .captureForPassthrough, help: ArgumentHelp("See vmtally history help.", valueName: "arguments"),
        completion: .custom { words, _, prefix in Completions.history(words, prefix) })
    var arguments: [String] = []

    /// Of `vmtally history help`, which the program itself has in full.
    static let overview = """
        OVERVIEW: Recordings of boots in one SQLite file: how a project's boot goes over its commits.

        USAGE: vmtally history <subcommand> [--db <file>]

        SUBCOMMANDS:
          add [--revision <commit>] <file>     Add a recording of vmtally boot.
          list                                 What the history holds.
          trend [--only <words>]               Medians of each configuration, recording by recording.
          compare [--fail-above <share>] <file>
                                               Compare a recording with the newest one.
          remove <number>                      Remove a recording.

        """

    func run() throws {
        try Installation.become("vmtally-history", arguments, overview: Self.overview, brings: "SQLite")
    }
}
