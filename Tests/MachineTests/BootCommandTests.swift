// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing
@testable import Machine

/// `vmtally boot` and `vmtally compare` from outside, with kernels of a few bytes whose exits are known.
@Suite(.ownThread, .enabled(if: CommandLineTool.missing == nil, "\(CommandLineTool.missing ?? "")"), .serialized)
struct BootCommandTests {
    let folder: TemporaryFolder

    init() throws {
        folder = try TemporaryFolder()
    }

    /// So many OUTs; mov $0xF5, %edx; out %al, (%dx); jmp .
    private static func kernel(outs: UInt32) -> [UInt8] {
        TinyGuest(Assembly.loop(outs, Assembly.outByte) + Assembly.edx(0xF5) + [0xEE, 0xEB, 0xFE]).elf
    }

    private func vmtally(_ arguments: String, seconds: Int = CommandLineTool.hang) throws -> CommandLineTool.Outcome {
        let outcome = try CommandLineTool.run(
            "cd \"$FOLDER\" && \"$VMTALLY\" \(arguments)", ["FOLDER": folder.path], seconds: seconds)
        #expect(outcome.status != 137, "killed after \(seconds) s: \(arguments)")
        return outcome
    }

    private func record(_ name: String, outs: UInt32, runs: Int, _ options: String = "--console none") throws {
        _ = try folder.file("kernel", Self.kernel(outs: outs))
        let outcome = try vmtally(
            "boot --kernel kernel --memory 16 --runs \(runs) --no-log --label \(name) -o \(name).json --quiet \(options)"
        )
        #expect(outcome.status == 0, "\(outcome.error)")
    }

    private func runs(_ name: String) throws -> [[[String: Any]]] {
        let text = try #require(folder.text(name + ".json"))
        let json = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
        #expect(json["schema"] as? String == "vmtally.boot/1")
        let configurations = try #require(json["configurations"] as? [[String: Any]])
        return try configurations.map { try #require($0["runs"] as? [[String: Any]]) }
    }

    @Test func everyBootIsCountedToItsMarker() throws {
        try record("boots", outs: 500, runs: 2, "--matrix console=none,virtio,8250 cpus=1,2 --parallel 2")
        let configurations = try runs("boots")
        #expect(configurations.count == 6)
        for run in configurations.joined() {
            let exits = try #require(run["userspace"] as? [String: Any])
            #expect((exits["by_reason"] as? [String: Int])?["KVM_EXIT_IO"] == 501, "\(exits)")
        }
        let order = configurations.joined().compactMap { $0["index"] as? Int }
        #expect(order.sorted() == Array(0..<12))
        #expect(order != Array(0..<12), "the order is drawn by lot")
    }

    /// Boots of one kernel never differ; one with 1 % more of one exit does.
    @Test func onePercentIsFoundAndNothingElse() throws {
        try record("base", outs: 1000, runs: 10)
        for name in ["again", "once-more"] {
            try record(name, outs: 1000, runs: 10)
            let equal = try vmtally("compare base.json \(name).json --fail-above 0")
            #expect(equal.status == 0, "\(equal.output)\(equal.error)")
            #expect(!equal.output.contains("* KVM_EXIT_IO"), "\(equal.output)")
        }
        try record("planted", outs: 1010, runs: 10)
        let found = try vmtally("compare base.json planted.json --fail-above 0.5% --json c.json --html c.html")
        #expect(found.status == 2, "\(found.output)\(found.error)")
        #expect(found.output.contains("* KVM_EXIT_IO"), "\(found.output)")
        #expect(found.output.contains("regression over 0.50 %"), "\(found.output)")
        #expect(try vmtally("compare base.json planted.json --fail-above 2%").status == 0)
        #expect(
            try vmtally("compare planted.json base.json --fail-above 0").status == 0, "fewer exits are no regression")
        let json = try #require(folder.text("c.json"))
        #expect(json.contains("\"schema\":\"vmtally.compare/1\"") && json.contains("\"regression\":true"))
        let page = try #require(folder.text("c.html"))
        #expect(page.contains("<svg") && !page.contains("<script"))
        #expect(XMLCheck.isWellFormed(page.replacing("<!DOCTYPE html>", with: "")))
    }

