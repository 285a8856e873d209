// SPDX-License-Identifier: Apache-2.0
import Testing
@testable import Rendering
@testable import Reports

/// The probe's line of JSON, out of a serial log that a guest wrote: it may say anything.
struct ProbeReportTests {
    private static let whole = """
        {"schema":"vmtally.bare-metal-probe/1","signature":true,"vcpus":2,"rings":[{"ring":0,"signature":true,"live":true,\
        "version":1,"first":{"count":7,"cycles":18446744073709551615},"second":{"count":8,"cycles":0}},\
        {"ring":3,"signature":false,"live":false}],"checks":[{"name":"r0.out8","expected":3,"got":4,"ok":false}],\
        "last":{"ring":3,"eax":1,"ebx":2,"ecx":3,"edx":4294967295}}
        """

    private func read(_ json: String) -> ProbeReport? {
        ProbeReport(serial: Array("a table\nvmtally-probe-json \(json)\nmore\n".utf8))
    }

    @Test func everythingIsRead() throws {
        let report = try #require(read(Self.whole))
        #expect(report.signature)
        #expect(report.rings.map(\.ring) == [0, 3])
        #expect(report.rings[0].live && report.rings[0].signature && !report.rings[1].signature)
        #expect(report.rings[0].first == ProbeReport.Reading(count: 7, cycles: .max))
        #expect(report.rings[0].second == ProbeReport.Reading(count: 8, cycles: 0))
        #expect(report.rings[1].first == nil)
        let check = try #require(report.checks.first)
        #expect(report.checks.count == 1)
        #expect((check.name, check.expected, check.got, check.ok) == ("r0.out8", 3, 4, false))
        #expect(report.last?.ring == 3)
        #expect(report.last?.edx == .max)
    }

    @Test func withoutASignature() throws {
        let report = try #require(read(#"{"signature":false,"rings":[],"checks":[],"last":null}"#))
        #expect(!report.signature && report.rings.isEmpty && report.checks.isEmpty && report.last == nil)
    }

    @Test func theLastReportCounts() {
        let line = #"vmtally-probe-json {"signature":false,"rings":[],"checks":[]}"#
        let text = "vmtally-probe-json \(Self.whole)\n\(line)\n"
        #expect(ProbeReport(serial: Array(text.utf8))?.signature == false)
    }

    /// Each prefix, and each byte of it replaced: refused or read, never a crash.
    @Test func damagedReports() {
        let bytes = Array(Self.whole.utf8)
        for length in bytes.indices {
            #expect(PlainJSON(bytes[..<length]) == nil)
        }
        for place in bytes.indices {
            for byte in [0x00, 0x22, 0x2C, 0x39, 0x5B, 0x5C, 0x7B, 0x7D, 0xFF] as [UInt8] {
                var damaged = bytes
                damaged[place] = byte
                _ = read(String(decoding: damaged, as: UTF8.self))
            }
        }
    }

    @Test(arguments: [
        "", "{", "[", "]", "{}x", "[1,]", "[,1]", "{1:2}", #"{"a"}"#, #"{"a":}"#, #""a"#, #""\n""#, "\"\u{7F}\"",
        "\"é\"", "-1",
        "1.5", "1e3", "18446744073709551616", "99999999999999999999999", "tru", "[1 2]", " 1",
        String(repeating: "[", count: 100_000), String(repeating: #"{"a":"#, count: 100_000),
    ])
    func whatIsNotPlainIsRefused(text: String) {
        #expect(PlainJSON(text.utf8) == nil)
    }

    @Test func valuesAreRead() {
        #expect(
            PlainJSON("[0,18446744073709551615,true,false,null,\"a\",[],{}]".utf8)
                == .array([
                    .number(0), .number(.max), .bool(true), .bool(false), .null, .string("a"), .array([]), .object([:]),
                ]))
        #expect(PlainJSON("[[[[[[[1]]]]]]]".utf8) != nil)
        #expect(PlainJSON("[[[[[[[[1]]]]]]]]".utf8) == nil)
    }

    @Test(arguments: [
        #"{"rings":[],"checks":[]}"#, #"{"signature":1,"rings":[],"checks":[]}"#, #"{"signature":true,"checks":[]}"#,
        #"{"signature":true,"rings":[{}],"checks":[]}"#, #"{"signature":true,"rings":[],"checks":[{"name":"a"}]}"#,
        #"{"signature":true,"rings":{},"checks":[]}"#, "[]", "7",
    ])
    func whatTheReportMustHave(json: String) {
        #expect(read(json) == nil)
    }
}
