// SPDX-License-Identifier: Apache-2.0
import BootRecords
import Glibc
import HostView
import Linux

/// What a shell offers where it takes more than a file's name or a list.
enum Completions {
    /// Recordings, and behind a colon the words of their configurations.
    static func recordings(_ prefix: String) -> [String] {
        guard let colon = prefix.lastIndex(of: ":") else { return files(prefix) }
        let path = String(prefix[..<colon])
        guard let image = try? FileImage(path: path, limit: documentLimit),
            let recording = try? BootRecording(json: Array(image.bytes))
        else { return [] }
        let words = recording.configurations.flatMap { $0.name.split(separator: " ").map(String.init) }
        return list(String(prefix[prefix.index(after: colon)...]), of: Set(words).sorted()).map { "\(path):\($0)" }
    }

    /// Words of a list with commas: what has been typed stays.
    static func list(_ prefix: String, of words: [String]) -> [String] {
        let typed = prefix.split(separator: ",", omittingEmptySubsequences: false)
        let head = typed.dropLast().map { $0 + "," }.joined()
        return words.filter { !typed.dropLast().contains(Substring($0)) }.map { head + $0 }
    }

    /// The names of the VMs that run, each once.
    static var machines: [String] { Set(RunningMachine.all().map(\.name)).sorted() }

    /// Of `vmtally history`.
    static func history(_ words: [String], _ prefix: String) -> [String] {
        let commands = ["add", "compare", "list", "remove", "trend"]
        guard let start = words.firstIndex(of: "history"),
            let command = words[words.index(after: start)...].first(where: { !$0.isEmpty && !$0.hasPrefix("-") }),
            commands.contains(command)
        else { return commands + ["help"] }
        if prefix.hasPrefix("-") {
            return ["--db", "--csv"] + (command == "compare" ? ["--fail-above", "--with", "--json", "--all"] : [])
                + (command == "trend" ? ["--only", "--last"] : []) + (command == "add" ? ["--revision"] : [])
        }
        return command == "list" || command == "trend" ? [] : files(prefix)
    }

    /// Files whose names go on like this, folders with a slash; 1,000 at most.
    private static func files(_ prefix: String) -> [String] {
        let folder = prefix.lastIndex(of: "/").map { String(prefix[...$0]) } ?? ""
        guard let directory = opendir(folder.isEmpty ? "." : folder) else { return [] }
        defer { closedir(directory) }
        var found: [String] = []
        while found.count < 1000, let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            let path = folder + name
            guard path.hasPrefix(prefix), !name.hasPrefix(".") else { continue }
            var status = stat()
            found.append(stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR ? path + "/" : path)
        }
        return found.sorted()
    }
}
