// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

/// `vmtally run` on a terminal, which script(1) makes for it.
@Suite(.ownThread, .enabled(if: CommandLineTool.missing == nil, "\(CommandLineTool.missing ?? "")"))
struct TerminalTests {
    /// Listens at its UART, says "R", and sends back what it receives plus 0x40.
    private static let echo = multibootImage(
        [
            0xBA, 0xF9, 0x03, 0x00, 0x00,  // mov $0x3F9, %edx
            0xB0, 0x01, 0xEE,  // mov $1, %al; out %al, %dx: interrupt enable
            0xBA, 0xFC, 0x03, 0x00, 0x00,  // mov $0x3FC, %edx
            0xB0, 0x08, 0xEE,  // mov $8, %al; out %al, %dx: OUT2
            0xBA, 0xF8, 0x03, 0x00, 0x00,  // mov $0x3F8, %edx
            0xB0, 0x52, 0xEE,  // mov $'R', %al; out %al, %dx
            0xBA, 0xFD, 0x03, 0x00, 0x00,  // 1: mov $0x3FD, %edx
            0xEC, 0xA8, 0x01,  // in %dx, %al; test $1, %al
            0x74, 0xFB,  // jz (in)
            0xBA, 0xF8, 0x03, 0x00, 0x00,  // mov $0x3F8, %edx
            0xEC, 0x04, 0x40, 0xEE,  // in %dx, %al; add $0x40, %al; out %al, %dx
            0xEB, 0xEB,  // jmp 1b
        ])

    @Test("keys reach the guest as they are typed, Ctrl-A x ends the run, and the terminal is given back")
    func quit() throws {
        let folder = try TemporaryFolder()
        let image = try folder.file("echo", Self.echo)
        let process = Process()
        let input = Pipe()
        let output = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/script")
        let run = """
            stty -a >\(folder.path)/before
            '\(CommandLineTool.path ?? "")' run --multiboot \(image) --timeout 30 --live-cpuid off --quiet \
            --stats-json \(folder.path)/json
            echo "status $?"
            stty -a >\(folder.path)/after
            """
        process.arguments = ["-qec", run, "/dev/null"]
        process.standardInput = input
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try process.run()
        var text = ""
        func read(until end: String) {
            while !text.contains(end), case let data = output.fileHandleForReading.availableData, !data.isEmpty {
                text += String(decoding: data, as: UTF8.self)
            }
        }
        read(until: "R")
        // Ctrl-C and Ctrl-D are the guest's in raw mode; Ctrl-A Ctrl-A is one Ctrl-A.
        input.fileHandleForWriting.write(Data([0x03, 0x04, 0x01, 0x01, 0x21]))
        read(until: "RCDAa")
        input.fileHandleForWriting.write(Data([0x01, 0x78]))
        text += String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        #expect(text.contains("RCDAa"), "\(text)")
        #expect(text.contains("status 0"), "\(text)")
        #expect(folder.text("json")?.contains("\"reason\":\"quit\"") == true, "\(folder.text("json") ?? "")")
        let before = try #require(folder.text("before"))
        #expect(before == folder.text("after"))
    }
}
