// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM
import TestSupport
import Testing
@testable import Machine

/// Exits by where they come from: every one of them, at the instruction, port, MSR or address that made it.
@Suite(
    .ownThread, .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"),
    .enabled(if: Host.has(.syncRegs), "KVM_CAP_SYNC_REGS is missing (Linux 4.17)"))
struct PlaceTallyTests {
    /// Instructions that exit, each in a loop of its own.
    private enum Instruction: CaseIterable {
        case out, read, portRead, write, msrRead

        var code: [UInt8] {
            switch self {
            case .out: Assembly.outByte
            case .read: [0x8B, 0x07]  // mov eax, [rdi]
            case .portRead: [0xE4, 0x80]  // in al, 0x80
            case .write: [0x89, 0x07]  // mov [rdi], eax
            case .msrRead: [0x0F, 0x32]  // rdmsr
            }
        }

        var reason: Int32 {
            switch self {
            case .out, .portRead: KVM_EXIT_IO
            case .read, .write: KVM_EXIT_MMIO
            case .msrRead: KVM_EXIT_X86_RDMSR
            }
        }

        /// KVM lets the instruction finish when it runs the vCPU again; others it has finished, or only where its
        /// emulator ran them.
        var isUnfinished: Bool { self == .read || self == .portRead || self == .msrRead }
    }

    private struct Loops {
        let guest: TinyGuest
        /// Where each instruction lies, and how often it runs.
        var places: [(Instruction, rip: UInt64, count: UInt64)] = []
        var halt: UInt64 = 0

        init(scale: UInt32) {
            var code = Assembly.loadIDT + Assembly.edi(TinyGuest.deviceAddress) + Assembly.ecx(ExactnessTests.msr)
            for (index, instruction) in Instruction.allCases.enumerated() {
                let count = scale * UInt32(index + 1)
                // mov ebp, count is 5 bytes.
                places.append((instruction, TinyGuest.origin + UInt64(code.count) + 5, UInt64(count)))
                // RDMSR's #GP handler leaves ECX alone, RAX not.
                code += Assembly.loop(count, instruction.code)
            }
            halt = TinyGuest.origin + UInt64(code.count)
            code += Assembly.halt
            guest = TinyGuest(code + Assembly.skipTwoBytes, handlers: [13: code.count])
        }
    }

    @Test(
        .enabled(if: Host.has(.x86UserSpaceMSR), "KVM_CAP_X86_USER_SPACE_MSR is missing (Linux 5.10)"),
        arguments: [1, 4])
    func everyExitHasItsPlace(cpus: Int) throws {
        let loops = Loops(scale: 200)
        let outcome = try loops.guest.run {
            $0.cpus = cpus
            $0.places = [.rip]
            $0.userspaceMSRs = [ExactnessTests.msr...ExactnessTests.msr]
        }
        let rips = try #require(outcome.result.places[.rip])
        #expect(rips.total == outcome.result.total.pair)
        #expect(rips.withoutRoom == TallyPair())
        #expect(rips.counts.count == loops.places.count + 1)
        let factor = UInt64(cpus)
        for (instruction, rip, count) in loops.places {
            let found = rips.counts.filter {
                $0.place.value == rip || $0.place.value == rip + 2 && !instruction.isUnfinished
            }
            #expect(found.map(\.place.code) == [UInt32(instruction.reason)], "\(instruction)")
            #expect(found.map(\.pair.count) == [count * factor], "\(instruction)")
        }
        let halt = rips.counts.first { $0.place.code == UInt32(KVM_EXIT_HLT) }
        #expect(halt?.place.value == loops.halt + 1)
        #expect(halt?.pair.count == factor)
    }

    @Test func withoutBeingAskedThereAreNone() throws {
        let outcome = try TinyGuest(Assembly.loop(10, Assembly.outByte) + Assembly.halt).run()
        #expect(outcome.result.places.isEmpty)
        #expect(outcome.result.anchors.isEmpty)
    }

    /// 20,000 OUTs in a row: more places than the table has room for.
    @Test func tooManyPlacesAreCountedTogether() throws {
        let outs = [UInt8]((0..<20_000).flatMap { _ in Assembly.outByte })
        let outcome = try TinyGuest(outs + Assembly.halt).run { $0.places = [.rip] }
        let rips = try #require(outcome.result.places[.rip])
        #expect(outcome.count(KVM_EXIT_IO) == 20_000)
        #expect(rips.total == outcome.result.total.pair)
        #expect(rips.counts.allSatisfy { $0.pair.count == 1 })
        #expect(rips.withoutRoom.count == 20_001 - UInt64(rips.counts.count))
        #expect(rips.withoutRoom.count > 20_000 - 16_384)
    }

