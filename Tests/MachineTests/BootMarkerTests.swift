// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM
import Synchronization
import Testing
@testable import Machine

/// The end of a boot as docs/boot-protocol.md has it: what is counted then, and what the machine does.
struct BootMarkerTests {
    static let machineTests: Comment = "no /dev/kvm: \(Host.noKVM ?? "")"

    /// How wide the write to port 0xF5 is, and the instruction after `mov $0xF5, %dx`.
    @Test(
        .enabled(if: Host.noKVM == nil, machineTests),
        arguments: [(1, [0xEE]), (2, [0x66, 0xEF]), (4, [0xEF])] as [(Int, [UInt8])])
    func portNotesTheTallyAndGoesOn(width: Int, out: [UInt8]) throws {
        // 100 x out %al, $0x80; mov $0xF5, %edx; out; 50 x out %al, $0x80; mov $0xF5, %edx; out; hlt
        let mark = Assembly.edx(0xF5) + out
        let code =
            Assembly.loop(100, Assembly.outByte) + mark + Assembly.loop(50, Assembly.outByte) + mark + Assembly.halt
        let outcome = try TinyGuest(code).run()
        #expect(outcome.result.end == .halted)
        #expect(outcome.counts == [KVM_EXIT_IO: 152, KVM_EXIT_HLT: 1])
        let boot = try #require(outcome.result.boot)
        #expect(boot.userspace.total == 101, "the marker's own exit is in; the second marker says nothing")
        #expect(boot.nanoseconds > 0 && boot.nanoseconds <= outcome.result.wallNanoseconds)
        if let exits = boot.kernel.values["exits"] {
            #expect(exits >= 101)
            #expect(exits <= outcome.result.kernel.values["exits"] ?? 0)
        }
    }

    @Test(.enabled(if: Host.noKVM == nil, machineTests))
    func portEndsTheRunWhenAsked() throws {
        // mov $0xF5, %edx; out %al, (%dx); jmp .
        let outcome = try TinyGuest(Assembly.edx(0xF5) + [0xEE, 0xEB, 0xFE]).run { $0.bootMarker.endsRun = true }
        #expect(outcome.result.end == .marker)
        #expect(outcome.result.end.exitStatus == 0)
        #expect(outcome.result.boot?.userspace.total == 1)
    }

    /// A write to the exit port that is wide enough to cover 0xF5 is the exit port's alone.
    @Test(.enabled(if: Host.noKVM == nil, machineTests))
    func exitPortKeepsItsMeaning() throws {
        // mov $0x1234, %eax; mov $0xF4, %edx; out %eax, (%dx)
        let outcome = try TinyGuest(Assembly.eax(0x1234) + Assembly.edx(0xF4) + [0xEF]).run()
        #expect(outcome.result.end == .exited(status: 0x1234 << 1 | 1))
        #expect(outcome.result.boot == nil)
    }

    @Test(.enabled(if: Host.noKVM == nil, machineTests))
    func readsAllOnes() throws {
        // mov $0xF5, %edx; in (%dx), %al; out %al, $0xF4
        let outcome = try TinyGuest(Assembly.edx(0xF5) + [0xEC, 0xE6, 0xF4]).run()
        #expect(outcome.result.end == .exited(status: 0x1FF))
        #expect(outcome.result.boot == nil)
    }

    /// What the guest prints, the text to look for, and how many bytes had been sent at its first byte.
    @Test(
        arguments: [
            ("boot: login: ", "login:", 7), ("lolologin", "login", 5), ("aab", "ab", 2), ("xx", "x", 1),
            ("ababac", "abac", 3), ("nothing", "login", nil), ("", "x", nil), ("logi", "login", nil),
        ] as [(String, String, UInt64?)])
    func textOnTheConsole(printed: String, text: String, at: UInt64?) throws {
        var configuration = BootMarkerConfiguration()
        configuration.text = Array(text.utf8)
        let marker = BootMarker(configuration)
        let output = SerialOutput(.capture, marker: marker)
        let sent = Counter()
        marker.attach { BootMarker.Note(nanoseconds: sent.value, tallies: [], kernel: KernelCounters()) }
        for byte in printed.utf8 {
            sent.increment()
            output.send(byte)
        }
        #expect(marker.note?.nanoseconds == at)
        #expect(output.captured == Array(printed.utf8))
    }

    @Test("port 0xF5 is no marker where a text is", .enabled(if: Host.noKVM == nil, machineTests))
    func portBesideText() throws {
        // out %al, $0xF5; mov $1, %al; out %al, $0xF4
        let outcome = try TinyGuest([0xE6, 0xF5, 0xB0, 0x01, 0xE6, 0xF4]).run {
            $0.bootMarker.text = Array("BC".utf8)
            $0.bootMarker.endsRun = true
        }
        #expect(outcome.result.boot == nil)
        #expect(outcome.result.end != .marker)
    }

    @Test(.enabled(if: Host.noKVM == nil, machineTests))
    func textEndsTheRun() throws {
        // mov $0x3F8, %edx; mov $'A', %al; out; mov $'B', %al; out; mov $'C', %al; out; jmp .
        let code = Assembly.edx(0x3F8) + [0xB0, 0x41, 0xEE, 0xB0, 0x42, 0xEE, 0xB0, 0x43, 0xEE, 0xEB, 0xFE]
        let outcome = try TinyGuest(code).run {
            $0.bootMarker.text = Array("BC".utf8)
            $0.bootMarker.endsRun = true
        }
        #expect(outcome.result.end == .marker)
        #expect(outcome.result.boot?.userspace.total == 2, "the exit that brought the first byte")
    }
}

private final class Counter: Sendable {
    private let count = Atomic<UInt64>(0)

    var value: UInt64 { count.load(ordering: .relaxed) }

    func increment() {
        count.add(1, ordering: .relaxed)
    }
}