    /// A gate that could not see does not pass.
    @Test func theGateSaysWhatItCouldNotJudge() throws {
        try record("two", outs: 10, runs: 9, "--matrix console=none,8250")
        try record("one", outs: 10, runs: 9)
        try record("few", outs: 10, runs: 3)
        for (recordings, why) in [
            ("two.json one.json:console=none", "in one recording only: two: console=serial cpus=1"),
            ("few.json few.json", "too few"),
        ] {
            let outcome = try vmtally("compare \(recordings) --fail-above 1%")
            #expect(outcome.status == 3 && outcome.output.contains(why), "\(outcome.output)\(outcome.error)")
            #expect(try vmtally("compare \(recordings)").status == 0)
        }
        #expect(try vmtally("compare two.json:console=8250 one.json").status == 0)
        let none = try vmtally("compare one.json one.json:cpus=7")
        #expect(none.status == 1 && none.error.contains("it has: console=none cpus=1"), "\(none.error)")
    }

    @Test func consoleTextEndsTheBoot() throws {
        // mov $0x3F8, %edx; mov $'o', %al; out; mov $'k', %al; out; jmp .
        let code = Assembly.edx(0x3F8) + [0xB0, 0x6F, 0xEE, 0xB0, 0x6B, 0xEE, 0xEB, 0xFE]
        _ = try folder.file("kernel", TinyGuest(code).elf)
        let outcome = try vmtally(
            "boot --kernel kernel --memory 16 --runs 1 --console serial --marker-text ok -o - --quiet")
        #expect(outcome.status == 0, "\(outcome.error)")
        #expect(outcome.output.contains("\"marker\":\"'ok'\""), "\(outcome.output)")
        #expect(outcome.output.contains("\"total\":1}"), "\(outcome.output)")
    }

    @Test func withoutMarkerItFails() throws {
        // mov $3, %al; out %al, $0xF4
        _ = try folder.file("kernel", TinyGuest(Assembly.eax(3) + [0xE6, 0xF4]).elf)
        let outcome = try vmtally("boot --kernel kernel --memory 16 --runs 2 --console none -o x.json")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("before its marker"), "\(outcome.error)")
        #expect(outcome.error.contains("2 of 2 boots"), "\(outcome.error)")
    }

    @Test(
        arguments: [
            ("boot --runs 0 --kernel k", 64, "--runs"), ("boot --matrix cpus --kernel k", 64, "--matrix"),
            ("boot --matrix cpus=x --kernel k", 64, "--matrix"), ("boot --matrix cpus=1,1 --kernel k", 64, "the same"),
            ("boot --kernel /nonexistent --runs 1", 1, "/nonexistent"), ("boot --cpus 0 --kernel k", 64, "--cpus"),
            ("boot --vmm true --marker-text x --kernel k", 64, "--marker-text"),
            ("compare", 64, "file"), ("compare one.json", 64, "two recordings"),
            ("compare /nonexistent /nonexistent", 1, "/nonexistent"), ("compare /dev/null /dev/null", 1, "/dev/null"),
            ("compare a b --fail-above x", 64, "--fail-above"), ("compare a b --fail-above -1%", 64, "--fail-above"),
            ("compare a b --fail-above nan", 64, "--fail-above"), ("compare a b --fail-above 1", 64, "give 1%"),
            ("bench --fail-above 5% --only cpuid", 64, "--baseline"),
        ])
    func wrongCalls(arguments: String, status: Int32, says: String) throws {
        let outcome = try vmtally(arguments)
        #expect(outcome.status == status, "\(outcome.error)")
        #expect(outcome.error.contains(says), "\(outcome.error)")
    }
}

/// Tags that match, in markup whose attributes are all quoted.
private enum XMLCheck {
    static func isWellFormed(_ text: String) -> Bool {
        var open: [Substring] = []
        for match in text.matches(of: /<(\/?)([a-zA-Z0-9]+)((?:[^<>"]|"[^"]*")*?)(\/?)>/) {
            let (_, closes, name, _, isEmpty) = match.output
            if !closes.isEmpty {
                guard open.popLast() == name else { return false }
            } else if isEmpty.isEmpty {
                open.append(name)
            }
        }
        return open.isEmpty
    }
}
