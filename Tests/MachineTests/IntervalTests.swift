// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

@testable import Machine

/// Runs that are looked at while they last, and guests that boot more than once.
@Suite("intervals and boots", .enabled(if: CommandLineTool.missing == nil, "\(CommandLineTool.missing ?? "")"))
struct IntervalTests {
    private struct Document: Decodable {
        struct Total: Decodable { let count: Int }
        struct Reason: Decodable {
            let name: String
            let count: Int
        }
        struct Exits: Decodable {
            let total: Total
            let byReason: [Reason]
        }
        struct Status: Decodable { let reason: String }
        struct Boot: Decodable {
            let boot: Int
            let status: Status
            let exits: Exits
            let vmExits: Int?
        }
        struct Interval: Decodable {
            let startNs: Int
            let endNs: Int
            let userspaceExits: Int
            let byReason: [String: Int]
        }
        struct Mark: Decodable {
            let ns: Int
            let name: String
            let userspaceExits: Int
        }
        let exits: Exits
        let kernel: [String: Int]
        let status: Status
        let boots: [Boot]?
        let intervals: [Interval]?
        let marks: [Mark]?
    }

    private let folder: TemporaryFolder

    init() throws {
        folder = try TemporaryFolder()
    }

    private func document() throws -> Document {
        try SchemaValidator.expectValid(folder.path + "/json")
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(Document.self, from: Data(try #require(folder.text("json")).utf8))
    }

    @Test("spans add up to the run, and marks are told where they were", arguments: ["", "--no-sandbox"])
    func intervals(options: String) throws {
        // 300 exits; out 0xF5, al; "on\n" to the serial port; 200 exits; spin.
        var code = Assembly.loop(300, Assembly.outByte)
        code += [0xE6, 0xF5]
        code += Assembly.edx(0x3F8)
        for letter in "on\n".utf8 {
            code += Assembly.eax(UInt32(letter))
            code.append(0xEE)
        }
        code += Assembly.loop(200, Assembly.outByte)
        code += [0xEB, 0xFE]
        let guest = TinyGuest(code)
        let image = try folder.file("guest", guest.elf)
        let outcome = try CommandLineTool.run(
            "exec $VMTALLY run --guest $IMAGE --timeout 1 --live-cpuid off -i 0.1 --mark on --stats-json $FOLDER/json "
                + options, ["IMAGE": image, "FOLDER": folder.path])
        #expect(outcome.status == 124, "\(outcome.error)")
        let document = try document()
        let intervals = try #require(document.intervals)
        #expect(intervals.count > 1)
        #expect(intervals.reduce(0) { $0 + $1.userspaceExits } == document.exits.total.count)
        #expect(intervals.allSatisfy { $0.byReason.values.reduce(0, +) == $0.userspaceExits })
        #expect(intervals.first?.startNs == 0)
        #expect(zip(intervals, intervals.dropFirst()).allSatisfy { $0.endNs == $1.startNs })
        // The exits that said so are in.
        #expect(document.marks?.map(\.name) == ["port 0xF5", "on"])
        #expect(document.marks?.map(\.userspaceExits) == [301, 303])
        #expect(outcome.error.contains("mark after 303 userspace exits: on"), "\(outcome.error)")
        #expect(outcome.error.contains("KVM_EXIT_IO 504"), "\(outcome.error)")
    }

    /// As often as told by the boot number in the tally page's header: 100 exits and a reset; then a power-off.
    private static func rebooter(_ boots: UInt8) -> [UInt8] {
        // mov 0xE0000038, eax; cmp eax, boots; jae 1f; mov al, 0xFE; out 0x64, al; 1: power-off
        var code = Assembly.loop(100, Assembly.outByte)
        code += [0xA1, 0x38, 0, 0, 0xE0, 0x83, 0xF8, boots, 0x73, 0x04]
        code += [0xB0, 0xFE, 0xE6, 0x64]
        code += [0xBA, 0x04, 0x06, 0, 0, 0xB8, 0, 0x20, 0, 0, 0x66, 0xEF]
        return multibootImage(code)
    }

    @Test("a guest that resets boots again within one tally, and each boot has its own totals")
    func restart() throws {
        let image = try folder.file("guest", Self.rebooter(3))
        let outcome = try CommandLineTool.run(
            "exec $VMTALLY run --multiboot $IMAGE --timeout 60 --live-cpuid off --no-sandbox --on-reset restart "
                + "--stats-json $FOLDER/json", ["IMAGE": image, "FOLDER": folder.path])
        #expect(outcome.status == 0, "\(outcome.error)")
        let document = try document()
        let boots = try #require(document.boots)
        #expect(boots.map(\.boot) == [1, 2, 3])
        #expect(boots.map(\.status.reason) == ["reset", "reset", "power-off"])
        let counts = boots.map { boot in boot.exits.byReason.first { $0.name == "KVM_EXIT_IO" }?.count ?? 0 }
        #expect(counts == [101, 101, 101])
        #expect(boots.reduce(0) { $0 + $1.exits.total.count } == document.exits.total.count)
        if let exits = document.kernel["exits"] { #expect(boots.reduce(0) { $0 + ($1.vmExits ?? 0) } == exits) }
        #expect(document.status.reason == "power-off")
        let rows = outcome.error.split(separator: "\n").filter { $0.contains("KVM_EXIT_IO 101") }
        #expect(rows.count == 3, "\(outcome.error)")
        #expect(
            outcome.error.split(separator: "\n").contains { $0.hasPrefix("all ") && $0.contains(" 303 ") },
            "\(outcome.error)")
    }

    @Test("without it a reset ends the run, and a guest that resets for ever ends at the timeout")
    func ends() throws {
        let image = try folder.file("guest", Self.rebooter(100))
        let script = "exec $VMTALLY run --multiboot $IMAGE --live-cpuid off --stats-json $FOLDER/json "
        let once = try CommandLineTool.run(script + "--timeout 60", ["IMAGE": image, "FOLDER": folder.path])
        #expect(once.status == 0)
        #expect(try document().boots == nil && document().status.reason == "reset")
        let refused = try CommandLineTool.run(
            script + "--on-reset restart", ["IMAGE": image, "FOLDER": folder.path])
        #expect(refused.status == 64 && refused.error.contains("needs --no-sandbox"), "\(refused.error)")
        // mov al, 0xFE; out 0x64, al
        let endless = try folder.file("endless", multibootImage([0xB0, 0xFE, 0xE6, 0x64]))
        let late = try CommandLineTool.run(
            script + "--on-reset restart --no-sandbox --timeout 1 --quiet", ["IMAGE": endless, "FOLDER": folder.path])
        #expect(late.status == 124, "\(late.error)")
        #expect(try document().boots?.isEmpty == false)
    }
}
