// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Machine
import TestGuests
import ThisHost

/// What a reading of the tally page costs, beside CPUID's, and that ten million of them make no exit more than none.
struct PageReadings {
    let cpus: Int
    /// Of the page by ring 3; by every other way a ten-thousandth of it, at most 1,000.
    let readings: UInt64

    private struct Run {
        let result: RunResult
        let mode: String
        let lines: [Line]
        /// By KVM's tracepoint; empty where that does not fire.
        let hardware: [UInt32: UInt64]
    }

    private struct Line {
        let way: String
        let readings: UInt64
        let cycles: UInt64
        let exits: UInt64
        let piece: UInt64
        let fastest: UInt64
    }

    func check(_ checks: inout Checks) throws {
        let without = try run(0)
        let with = try run(readings)
        let lines = with.lines
        checks.note(
            "\(HostIdentity.backendHere), \(cpus) vCPU, live CPUID: \(with.mode); cycles a reading, "
                + "userspace exits meanwhile")
        for line in lines {
            let mean = tenths(line.cycles, line.readings)
            checks.note(
                "\(line.way): \(line.readings) readings, \(mean) cycles each (\(tenths(line.fastest, line.piece)) the "
                    + "fastest), \(line.exits) exits")
        }
        let pages = lines.filter { $0.way.hasPrefix("page") }
        checks.expectEqual("ways to read the page, \(cpus) vCPU", UInt64(pages.count), 2)
        for page in pages {
            checks.expectEqual("\(page.way): userspace exits of \(page.readings) readings", page.exits, 0)
        }
        for line in lines where line.way.hasPrefix("cpuid") && with.mode != "host" {
            checks.expectEqual("\(line.way): userspace exits of \(line.readings) readings", line.exits, line.readings)
        }
        expectNoMore(without, with, &checks)
    }

    private func tenths(_ cycles: UInt64, _ readings: UInt64) -> String {
        let tenths = (cycles * 10 + readings / 2) / max(1, readings)
        return "\(tenths / 10).\(tenths % 10)"
    }

    /// The same run but for the readings of the page: all that differs by reason are the bytes of longer numbers on the
    /// serial port, and interrupts of the host.
    private func expectNoMore(_ without: Run, _ with: Run, _ checks: inout Checks) {
        var (before, after) = (exits(without.result), exits(with.result))
        // What the report itself says: bytes to the UART by REP OUTSB, and its line status.
        let io: UInt32 = 2
        // KVM_EXIT_INTR: call-outs, of which a longer run has more.
        let callOut: UInt32 = 10
        for reason in [io, callOut] {
            before[reason] = nil
            after[reason] = nil
        }
        checks.expect("no userspace exit more by reason", before == after, "\(before), \(after)")
        guard !with.hardware.isEmpty else {
            return checks.skip("VM exits by reason", because: "the kvm_exit tracepoint does not fire here")
        }
        let isSVM = HostIdentity.backendHere == "kvm_amd"
        // Interrupts of the host: EXTERNAL_INTERRUPT, INTERRUPT_WINDOW, PREEMPTION_TIMER; INTR, NMI, VINTR. Port I/O as above.
        var known: Set<UInt32> = isSVM ? [0x60, 0x61, 0x64, 0x7B] : [1, 7, 52, 30, 0]
        // PAUSE, by which the other vCPUs wait: as many as they have time for.
        if cpus > 1 { known.insert(isSVM ? 0x77 : 40) }
        // The page's own first touches: header and blocks.
        let faults: Set<UInt32> = isSVM ? [0x400] : [48, 49]
        for (code, count) in with.hardware where !known.contains(code) {
            let none = without.hardware[code] ?? 0
            let room: UInt64 = faults.contains(code) ? UInt64(4 + 3 * cpus) : 0
            checks.expect(
                "no VM exit more of reason \(code), \(cpus) vCPU", count <= none + room,
                "\(none) without, \(count) with")
        }
    }

    private func exits(_ result: RunResult) -> [UInt32: UInt64] {
        byCode(result.total)
    }

    private func byCode(_ counts: ExitCounts) -> [UInt32: UInt64] {
        counts.reasons.reduce(into: [:]) { $0[$1.code ?? .max] = $1.count }
    }

    /// With others' readings as many in both runs, so that they cancel out.
    private func run(_ user: UInt64) throws -> Run {
        var configuration = MachineConfiguration()
        configuration.cpus = cpus
        configuration.serial = .capture
        configuration.timeoutMilliseconds = 300_000
        let image = TestGuests.pageReadings(user: user, others: min(1000, max(10, readings / 10_000)))
        let machine = try image.withUnsafeBytes { try Machine(configuration, elf: $0) }
        let hardware = TracepointCounts(.vmExitTracepoint)
        let result = try machine.run()
        let byHardware = hardware?.counts().map(byCode) ?? [:]
        guard result.end == .exited(status: 1) else { throw Unexpected("the guest ended \(result.end)") }
        let lines = String(decoding: machine.output.captured, as: UTF8.self).split(separator: "\n").compactMap { text in
            let words = text.split(separator: " ")
            let numbers = words.dropFirst(3).compactMap { UInt64($0) }
            guard words.count == 8, words[0] == "reading", numbers.count == 5 else { return nil as Line? }
            return Line(
                way: "\(words[1]), ring \(words[2])", readings: numbers[0], cycles: numbers[1], exits: numbers[2],
                piece: numbers[3], fastest: numbers[4])
        }
        return Run(result: result, mode: machine.liveCPUID.name, lines: lines, hardware: byHardware)
    }
}
