// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import BootRecords
import Glibc
import Linux
import Machine
import Rendering
import Reports

/// `vmtally compare`
struct CompareCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compare",
        abstract: "What changed between recordings of boots, and whether it is more than chance.",
        discussion: """
            The first recording is the baseline; each other one is set beside it. FILE:WORDS takes of a recording the \
            configurations with all these words, such as boots.json:console=virtio. What stands out from chance comes \
            first (docs/compare.md). With --fail-above: exit status 2 when something grew by more, 3 when nothing did as \
            far as could be seen, but something could not be judged.
            """
    )

    @Argument(
        help: ArgumentHelp("Recordings of vmtally boot.", valueName: "file"),
        completion: .custom { _, _, prefix in Completions.recordings(prefix) })
    var files: [String]

    @Option(
        help: ArgumentHelp(
            "Exit with status 2 when a total, or a reason's part of it, grew by more than this: 2% or 0.02.",
            valueName: "share"), transform: Share.init)
    var failAbove: Share?

    @Option(
        help: ArgumentHelp("Write the comparison as JSON here; - is standard output.", valueName: "file"),
        completion: .file())
    var json: String?

    @Option(
        help: ArgumentHelp("Write it as comma-separated values here; - is standard output.", valueName: "file"),
        completion: .file())
    var csv: String?

    @Option(help: ArgumentHelp("Write it as a self-contained page here.", valueName: "file"), completion: .file())
    var html: String?

    @Flag(help: "Show also what did not change.")
    var all = false

    @Option(help: "Of the bootstrap and of the permutations.")
    var seed: UInt64 = 1

    func validate() throws {
        guard files.count >= 2 else { throw ValidationError("Give two recordings or more: the baseline first.") }
    }

    func run() throws {
        var named = NamedFiles()
        for file in files { named.input("the recording", Self.path(file).path) }
        named.output("--json", json)
        named.output("--csv", csv)
        named.output("--html", html)
        try named.check()
        var recordings = try files.map(Self.read)
        // The words tell apart what has one name: two configurations of one recording.
        if Set(recordings.map(\.recording.label)).count < recordings.count {
            for index in recordings.indices where !recordings[index].words.isEmpty {
                recordings[index].recording.label += " \(recordings[index].words)"
            }
        }
        try compare(recordings.map(\.recording))
    }

    private func compare(_ recordings: [BootRecording]) throws {
        let comparisons = recordings.dropFirst().map {
            BootComparison(recordings[0], $0, seed: seed, comparisons: recordings.count - 1)
        }
        guard comparisons.contains(where: { !$0.pairs.isEmpty }) else {
            throw Failure(
                "these recordings have no configuration in common: "
                    + recordings.map { "\($0.label): \($0.configurations.map(\.name).joined(separator: ", "))" }
                    .joined(separator: "; ") + ". FILE:WORDS picks one of each")
        }
        let report = BootComparisonReport(comparisons, limit: failAbove?.value, showsAll: all)
        if json != "-", csv != "-" {
            say(report.lines(width: Terminal.columns(STDOUT_FILENO)).joined(separator: "\n"))
        }
        if let csv { try write(report.csv.text, to: csv) }
        if let json { try write(report.json(by: VMTally.tool) + "\n", to: json) }
        if let html { try write(BootComparisonPage(comparisons, limit: failAbove?.value).page.html(), to: html) }
        if let gate = report.gate, gate.verdict != .passed { throw ExitCode(gate.status) }
    }

    private static func path(_ argument: String) -> (path: String, words: ConfigurationFilter) {
        guard access(argument, F_OK) != 0, let colon = argument.lastIndex(of: ":") else {
            return (argument, ConfigurationFilter(""))
        }
        return (String(argument[..<colon]), ConfigurationFilter(argument[argument.index(after: colon)...]))
    }

    /// A recording, or those of its configurations that have the words after the file's last colon.
    private static func read(_ argument: String) throws -> (recording: BootRecording, words: ConfigurationFilter) {
        let (path, words) = path(argument)
        do {
            let image = try FileImage(path: path, limit: documentLimit)
            var recording = try BootRecording(json: Array(image.bytes))
            let all = recording.configurations
            recording.configurations = all.filter { words.match($0.name) }
            guard !recording.configurations.isEmpty else {
                throw Failure(
                    "\(path) has no configuration with \(words); it has: "
                        + all.map(\.name).joined(separator: "; "))
            }
            return (recording, words)
        } catch let error as BootRecordingError {
            throw Failure("\(path): \(error)")
        }
    }
}