    /// Live CPUID changes RIP while an exit is handled: the exit stays where it came from.
    @Test(.enabled(if: Host.breakpoints.hardware, "hardware breakpoints do not hit here"))
    func answeredSitesKeepTheirPlace() throws {
        // mov eax, 0x4FFFFFFF; cpuid, 3 times
        let start = Assembly.eax(0x4FFF_FFFF)
        let guest = TinyGuest(Assembly.loop(3, start + [0x0F, 0xA2]) + Assembly.halt, sites: [5 + start.count])
        let outcome = try guest.run {
            $0.liveCPUID = .sites
            $0.places = [.rip]
        }
        let rips = try #require(outcome.result.places[.rip])
        #expect(rips.counts.first?.place.value == TinyGuest.origin + 5 + UInt64(start.count))
        #expect(rips.counts.first?.place.code == UInt32(KVM_EXIT_DEBUG))
        #expect(rips.counts.map(\.pair.count) == [3, 1])
    }

    /// in and out of several sizes, a read and a write, RDMSR and WRMSR: each where and as often as the guest made it.
    @Test(
        .enabled(if: Host.has(.x86UserSpaceMSR), "KVM_CAP_X86_USER_SPACE_MSR is missing (Linux 5.10)"),
        arguments: [1, 2])
    func portsMSRsAndAddresses(cpus: Int) throws {
        var code = Assembly.loadIDT + Assembly.edi(TinyGuest.deviceAddress) + Assembly.ecx(ExactnessTests.msr)
        code += Assembly.edx(0x5678)
        let loops: [(times: UInt32, body: [UInt8])] = [
            (7, Assembly.outByte), (5, [0xE4, 0x80]), (11, [0x66, 0xEF]),  // out dx, ax
            (13, [0xED]),  // in eax, dx
            (17, [0x89, 0x07]), (19, [0x8B, 0x07]), (23, [0x8A, 0x47, 0x04]),  // mov al, [rdi + 4]
            (29, [0x0F, 0x32]), (31, [0x0F, 0x30]),
        ]
        for loop in loops { code += Assembly.loop(loop.times, loop.body) }
        code += Assembly.halt
        let guest = TinyGuest(code + Assembly.skipTwoBytes, handlers: [13: code.count])
        let outcome = try guest.run {
            $0.cpus = cpus
            $0.places = [.port, .msr, .address]
            $0.userspaceMSRs = [ExactnessTests.msr...ExactnessTests.msr]
        }
        #expect(outcome.result.places[.rip] == nil)
        func counts(_ axis: PlaceAxis) throws -> [ExitPlace: UInt64] {
            let snapshot = try #require(outcome.result.places[axis])
            #expect(snapshot.withoutRoom == TallyPair())
            return snapshot.counts.reduce(into: [:]) { $0[$1.place] = $1.pair.count / UInt64(cpus) }
        }
        func access(_ value: UInt64, _ code: Int32, _ isWrite: Bool, _ size: UInt8) -> ExitPlace {
            ExitPlace(value, code: UInt32(code), isWrite: isWrite, size: size)
        }
        let port: UInt64 = 0x5678
        #expect(
            try counts(.port) == [
                access(0x80, KVM_EXIT_IO, true, 1): 7, access(0x80, KVM_EXIT_IO, false, 1): 5,
                access(port, KVM_EXIT_IO, true, 2): 11, access(port, KVM_EXIT_IO, false, 4): 13,
            ])
        let address = TinyGuest.deviceAddress
        #expect(
            try counts(.address) == [
                access(address, KVM_EXIT_MMIO, true, 4): 17, access(address, KVM_EXIT_MMIO, false, 4): 19,
                access(address + 4, KVM_EXIT_MMIO, false, 1): 23,
            ])
        let msr = UInt64(ExactnessTests.msr)
        #expect(
            try counts(.msr) == [
                ExitPlace(msr, code: UInt32(KVM_EXIT_X86_RDMSR)): 29,
                ExitPlace(msr, code: UInt32(KVM_EXIT_X86_WRMSR)): 31,
            ])
        // The cycles of a reason are those of its places.
        for (axis, codes) in [
            (PlaceAxis.port, [KVM_EXIT_IO]), (.address, [KVM_EXIT_MMIO]),
            (.msr, [KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR]),
        ] {
            let cycles = codes.reduce(0) { $0 + (outcome.result.total[UInt32($1)]?.times?.cycles ?? 0) }
            #expect(outcome.result.places[axis]?.total.cycles == cycles, "\(axis)")
        }
    }

    /// A guest that writes to one address after the other: bounded memory, and no exit is lost. Its ports have a table of
    /// their own.
    @Test func aGuestThatTouchesEverythingIsCountedTogether() throws {
        // mov [rdi], eax; add rdi, 4: 30,000 times; out 0x80, al
        let code =
            Assembly.edi(TinyGuest.deviceAddress) + Assembly.loop(30_000, [0x89, 0x07, 0x48, 0x83, 0xC7, 0x04])
            + Assembly.outByte + Assembly.halt
        let outcome = try TinyGuest(code).run { $0.places = [.address, .port] }
        let addresses = try #require(outcome.result.places[.address])
        #expect(addresses.total.count == 30_000)
        #expect(addresses.counts.count <= PlaceTally.slotCount)
        #expect(addresses.withoutRoom.count == 30_000 - UInt64(addresses.counts.count))
        #expect(addresses.counts.allSatisfy { $0.pair.count == 1 })
        #expect(outcome.result.places[.port]?.counts.map(\.pair.count) == [1])
    }

    /// What the command prints, and what it refuses.
    @Test(.enabled(if: CommandLineTool.missing == nil, "\(CommandLineTool.missing ?? "")"))
    func theCommandShowsPortsAndAddresses() throws {
        let folder = try TemporaryFolder()
        let code =
            Assembly.loop(60, Assembly.outByte) + Assembly.loop(30, [0xE4, 0x80]) + Assembly.edi(0xFEC0_1000)
            + Assembly.loop(20_000, [0x89, 0x07, 0x48, 0x83, 0xC7, 0x04]) + Assembly.halt
        let file = try folder.file("guest.elf", TinyGuest(code).elf)
        let outcome = try CommandLineTool.run(
            "\"$VMTALLY\" run --live-cpuid off --by port address 1 msr --guest \"$GUEST\" --stats-json -",
            ["GUEST": file])
        #expect(outcome.status == 0)
        #expect(outcome.error.contains(/\n0x80 POST code +out 1 +60 +0.3 %/), "\(outcome.error)")
        #expect(outcome.error.contains(/\n0x80 POST code +in 1 +30 +0.1 %/), "\(outcome.error)")
        #expect(outcome.error.contains(#/\nall others +19,999 /#), "\(outcome.error)")
        #expect(outcome.error.contains(/\nall others: [0-9,]+ of them beyond the 16,384 places/), "\(outcome.error)")
        #expect(outcome.error.contains("by msr: none"), "\(outcome.error)")
        let first = #/"access":"out",.*"count":60,.*"device":"POST code",.*"port":128,"size":1/#
        #expect(outcome.output.contains(first), "\(outcome.output)")
        #expect(outcome.output.contains(#""by_msr":[]"#), "\(outcome.output)")
        #expect(outcome.output.contains(/"by_address_others":{"count":19999,"cycles":[0-9]+,"without_room":[0-9]+}/))
        #expect(!outcome.output.contains("by_rip"))
        for wrong in ["", "irq", "5", "port 0", "port port", "rip --by-rip 3", "port 10001"] {
            let refused = try CommandLineTool.run("\"$VMTALLY\" run --guest \"$GUEST\" --by \(wrong)", ["GUEST": file])
            #expect(refused.status == 64, "\(wrong): \(refused.error)")
        }
    }

    /// The guest's ELF names its own code; JSON has what the table has.
    @Test(.enabled(if: CommandLineTool.missing == nil, "\(CommandLineTool.missing ?? "")"))
    func theCommandNamesThePlaces() throws {
        let folder = try TemporaryFolder()
        var guest = TinyGuest(Assembly.loop(70, Assembly.outByte) + Assembly.loop(30, [0xE4, 0x80]) + Assembly.halt)
        guest.symbols = ["writer": 0, "reader": 11]
        let file = try folder.file("guest.elf", guest.elf)
        let map = try folder.file(
            "map", Array("\(String(TinyGuest.origin, radix: 16)) T everything\nfffffff0 D data\n".utf8))
        let run = "\"$VMTALLY\" run --live-cpuid off --guest \"$GUEST\" --stats-json -"
        let outcome = try CommandLineTool.run(
            "\(run) --by-rip 2 && \(run) --by rip 9 --symbols \"$MAP\"; \(run) --by-rip 1 --symbols \"$GUEST.no\"",
            ["GUEST": file, "MAP": map])
        #expect(outcome.error.contains("writer+0x"), "\(outcome.error)")
        #expect(outcome.error.contains(/reader\+0x5 +0x[0-9a-f]+ +KVM_EXIT_IO +30 +29.7 %/), "\(outcome.error)")
        #expect(outcome.error.contains(/all others +1 +1.0 %/), "\(outcome.error)")
        #expect(outcome.error.contains("everything+0x"), "\(outcome.error)")
        #expect(outcome.error.contains("guest.elf.no: No such file or directory"), "\(outcome.error)")
        #expect(outcome.output.contains(#""symbol":"reader""#), "\(outcome.output)")
        #expect(outcome.output.contains(/"by_rip_others":{"count":1,"cycles":[0-9]+}/), "\(outcome.output)")
        #expect(outcome.status == 1)
    }
}
