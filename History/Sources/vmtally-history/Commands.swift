// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import BootRecords
import Foundation
import Rendering
import Reports

/// `vmtally history`, a program of its own: SQLite and all that it takes stay out of the one that runs guests.
@main
struct HistoryCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vmtally history",
        abstract: "Recordings of boots in one SQLite file: how a project's boot goes over its commits.",
        subcommands: [Add.self, List.self, Trend.self, Compare.self, Remove.self]
    )

    static func main() {
        // Swift finds its arguments by way of /proc.
        guard !CommandLine.arguments.isEmpty else {
            exit(withError: HistoryError("the command line is read by way of /proc: mount -t proc none /proc"))
        }
        // A file that grows too large is an error of the write, with a message.
        signal(SIGXFSZ, SIG_IGN)
        main(nil)
    }
}

/// Where the history is.
struct Store: ParsableArguments {
    @Option(help: ArgumentHelp("The history.", valueName: "file"), completion: .file())
    var db = "vmtally-history.sqlite"

    /// What a command reads and writes besides must not be the history, or one another.
    func check(recording: String? = nil, csv: String?, json: String? = nil) throws {
        var files = NamedFiles()
        for ending in ["", "-journal", "-wal", "-shm"] { files.input("--db", db + ending) }
        files.input("the recording", recording)
        files.output("--csv", csv)
        files.output("--json", json)
        try files.check()
    }

    func open(for purpose: History.Purpose) throws -> History { try History(path: db, for: purpose) }
}

/// More than a recording of 10,000 boots has.
private let recordingLimit = 256 << 20

func readRecording(_ path: String) throws -> BootRecording {
    // Not waiting for the other end of a FIFO, and not for the end of a device.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw HistoryError("\(path): \(String(cString: strerror(errno)))") }
    let file = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_size <= recordingLimit else {
        throw HistoryError("\(path): no file that a recording can be in")
    }
    do {
        return try BootRecording(json: Array(try file.readToEnd() ?? Data()))
    } catch let error as BootRecordingError {
        throw HistoryError("\(path): \(error)")
    } catch {
        throw HistoryError("\(path): cannot be read (\((error as NSError).localizedDescription))")
    }
}

/// Writes lines to standard output that may quote a file; what is not taken is an error.
func say(_ text: String) throws {
    do {
        try FileHandle.standardOutput.write(contentsOf: Data((printable(text) + "\n").utf8))
    } catch {
        throw HistoryError("standard output: \((error as NSError).localizedDescription)")
    }
}

func day(_ seconds: Int) -> String {
    Date(timeIntervalSince1970: TimeInterval(seconds)).formatted(.iso8601.year().month().day())
}

/// `--csv` of what prints a table.
struct ValuesOption: ParsableArguments {
    @Option(
        help: ArgumentHelp("Write comma-separated values here; - is standard output.", valueName: "file"),
        completion: .file())
    var csv: String?

    /// The table, or what was asked for in its place.
    func show(_ lines: @autoclosure () -> [String], _ values: @autoclosure () -> CSV) throws {
        if csv != "-" { try say(lines().joined(separator: "\n")) }
        if let csv { try write(values().text, to: csv) }
    }
}

/// Writes a file whole or not at all, where links lead; devices and FIFOs as they are.
func write(_ text: String, to path: String) throws {
    do {
        var status = stat()
        if path == "-" {
            try FileHandle.standardOutput.write(contentsOf: Data(text.utf8))
        } else if stat(path, &status) == 0, status.st_mode & S_IFMT != S_IFREG {
            // Not waiting for a FIFO's reader.
            let descriptor = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
            guard descriptor >= 0 else { throw HistoryError("\(path): \(String(cString: strerror(errno)))") }
            _ = fcntl(descriptor, F_SETFL, 0)
            signal(SIGPIPE, SIG_IGN)
            try FileHandle(fileDescriptor: descriptor, closeOnDealloc: true).write(contentsOf: Data(text.utf8))
        } else {
            try Data(text.utf8).write(to: URL(fileURLWithPath: NamedFiles.target(of: path)), options: .atomic)
        }
    } catch let error as HistoryError {
        throw error
    } catch {
        throw HistoryError("\(path): \((error as NSError).localizedDescription)")
    }
}

struct Add: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Add a recording of vmtally boot.")

    @OptionGroup var store: Store

    @Option(help: "What was recorded: a commit, a version.")
    var revision = ""

    @Argument(help: ArgumentHelp("A recording.", valueName: "file"), completion: .file())
    var file: String

    func validate() throws {
        guard revision.utf8.count <= 256, !revision.unicodeScalars.contains(where: { $0.value < 0x20 }) else {
            throw ValidationError("--revision takes one line of at most 256 bytes.")
        }
    }

    func run() throws {
        let recording = try readRecording(file)
        let id = try store.open(for: .add).add(recording, revision: revision)
        try say("recording \(id): \(([recording.label, revision].filter { !$0.isEmpty }).joined(separator: " "))")
    }
}

