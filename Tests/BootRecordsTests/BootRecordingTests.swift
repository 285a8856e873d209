// SPDX-License-Identifier: Apache-2.0
import SeededRandom
import Testing
@testable import BootRecords

struct BootRecordingTests {
    @Test func comesBackAsItWas() throws {
        var configuration = Samples.configuration(runs: Samples.boots(3, seed: 1))
        configuration.runs[1].phases = [.init(name: "init", start: 5, exits: 6, userspace: 7)]
        configuration.runs[2].hardware = nil
        configuration.series = BootSeries(
            runs: 3, interval: 10_000_000, hardware: ["SVM_EXIT_MSR": [1, 2]], userspace: ["KVM_EXIT_IO": [0, 4]])
        configuration.functions = [.init(name: "native_write_msr", exits: 12)]
        let recording = Samples.recording("a \"label\"", [configuration])
        let json = try recording.json()
        #expect(json.split(separator: "\n").count == 4, "a line before the runs, and one for each")
        #expect(try BootRecording(json: Array(json.utf8)) == recording)
        #expect(json.contains("\"schema\":\"vmtally.boot/1\""))
    }

    @Test(
        "a line feed in a name is shown",
        arguments: [
            (#"a\nb"#, #"a\nb"#), (#"a\u000ab\u000A"#, #"a\nb\n"#), (#"a\\nb"#, #"a\nb"#), (#"a\\\nb\"c"#, #"a\\nb"c"#),
            (#"\u0041"#, "A"),
        ])
    func lineFeeds(written: String, told: String) throws {
        let json = try Samples.recording("LABEL", [Samples.configuration(runs: Samples.boots(1, seed: 1))]).json()
        let recording = try BootRecording(json: Array(json.replacing("LABEL", with: written).utf8))
        #expect(recording.label == told)
    }

    /// What is in the file, and what the message says of it.
    @Test(
        arguments: [
            ("", "not a recording"), ("[]", "not a recording"), ("{}", "not a recording"),
            ("\u{0}\u{1}", "not a recording"),
            ("{\"schema\":\"vmtally.run/1\"}", "its schema is vmtally.run/1"),
            ("{\"schema\":\"vmtally.boot/1\"}", "is missing"),
        ])
    func damaged(text: String, message: String) {
        let error = #expect(throws: BootRecordingError.self) { try BootRecording(json: Array(text.utf8)) }
        #expect(error?.description.contains(message) == true, "\(error?.description ?? "")")
    }

    /// What contradicts itself could pass a gate.
    @Test func contradictions() throws {
        let configuration = Samples.configuration(runs: Samples.boots(1, seed: 1))
        let twice = try Samples.recording("A", [configuration, configuration]).json()
        var error = #expect(throws: BootRecordingError.self) { try BootRecording(json: Array(twice.utf8)) }
        #expect(error?.description == "damaged recording: two configurations of one name")
        let json = try Samples.recording("A", [configuration]).json()
        let total = try #require(json.firstMatch(of: /"total":\d+/))
        let changed = json.replacing(total.output, with: "\"total\":7")
        error = #expect(throws: BootRecordingError.self) { try BootRecording(json: Array(changed.utf8)) }
        #expect(error?.description == "damaged recording: total is not the sum of by_reason")
    }

    @Test func wrongKind() throws {
        let json = try Samples.recording("A", [Samples.configuration(runs: Samples.boots(1, seed: 1))]).json()
        let changed = json.split(separator: "\"cpus\":1").joined(separator: "\"cpus\":\"x\"")
        let error = #expect(throws: BootRecordingError.self) { try BootRecording(json: Array(changed.utf8)) }
        #expect(error?.description == "damaged recording: configurations[0].cpus is of the wrong kind")
    }

    /// A recording cut off anywhere, or with a byte changed, is refused or read; nothing else.
    @Test func mutations() throws {
        let json = Array(
            try Samples.recording("A", [Samples.configuration(runs: Samples.boots(2, seed: 1))]).json().utf8)
        for length in stride(from: 0, to: json.count - 2, by: 7) {
            #expect(throws: BootRecordingError.self) { try BootRecording(json: Array(json.prefix(length))) }
        }
        var generator = SplitMix64(seed: 3)
        for _ in 0..<500 {
            var changed = json
            changed[generator.index(below: json.count)] = UInt8(truncatingIfNeeded: generator.next())
            if let recording = try? BootRecording(json: changed) {
                _ = BootComparison(recording, recording, effort: (10, 20))
            }
        }
    }

    @Test func noRuns() throws {
        let json = try Samples.recording("A", [Samples.configuration()]).json()
        #expect(throws: BootRecordingError.self) { try BootRecording(json: Array(json.utf8)) }
    }

    /// What cksum(1) prints.
    @Test(arguments: [("", 4_294_967_295), ("a", 1_220_704_766), ("123456789", 930_766_865)] as [(String, UInt32)])
    func checksum(text: String, sum: UInt32) {
        #expect(Array(text.utf8).withUnsafeBytes { Checksum.posix($0) } == sum)
    }
}

struct BootPhasesTests {
    static let log = """
        [    0.000000] Linux version 6.1.0
        garbage
        [    0.092096] Memory: 211724K/261752K available\r
        [    1.174267] Run /init as init process
        [    1.475759] vmtally: boot marker
        """

    @Test func startsAreOnTheMarkersClock() throws {
        let starts = try #require(BootPhases.starts(log: Self.log, end: 2_000_000_000))
        #expect(starts.map(\.phase) == ["decompression", "early setup", "memory, scheduler, interrupts", "init"])
        #expect(starts.map(\.start) == [0, 524_241_000, 616_337_000, 1_698_508_000])
    }

    @Test(arguments: [
        "", "[    0.000000] Linux version 6.1", "vmtally: boot marker", "[", "]", "[ 1.2] x", "[a.bcdefg] x",
    ])
    func withoutMarker(log: String) {
        #expect(BootPhases.starts(log: log, end: 1) == nil)
    }
}
