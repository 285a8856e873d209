// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM
import TestSupport
import Testing
@testable import Machine

/// Exits by the guest's RIP: every one of them, at the instruction that made it.
@Suite(
    .ownThread, .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"),
    .enabled(if: Host.has(.syncRegs), "KVM_CAP_SYNC_REGS is missing (Linux 4.17)"))
struct RIPTallyTests {
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
            $0.talliesByRIP = true
            $0.userspaceMSRs = [ExactnessTests.msr...ExactnessTests.msr]
        }
        let rips = try #require(outcome.result.rips)
        #expect(rips.total == outcome.result.total.pair)
        #expect(rips.other == TallyPair())
        #expect(rips.places.count == loops.places.count + 1)
        let factor = UInt64(cpus)
        for (instruction, rip, count) in loops.places {
            let found = rips.places.filter { $0.rip == rip || $0.rip == rip + 2 && !instruction.isUnfinished }
            #expect(found.map(\.code) == [UInt32(instruction.reason)], "\(instruction)")
            #expect(found.map(\.pair.count) == [count * factor], "\(instruction)")
        }
        let halt = rips.places.first { $0.code == UInt32(KVM_EXIT_HLT) }
        #expect(halt?.rip == loops.halt + 1)
        #expect(halt?.pair.count == factor)
    }

    @Test func withoutBeingAskedThereAreNone() throws {
        let outcome = try TinyGuest(Assembly.loop(10, Assembly.outByte) + Assembly.halt).run()
        #expect(outcome.result.rips == nil)
        #expect(outcome.result.anchors.isEmpty)
    }

    /// 20,000 OUTs in a row: more places than the table has room for.
    @Test func tooManyPlacesAreCountedTogether() throws {
        let outs = [UInt8]((0..<20_000).flatMap { _ in Assembly.outByte })
        let outcome = try TinyGuest(outs + Assembly.halt).run { $0.talliesByRIP = true }
        let rips = try #require(outcome.result.rips)
        #expect(outcome.count(KVM_EXIT_IO) == 20_000)
        #expect(rips.total == outcome.result.total.pair)
        #expect(rips.places.allSatisfy { $0.pair.count == 1 })
        #expect(rips.other.count == 20_001 - UInt64(rips.places.count))
        #expect(rips.other.count > 20_000 - 16_384)
    }

    /// Live CPUID changes RIP while an exit is handled: the exit stays where it came from.
    @Test(.enabled(if: Host.breakpoints.hardware, "hardware breakpoints do not hit here"))
    func answeredSitesKeepTheirPlace() throws {
        // mov eax, 0x4FFFFFFF; cpuid, 3 times
        let start = Assembly.eax(0x4FFF_FFFF)
        let guest = TinyGuest(Assembly.loop(3, start + [0x0F, 0xA2]) + Assembly.halt, sites: [5 + start.count])
        let outcome = try guest.run {
            $0.liveCPUID = .sites
            $0.talliesByRIP = true
        }
        let rips = try #require(outcome.result.rips)
        #expect(rips.places.first?.rip == TinyGuest.origin + 5 + UInt64(start.count))
        #expect(rips.places.first?.code == UInt32(KVM_EXIT_DEBUG))
        #expect(rips.places.map(\.pair.count) == [3, 1])
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
            "\(run) --by-rip 2 && \(run) --by-rip 9 --symbols \"$MAP\"; \(run) --by-rip 1 --symbols \"$GUEST.no\"",
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
