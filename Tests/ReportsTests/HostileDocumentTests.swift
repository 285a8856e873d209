// SPDX-License-Identifier: Apache-2.0
import BootRecords
import Foundation
import Rendering
import Testing

@testable import Reports

/// Recordings and bench documents that say what no machine has measured: a message or a report, whatever the number.
@Suite("Hostile documents")
struct HostileDocumentTests {
    static let recording = """
        {"schema":"vmtally.boot/1","protocol":"vmtally-boot-protocol/1","tool":{"name":"vmtally","version":"0.1.0"},\
        "label":"a","recorded":1700000000,"seed":1,\
        "host":{"cpu":"cpu","backend":"kvm_amd","kernel":"6.1","tsc_khz":1000},"configurations":[{\
        "name":"console=virtio cpus=1","vmm":"vmtally","cpus":1,"memory_mib":256,"console":"virtio",\
        "kernel":{"name":"vmlinuz","bytes":123,"cksum":456,"version":"6.1.0"},"command_line":"quiet",\
        "marker":"port 0xF5","runs":[\
        {"index":0,"marker_ns":1000000000,"userspace":{"source":"vmtally","total":300,"by_reason":{"KVM_EXIT_IO":300}},\
        "vm_exits":{"source":"kvm_exit","total":550,"by_reason":{"SVM_EXIT_IOIO":300,"SVM_EXIT_NPF":250}},\
        "phases":[{"name":"decompression","start_ns":0,"exits":100,"userspace":10},\
        {"name":"init","start_ns":100000000,"exits":450,"userspace":290}]},\
        {"index":1,"marker_ns":1000000001,"userspace":{"source":"vmtally","total":301,"by_reason":{"KVM_EXIT_IO":301}},\
        "vm_exits":{"source":"kvm_exit","total":551,"by_reason":{"SVM_EXIT_IOIO":301,"SVM_EXIT_NPF":250}},\
        "phases":[{"name":"decompression","start_ns":0,"exits":100,"userspace":10},\
        {"name":"init","start_ns":100000000,"exits":451,"userspace":291}]}],\
        "series":{"runs":2,"interval_ns":10000000,"vm_exits":{"SVM_EXIT_IOIO":[1,2,3]},"userspace":{"KVM_EXIT_IO":[1,2,3]}},\
        "functions":[{"name":"foo","exits":100},{"name":"bar","exits":50}]}]}
        """

    static let bench = """
        {"schema":"vmtally.bench/1","tool":{"name":"vmtally","version":"0.1.0"},\
        "host":{"cpu":"cpu","backend":"kvm_amd","kernel":"6.1","tsc_khz":2000000},"exact":true,\
        "method":{"seed":1,"cpus":2,"pinned":[1,0],"overhead":30,"taken":"2026-01-01T00:00:00Z","wall_ns":20000000000},\
        "kinds":[{"name":"pio-out","group":"ports","summary":"an OUT","vm":"plain","measured":{"n":100,"iterations":120,\
        "blocks":3,"cycles":{"min":900,"p50":1000,"p90":1100,"p99":1200,"p999":1300,"max":1400,"mean":1005,"p50_low":995,\
        "p50_high":1005},"outliers":1,"parts":{"userspace":100,"kernel":300,"rest":600},"exact":true,\
        "exits":[{"vocabulary":"kvm","code":2,"name":"KVM_EXIT_IO","counted":120,"expected":120}],"vm_exits":120,\
        "distribution":[{"from":900,"to":999,"n":50},{"from":1000,"to":1099,"n":49},{"from":1100,"to":1400,"n":1}]}},\
        {"name":"cpuid","group":"cpuid","summary":"CPUID","vm":"plain","unavailable":"not here"}]}
        """

    /// What goes in the place of a value.
    static let odd: [String] = [
        "0", "-1", "18446744073709551615", "18446744073709551616", "9223372036854775807", "9223372036854775808",
        "-9223372036854775808", "9000000000000000000", "9007199254740992", "9007199254740993", "1e308", "1.5", "true",
        "null", "\"x\"", "[]", "{}", "4294967296", "\"\\u001b[2J\"", "\"<script>alert(1)</script>\"",
    ]

    /// The document with each of its numbers and strings in turn replaced.
    static func variants(_ text: String, by value: String) -> [String] {
        text.matches(of: /[:,\[]("[^"]*"|-?[0-9]+|true|false)(?=[,}\]])/).map { match in
            text.replacingCharacters(in: match.1.startIndex..<match.1.endIndex, with: value)
        }
    }

    /// Everything that is made from a recording.
    static func compare(_ text: String) throws {
        let recording = try BootRecording(json: Array(text.utf8))
        let other = try BootRecording(json: Array(Self.recording.utf8))
        for (first, second) in [(recording, other), (other, recording)] {
            let comparison = BootComparison(first, second, effort: (20, 50))
            let report = BootComparisonReport([comparison], limit: 0.01, showsAll: true)
            #expect(!printable(report.lines().joined()).contains("\u{1B}"))
            _ = try JSONSerialization.jsonObject(with: Data(report.json(by: .init(name: "vmtally", version: "0")).utf8))
            let page = BootComparisonPage([comparison], limit: 0.01).page.html()
            #expect(!page.contains("<script>alert") && !page.contains("NaN") && !page.contains(">nan"))
        }
        #expect(!BootTable(recording).lines().isEmpty)
    }

    static func report(_ text: String) throws {
        let document = try BenchDocument(json: Array(text.utf8))
        let other = try BenchDocument(json: Array(Self.bench.utf8))
        for (first, second) in [(document, other), (other, document)] {
            let comparison = BenchComparison(first, to: second)
            #expect(!printable(BenchTable(first, comparison: comparison).lines().joined()).contains("\u{1B}"))
            #expect(!BenchPage(first, comparison: comparison).html().contains("<script>alert"))
        }
        _ = try document.json()
    }

    @Test func theyAreSoundThemselves() throws {
        try Self.compare(Self.recording)
        try Self.report(Self.bench)
        #expect(Self.variants(Self.recording, by: "0").count > 60)
        #expect(Self.variants(Self.bench, by: "0").count > 40)
    }

    @Test("a value anywhere in a recording", arguments: odd) func recordings(value: String) throws {
        for text in Self.variants(Self.recording, by: value) {
            do {
                try Self.compare(text)
            } catch let error as BootRecordingError {
                #expect(!error.description.isEmpty)
            }
        }
    }

    @Test("a value anywhere in a bench document", arguments: odd) func benches(value: String) throws {
        for text in Self.variants(Self.bench, by: value) {
            do {
                try Self.report(text)
            } catch let error as BenchDocumentError {
                #expect(!error.description.isEmpty)
            }
        }
    }

    @Test(
        "control characters are shown, not obeyed",
        arguments: [
            ("\u{1B}]0;owned\u{7}", "\\u{1B}]0;owned\\u{7}"), ("a\tb\nc", "a\tb\nc"), ("\u{9B}31m", "\\u{9B}31m"),
            ("\u{202E}abc", "\\u{202E}abc"), ("é", "é"), ("\r", "\\u{D}"),
        ])
    func printableTexts(text: String, shown: String) {
        #expect(printable(text) == shown)
        // A cell is on one line.
        let cell = shown.replacing("\n", with: "\\n").replacing("\t", with: " ")
        var table = TextTable(header: [text])
        table.add([text])
        #expect(table.lines() == [cell, cell])
    }
}
