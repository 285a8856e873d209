// SPDX-License-Identifier: Apache-2.0
import BootRecords
import Foundation
import GRDB
import Rendering
import Testing

@testable import vmtally_history

struct HistoryTests {
    private let path = NSTemporaryDirectory() + "/vmtally-history-test-\(UUID().uuidString).sqlite"

    private func recording(_ label: String, exits: [UInt64]) -> BootRecording {
        var configuration = [UInt8]("kernel".utf8).withUnsafeBytes {
            BootConfiguration(
                name: "console=none cpus=1", vmm: "vmtally", cpus: 1, memoryMiB: 256, console: "none",
                kernel: .init(name: "vmlinuz", contents: $0), initrd: nil, commandLine: "quiet", marker: "port 0xF5")
        }
        configuration.runs = exits.enumerated().map { index, count in
            BootRun(
                index: index, nanoseconds: 1000,
                userspace: .init(source: .vmm, byName: ["KVM_EXIT_IO": count]),
                hardware: nil, phases: nil)
        }
        return BootRecording(
            tool: .init(name: "vmtally", version: "0"), label: label, recorded: 1_700_000_000, seed: 1,
            host: .init(cpu: "CPU", backend: "kvm_amd", kernel: "6.1", tscKHz: 1), configurations: [configuration])
    }