struct List: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "What the history holds.")

    @OptionGroup var store: Store
    @OptionGroup var values: ValuesOption

    func run() throws {
        try store.check(csv: values.csv)
        let header = ["number", "recorded", "revision", "label", "host kernel", "backend"]
        var table = TextTable(header: header, expendable: ["backend", "host kernel"])
        var csv = CSV(header: header)
        for entry in try store.open(for: .read).entries() {
            let row = [
                "\(entry.id)", day(entry.recorded), entry.revision, entry.label, entry.hostKernel, entry.backend,
            ]
            table.add(row)
            csv.add(row)
        }
        try values.show(table.lines(width: Terminal.columns(STDOUT_FILENO)), csv)
    }
}

struct Trend: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Medians of each configuration, recording by recording.")

    @OptionGroup var store: Store
    @OptionGroup var values: ValuesOption

    @Option(
        help: ArgumentHelp(
            "Only configurations with all these words, such as console=virtio,cpus=1.", valueName: "words"))
    var only: String?

    @Option(help: "Only the last N recordings.")
    var last = 20

    func run() throws {
        guard last > 0 else { throw ValidationError("--last takes a number from 1 on.") }
        try store.check(csv: values.csv)
        var before: History.Point?
        var table = TextTable(
            header: [
                "configuration", "number", "recorded", "revision", "runs", "VM exits", "less host interrupts", "",
                "userspace exits", "",
            ], expendable: ["VM exits", "runs", "recorded", "number"])
        var csv = CSV(header: [
            "configuration", "number", "recorded", "revision", "runs", "vm_exits", "less_host_interrupts",
            "userspace_exits",
        ])
        for point in try store.open(for: .read).trend(of: only, last: last) {
            let previous = before?.configuration == point.configuration ? before : nil
            table.add([
                previous == nil ? point.configuration : "", "\(point.id)", day(point.recorded), point.revision,
                "\(point.runs)", Self.number(point.hardware), Self.number(point.guest),
                Self.change(previous?.guest, point.guest), Self.number(point.userspace),
                Self.change(previous?.userspace, point.userspace),
            ])
            csv.add(
                [point.configuration, "\(point.id)", day(point.recorded), point.revision, "\(point.runs)"]
                    + [point.hardware, point.guest, point.userspace].map { $0.map { "\($0)" } ?? "" })
            before = point
        }
        try values.show(table.lines(width: Terminal.columns(STDOUT_FILENO)), csv)
    }

    private static func number(_ value: Double?) -> String {
        value.map { grouped(UInt64(max(0, min($0, 1e18)).rounded())) } ?? ""
    }

    private static func change(_ before: Double?, _ after: Double?) -> String {
        guard let before, let after, before > 0 else { return "" }
        return String(format: "%+.1f %%", 100 * (after - before) / before)
    }
}

struct Compare: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Compare a recording with one of the history, its newest unless told otherwise.",
        discussion: "Exit statuses with --fail-above are those of vmtally compare.")

    @OptionGroup var store: Store

    @Option(help: ArgumentHelp("The baseline's number. (default: the newest)", valueName: "number"))
    var with: Int64?

    @Option(help: ArgumentHelp("2% or 0.02.", valueName: "share"), transform: Share.init)
    var failAbove: Share?

    @Option(help: "Of the bootstrap and of the permutations.")
    var seed: UInt64 = 1

    @Flag(help: "Show also what did not change.")
    var all = false

    @OptionGroup var values: ValuesOption

    @Option(
        help: ArgumentHelp("Write the comparison as JSON here; - is standard output.", valueName: "file"),
        completion: .file())
    var json: String?

    @Argument(help: ArgumentHelp("A recording.", valueName: "file"), completion: .file())
    var file: String

    func run() throws {
        try store.check(recording: file, csv: values.csv, json: json)
        let candidate = try readRecording(file)
        guard let (id, found) = try store.open(for: .read).recording(with, besides: candidate) else {
            let message = "the history holds nothing to compare this recording with but itself"
            guard failAbove != nil else { throw HistoryError(message) }
            // A gate that has nothing to look at.
            FileHandle.standardError.write(Data("Error: \(message)\n".utf8))
            throw ExitCode(3)
        }
        var baseline = found
        baseline.label += " (\(id))"
        let comparison = BootComparison(baseline, candidate, seed: seed)
        guard !comparison.pairs.isEmpty else {
            throw HistoryError("\(file) and recording \(id) have no configuration in common")
        }
        let report = BootComparisonReport([comparison], limit: failAbove?.value, showsAll: all)
        if json == "-" {
            try write(try report.json(by: candidate.tool) + "\n", to: "-")
        } else {
            try values.show(report.lines(width: Terminal.columns(STDOUT_FILENO)), report.csv)
        }
        if let json, json != "-" { try write(try report.json(by: candidate.tool) + "\n", to: json) }
        if let gate = report.gate, gate.verdict != .passed { throw ExitCode(gate.status) }
    }
}

struct Remove: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Remove a recording.")

    @OptionGroup var store: Store

    @Argument(help: "Its number.")
    var number: Int64

    func run() throws {
        guard try store.open(for: .change).remove(number) else {
            throw HistoryError("there is no recording \(number): see vmtally history list")
        }
    }
}
