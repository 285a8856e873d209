// SPDX-License-Identifier: Apache-2.0
import CBenchmarks
import FoundationEssentials
import Glibc
import KVM
import Rendering
import ThisHost

/// A benchmark could not be run.
struct BenchmarkError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}

/// Where and with what figures were taken.
struct Setting: Encodable {
    let date: String
    let host: HostIdentity
    let cpus: Int
    let swift: String
    let c: String
    /// Commit of the sources; a + after it: changed since.
    let commit: String

    init() throws {
        let system = try System()
        let vcpu = try system.createVM().createVCPU(id: 0)
        host = HostIdentity(tscKHz: (try? vcpu.tscKHz()) ?? 0)
        cpus = sysconf(Int32(_SC_NPROCESSORS_ONLN))
        date = Self.output(of: "date -u +%Y-%m-%d")
        swift = Self.output(of: "swiftc --version 2>/dev/null | grep -o 'Swift version.*'")
        // Name and version, without where it was built from.
        c = String(String(cString: plain_loop_compiler()).prefix { $0 != "(" }.dropLast())
        let changes = Self.output(
            of: "git status --porcelain -- Package.swift Sources Benchmarks ':!Benchmarks/results'")
        commit = Self.output(of: "git rev-parse --short HEAD") + (changes.isEmpty ? "" : "+")
    }

    var lines: [String] {
        [
            "date     \(date)",
            "machine  \(host.cpu), \(cpus) CPUs, TSC \(host.tscKHz) kHz",
            "host     \(host.backend), Linux \(host.kernel)",
            "swift    \(swift), static release build",
            "c        \(c), -O2",
            "commit   \(commit)",
        ]
    }

    /// For file names: what the figures depend on most.
    var name: String {
        String(
            "\(host.cpu) \(host.backend)".lowercased().map {
                $0.isASCII && ($0.isLetter || $0.isNumber) || $0 == "_" ? $0 : "-"
            })
    }

    private static func output(of command: String) -> String {
        guard let pipe = popen(command, "r") else { return "unknown" }
        defer { pclose(pipe) }
        var text = [UInt8]()
        while case let byte = fgetc(pipe), byte != EOF {
            text.append(UInt8(truncatingIfNeeded: byte))
        }
        return String(decoding: text.prefix { $0 != 0x0A }, as: UTF8.self)
    }
}

/// One benchmark's results: as text to read, as JSON to compare.
struct Results: Encodable {
    let schema = "vmtally.benchmark/1"
    let benchmark: String
    /// How to run it again.
    let command: String
    let setting: Setting
    let figures: [Figure]

    func text() -> String {
        var table = TextTable(header: [benchmark, "median", "95 % interval", "unit", "n", "of medians", ""])
        figures.forEach { table.add($0.cells) }
        return (setting.lines + ["again    \(command)", ""] + table.lines()).joined(separator: "\n") + "\n"
    }

    func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self) + "\n"
    }

    /// Writes both beside the results of other machines.
    func record(in folder: String) throws {
        for (suffix, content) in [("txt", text()), ("json", try json())] {
            let path = "\(folder)/\(benchmark)-\(setting.name).\(suffix)"
            guard let file = fopen(path, "we") else {
                throw BenchmarkError("\(path): \(String(cString: strerror(errno)))")
            }
            fputs(content, file)
            fclose(file)
        }
    }
}