    private func withHistory(_ body: (History) throws -> Void) throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        try body(try History(path: path, for: .add))
    }

    @Test func keepsWhatWasAdded() throws {
        try withHistory { history in
            let first = recording("one", exits: [100, 102, 104])
            #expect(try history.add(first, revision: "abc") == 1)
            #expect(try history.add(recording("two", exits: [200]), revision: "") == 2)
            let entries = try history.entries()
            #expect(entries.map(\.label) == ["one", "two"])
            #expect(entries.map(\.revision) == ["abc", ""])
            let new = recording("three", exits: [300])
            #expect(try history.recording(1, besides: new)?.recording == first)
            #expect(try history.recording(nil, besides: new)?.id == 2)
            #expect(throws: HistoryError.self) { try history.recording(3, besides: new) }
        }
    }

    @Test("a recording is no baseline of its own, in whatever order it is added and compared")
    func ownBaseline() throws {
        try withHistory { history in
            let (old, new) = (recording("old", exits: [100]), recording("new", exits: [200]))
            _ = try history.add(old, revision: "")
            #expect(try history.recording(nil, besides: old) == nil)
            _ = try history.add(new, revision: "")
            #expect(try history.recording(nil, besides: new)?.id == 1)
            #expect(try history.recording(2, besides: new) == nil)
        }
    }

    @Test(
        "no output may cost the history or the recording",
        arguments: [
            ["list", "--csv", "$DB"], ["trend", "--csv", "$DB"], ["compare", "--json", "$DB", "$RECORDING"],
            ["compare", "--csv", "$DB-journal", "$RECORDING"], ["compare", "--json", "$RECORDING", "$RECORDING"],
            ["compare", "--json", "new", "--csv", "./new", "$RECORDING"],
            ["compare", "--json", "-", "--csv", "-", "$RECORDING"],
        ])
    func files(words: [String]) throws {
        try withHistory { history in
            let recorded = recording("one", exits: [100])
            _ = try history.add(recorded, revision: "")
            let file = path + ".json"
            defer { try? FileManager.default.removeItem(atPath: file) }
            try recorded.json().write(toFile: file, atomically: true, encoding: .utf8)
            let arguments =
                words.map { $0.replacing("$DB", with: path).replacing("$RECORDING", with: file) }
                + ["--db", path]
            var command = try HistoryCommand.parseAsRoot(arguments)
            #expect(throws: NamedFilesError.self) { try command.run() }
            #expect(try history.entries().count == 1)
        }
    }

    @Test func trendIsOfMedians() throws {
        try withHistory { history in
            for count in [100, 110, 90] as [UInt64] {
                _ = try history.add(recording("r", exits: [count, count + 4]), revision: "")
            }
            let points = try history.trend(of: nil, last: 2)
            #expect(points.map(\.userspace) == [112, 92])
            #expect(points.map(\.hardware) == [nil, nil])
            // One of the two words is there.
            let message = "no configuration has the words cpus=1,console=virtio; there are: console=none cpus=1"
            #expect(throws: HistoryError(message)) { try history.trend(of: "cpus=1,console=virtio", last: 5) }
            #expect(try history.trend(of: "cpus=1", last: 5).count == 3)
        }
    }

    @Test func opensAgainAndRemoves() throws {
        try withHistory { history in
            _ = try history.add(recording("one", exits: [1]), revision: "")
            let again = try History(path: path, for: .add)
            #expect(try again.remove(1))
            #expect(try !again.remove(1))
            #expect(try again.entries().isEmpty)
            #expect(try again.trend(of: nil, last: 1).isEmpty)
        }
    }

    @Test func somethingElseIsRefused() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        try Data(
            "this is no database, but it is as long as the head of one would be: 100 bytes and more, to be sure of it"
                .utf8
        )
        .write(to: URL(filePath: path))
        #expect(throws: (any Error).self) { try History(path: path, for: .add) }
    }

    /// Whatever is read stays as it is, byte by byte; what is no history is refused.
    @Test(arguments: [History.Purpose.read, .change]) func aFileThatIsNoHistory(purpose: History.Purpose) throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        try Data().write(to: URL(filePath: path))
        #expect(throws: HistoryError.self) { try History(path: path, for: purpose) }
        #expect(try Data(contentsOf: URL(filePath: path)).isEmpty)
        try FileManager.default.removeItem(atPath: path)
        let other = try DatabaseQueue(path: path)
        try other.write { try $0.execute(sql: "CREATE TABLE mine (x)") }
        try other.close()
        let before = try Data(contentsOf: URL(filePath: path))
        #expect(throws: HistoryError.self) { try History(path: path, for: purpose) }
        #expect(throws: HistoryError.self) { try History(path: path, for: .add) }
        #expect(try Data(contentsOf: URL(filePath: path)) == before)
    }

    @Test func readingWritesNothing() throws {
        try withHistory { history in
            _ = try history.add(recording("one", exits: [1]), revision: "")
            let before = try Data(contentsOf: URL(filePath: path))
            let reader = try History(path: path, for: .read)
            #expect(try reader.entries().count == 1)
            // In SQLite's words, without the statement.
            #expect(throws: HistoryError("\(path): attempt to write a readonly database")) { try reader.remove(1) }
            #expect(try Data(contentsOf: URL(filePath: path)) == before)
        }
    }

    @Test("documents go where links lead, and into devices and FIFOs") func outputs() throws {
        let folder = path + ".d"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try FileManager.default.createSymbolicLink(atPath: folder + "/link", withDestinationPath: "file")
        try write("a", to: folder + "/link")
        #expect(try String(contentsOfFile: folder + "/file", encoding: .utf8) == "a")
        try write("b", to: folder + "/link")
        #expect(try String(contentsOfFile: folder + "/file", encoding: .utf8) == "b")
        #expect(try FileManager.default.destinationOfSymbolicLink(atPath: folder + "/link") == "file")
        try #require(mkfifo(folder + "/fifo", 0o600) == 0)
        #expect(throws: HistoryError.self) { try write("c", to: folder + "/fifo") }
        let reader = open(folder + "/fifo", O_RDONLY | O_NONBLOCK)
        defer { close(reader) }
        try write("c", to: folder + "/fifo")
        var byte: UInt8 = 0
        #expect(read(reader, &byte, 1) == 1 && byte == UInt8(ascii: "c"))
    }

    @Test func aFIFOIsRefusedAtOnce() throws {
        defer { unlink(path) }
        try #require(mkfifo(path, 0o600) == 0)
        #expect(throws: HistoryError.self) { try History(path: path, for: .read) }
        #expect(throws: HistoryError.self) { try readRecording(path) }
    }
}
