// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Rendering

/// `--json` and `--csv` of a command that prints a table.
///
/// Parsed as `.next`: the parser's own way drops the file of `--json=FILE` when another option follows.
struct DocumentOptions: ParsableArguments {
    @Option(
        defaultAsFlag: "-", parsing: .next,
        help: ArgumentHelp(
            "Write JSON to this file; -, or no word behind it, is standard output, then in the table's place.",
            valueName: "file"),
        completion: .file())
    var json: String?

    @Option(
        defaultAsFlag: "-", parsing: .next,
        help: ArgumentHelp("Likewise comma-separated values.", valueName: "file"),
        completion: .file())
    var csv: String?

    func validate() throws { try Self.refuseOneForBoth(json: json, csv: csv) }

    static func refuseOneForBoth(json: String?, csv: String?) throws {
        guard json != "-" || csv != "-" else {
            throw ValidationError("--json and --csv cannot both have standard output: give one of them a file.")
        }
    }

    /// Then no table is printed.
    var takeStandardOutput: Bool { json == "-" || csv == "-" }

    /// Opens the files before the work is done.
    ///
    /// - Parameter confinement: see `OutputFile`.
    func open(_ confinement: OutputFile.Confinement = .none) throws -> Files {
        var named = NamedFiles()
        name(&named)
        try named.check()
        return Files(
            json: try OutputFile(optional: json, confinement),
            csv: try OutputFile(optional: csv, confinement))
    }

    func name(_ files: inout NamedFiles) {
        files.output("--json", json)
        files.output("--csv", csv)
    }

    struct Files: ~Copyable {
        private let json: OutputFile?
        private let csv: OutputFile?

        init(json: consuming OutputFile?, csv: consuming OutputFile?) {
            self.json = json
            self.csv = csv
        }

        /// Writes those that were asked for.
        func write(json text: @autoclosure () throws -> String, csv values: @autoclosure () throws -> CSV) throws {
            try json?.replaceContents(with: try text() + "\n")
            try csv?.replaceContents(with: try values().text)
        }
    }
}
