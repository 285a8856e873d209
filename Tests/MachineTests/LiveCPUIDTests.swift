// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM
import TestSupport
import Testing
@testable import GuestCode
@testable import Machine

/// Leaf 0x4FFFFFFF and its kin: what is answered, and that a guest reads it live.
struct TallyAnswersTests {
    /// vCPU 0: 3 OUTs of 100, 200 and 300 cycles and one HLT under way; vCPU 1: 2 MMIO exits of 2^33 cycles.
    private static func answers(own: Int = 0) throws -> TallyAnswers {
        let tallies = [try Tally(), try Tally()]
        for cycles in [100, 200, 300] as [UInt64] {
            let writer = tallies[0].writer
            writer.end(writer.begin(UInt32(KVM_EXIT_IO)), cycles: cycles)
        }
        _ = tallies[0].writer.begin(UInt32(KVM_EXIT_HLT))
        for _ in 0..<2 {
            let writer = tallies[1].writer
            writer.end(writer.begin(UInt32(KVM_EXIT_MMIO)), cycles: 1 << 33)
        }
        return TallyAnswers(own: tallies[own], machine: tallies, tscKHz: 2_700_000)
    }

    private static func answer(_ leaf: UInt32, _ subleaf: UInt32, own: Int = 0) throws -> CPUIDRegisters {
        let query = try #require(TallyQuery(leaf: leaf, subleaf: subleaf))
        return try answers(own: own).answer(query)
    }

    @Test func signatureAndFeatures() throws {
        #expect(try Self.answer(0x4FFF_FF00, 0).isTallySignature)
        #expect(try Self.answer(0x4FFF_FF00, 77).isTallySignature)
        #expect(try Self.answer(0x4FFF_FF01, 0) == CPUIDRegisters(eax: 2, ebx: 7, ecx: 2_700_000, edx: 0))
    }

    @Test func totalOfTheMachineAndOfTheVCPU() throws {
        #expect(try Self.answer(0x4FFF_FFFF, 0).tallyPair == TallyPair(count: 6, cycles: 600 + 1 << 34))
        #expect(try Self.answer(0x4FFF_FFFF, 0) == CPUIDRegisters(eax: 6, ebx: 4, ecx: 600, edx: 0))
        #expect(try Self.answer(0x4FFF_FF02, 0).tallyPair == TallyPair(count: 4, cycles: 600))
        #expect(try Self.answer(0x4FFF_FF02, 0, own: 1).tallyPair == TallyPair(count: 2, cycles: 1 << 34))
    }

    /// GCC's `__cpuid()` and most programs for this leaf leave in ECX what was there.
    @Test(arguments: [1, 2, 0x8000_0000, 0xFFFF_FFFF] as [UInt32]) func totalsIgnoreECX(ecx: UInt32) throws {
        for leaf in [0x4FFF_FFFF, 0x4FFF_FF02] as [UInt32] {
            #expect(try Self.answer(leaf, ecx) == Self.answer(leaf, 0))
        }
    }

    @Test func reasonsOfTheMachine() throws {
        #expect(try Self.answer(0x4FFF_FFFD, UInt32(KVM_EXIT_IO)).tallyPair == TallyPair(count: 3, cycles: 600))
        #expect(try Self.answer(0x4FFF_FFFE, UInt32(KVM_EXIT_IO)) == CPUIDRegisters(eax: 3))
        // On its way: counted, not yet timed.
        #expect(try Self.answer(0x4FFF_FFFD, UInt32(KVM_EXIT_HLT)).tallyPair == TallyPair(count: 1, cycles: 0))
        // The other vCPU's.
        #expect(try Self.answer(0x4FFF_FFFD, UInt32(KVM_EXIT_MMIO)).tallyPair == TallyPair(count: 2, cycles: 1 << 34))
        // Defined, but it has not happened.
        #expect(try Self.answer(0x4FFF_FFFD, UInt32(KVM_EXIT_SHUTDOWN)) == CPUIDRegisters())
        #expect(try Self.answer(0x4FFF_FFFE, UInt32(KVM_EXIT_SHUTDOWN)) == CPUIDRegisters())
    }

    @Test(arguments: [200, 255, 256, 0x400, 0x8000_0000, 0xFFFF_FFFF] as [UInt32])
    func undefinedReasonsSaySo(code: UInt32) throws {
        #expect(try Self.answer(0x4FFF_FFFD, code) == .tallyUndefined)
        #expect(try Self.answer(0x4FFF_FFFE, code) == .tallyUndefined)
    }

    @Test func everyOtherLeafOfTheClassIsZero() throws {
        for leaf in 0x4FFF_FF03...0x4FFF_FFFC as ClosedRange<UInt32> {
            #expect(try Self.answer(leaf, 0) == CPUIDRegisters())
        }
        #expect(TallyQuery(leaf: 0x4FFF_FEFF, subleaf: 0) == nil)
        #expect(TallyQuery(leaf: 0x5000_0000, subleaf: 0) == nil)
    }
}

@Suite(.ownThread, .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"))
struct LiveCPUIDTests {
    /// mov edi, data; then for each of `reads`: mov eax, leaf; mov ecx, `ecx`; cpuid; store all four registers,
    /// 16 bytes on; `between` OUTs.
    private static func reader(
        _ reads: Int, leaf: UInt32 = 0x4FFF_FFFF, ecx: UInt32 = 0, between: UInt32
    ) -> TinyGuest {
        var code = Assembly.edi(TinyGuest.dataAddress)
        var sites: [Int] = []
        for _ in 0..<reads {
            code += Assembly.eax(leaf) + Assembly.ecx(ecx)
            sites.append(code.count)
            // cpuid; mov [rdi], eax; mov [rdi + 4], ebx; mov [rdi + 8], ecx; mov [rdi + 12], edx; add edi, 16
            code += [0x0F, 0xA2, 0x89, 0x07, 0x89, 0x5F, 0x04, 0x89, 0x4F, 0x08, 0x89, 0x57, 0x0C, 0x83, 0xC7, 0x10]
            code += Assembly.loop(between, Assembly.outByte)
        }
        return TinyGuest(code + Assembly.sendAndHalt(reads * 16), sites: sites)
    }

    private static func readings(_ bytes: [UInt8]) -> [CPUIDRegisters] {
        bytes.withUnsafeBytes { raw in
            stride(from: 0, to: raw.count - 15, by: 16).map { start in
                func word(_ index: Int) -> UInt32 {
                    raw.loadUnaligned(fromByteOffset: start + index * 4, as: UInt32.self)
                }
                return CPUIDRegisters(eax: word(0), ebx: word(1), ecx: word(2), edx: word(3))
            }
        }
    }

    @Test(
        .enabled(if: Host.breakpoints.hardware, "hardware breakpoints do not hit here"),
        arguments: [(0x4FFF_FFFF, 0), (0x4FFF_FFFF, 0x8BAD_F00D), (0x4FFF_FF02, 0), (0x4FFF_FF02, 7)]
            as [(UInt32, UInt32)])
    func readingsAtSitesAreLiveAndExact(leaf: UInt32, ecx: UInt32) throws {
        let outcome = try Self.reader(3, leaf: leaf, ecx: ecx, between: 10).run { $0.liveCPUID = .sites }
        #expect(outcome.result.end == .halted)
        #expect(outcome.plan.name == "sites")
        let registers = Self.readings(outcome.serial)
        let pairs = registers.compactMap(\.tallyPair)
        // The exit that carries the query is in the count.
        #expect(pairs.map(\.count) == [1, 12, 23])
        // Its own time is not; that of all before it is.
        #expect(pairs.first?.cycles == 0)
        #expect(zip(pairs, pairs.dropFirst()).allSatisfy { $0.cycles < $1.cycles })
        let last = try #require(pairs.last)
        #expect(last.cycles < outcome.result.total.pair.cycles)
        // What came after the last reading: 10 OUTs, 48 bytes sent, the HLT.
        #expect(last.count + 10 + 48 + 1 == outcome.result.total.total)
        #expect(outcome.result.leaf.last == registers.last)
        #expect(outcome.counts == [KVM_EXIT_DEBUG: 3, KVM_EXIT_IO: 30 + 48, KVM_EXIT_HLT: 1])
    }

    /// Without live answers the table's snapshot holds: the leaves are there, all counts zero, and no exit is spent.
    @Test func snapshotIsZero() throws {
        let outcome = try Self.reader(2, between: 1).run()
        #expect(outcome.plan.name == "snapshot")
        #expect(Self.readings(outcome.serial) == [CPUIDRegisters(), CPUIDRegisters()])
        #expect(outcome.counts == [KVM_EXIT_IO: 2 + 32, KVM_EXIT_HLT: 1])
        #expect(outcome.result.leaf.last == nil)
    }

    /// Sites beyond the debug registers' number, and sites at addresses that cannot be, harm nothing.
    @Test(.enabled(if: Host.breakpoints.hardware, "hardware breakpoints do not hit here"))
    func surplusSitesFallBackToTheSnapshot() throws {
        let outcome = try Self.reader(5, between: 1).run { $0.liveCPUID = .sites }
        #expect(outcome.result.end == .halted)
        #expect(Self.readings(outcome.serial).map(\.eax) == [1, 3, 5, 0, 0])

        var builder = ELFBuilder()
        builder.entry = 0x10_0000
        builder.segments = [.init(address: 0x10_0000, bytes: [0xF4])]
        builder.sites = little(UInt64.max) + little(UInt64(1) << 47) + little(UInt64(0))
        var configuration = MachineConfiguration()
        configuration.liveCPUID = .sites
        let machine = try builder.bytes.withUnsafeBytes {
            try Machine(configuration, elf: $0, support: Host.breakpoints)
        }
        #expect(try machine.run().end == .halted)
    }

    /// Code that only the user knows of: by address and by name.
    @Test(
        .enabled(if: Host.breakpoints.hardware, "hardware breakpoints do not hit here"), arguments: ["address", "name"])
    func codeThatTheUserNamesIsLive(way: String) throws {
        var guest = Self.reader(3, between: 10)
        guest.sites = []
        let start = TinyGuest.origin + 5
        let site: [CPUIDSite]
        if way == "address" {
            site = [CPUIDSite(name: "reader", address: start)]
        } else {
            let map = Array("\(String(start, radix: 16)) t reader\n\(String(start + 64, radix: 16)) t next\n".utf8)
            site = CPUIDSite.named("reader", in: try map.withUnsafeBytes { try SymbolTable($0) })
        }
        let outcome = try guest.run {
            $0.liveCPUID = .sites
            $0.cpuidSites = site
        }
        #expect(outcome.plan.name == "sites")
        #expect(outcome.result.leaf.unmatchedSites.isEmpty)
        // The first of the three.
        #expect(Self.readings(outcome.serial).map(\.eax) == [1, 0, 0])
        #expect(outcome.count(KVM_EXIT_DEBUG) == 1)
    }

    @Test(.enabled(if: Host.breakpoints.hardware, "hardware breakpoints do not hit here"))
    func codeWithoutCPUIDIsTold() throws {
        let outcome = try TinyGuest(Assembly.halt).run {
            $0.liveCPUID = .sites
            $0.cpuidSites = [
                CPUIDSite(name: "nothing", address: TinyGuest.origin), CPUIDSite(name: "nowhere", address: .max - 1),
            ]
        }
        #expect(outcome.result.end == .halted)
        #expect(outcome.result.leaf.unmatchedSites == ["nothing", "nowhere"])
    }

    /// A guest that steps itself gets its #DB behind the CPUID that was answered, as behind any other instruction.
    ///
    /// lidt; mov eax, 0x4FFFFFFF; xor ecx, ecx; pushfq; or qword [rsp], 0x100; popfq; cpuid; nop; nop; hlt
    /// #DB: mov ebx, data; mov rax, [rsp]; mov [rbx], rax; mov rax, dr6; mov [rbx + 8], rax; send 16 bytes; hlt
    @Test(.enabled(if: Host.breakpoints.hardware, "hardware breakpoints do not hit here"))
    func theGuestsOwnStepEndsBehindTheCPUID() throws {
        let before =
            Assembly.loadIDT + Assembly.eax(0x4FFF_FFFF) + [0x31, 0xC9]
            + [0x9C, 0x48, 0x81, 0x0C, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9D]
        let main = before + [0x0F, 0xA2, 0x90, 0x90] + Assembly.halt
        let handler =
            [0xBB] + little(UInt32(TinyGuest.dataAddress)) + [0x48, 0x8B, 0x04, 0x24] + Assembly.storeRAX
            + [0x0F, 0x21, 0xF0, 0x48, 0x89, 0x43, 0x08] + Assembly.sendAndHalt(16)
        let guest = TinyGuest(main + handler, sites: [before.count], handlers: [1: main.count])
        let site = TinyGuest.codeAddress + UInt64(TinyGuest.prologue.count + before.count)
        for mode in [LiveCPUIDMode.off, .sites] {
            let outcome = try guest.run { $0.liveCPUID = mode }
            #expect(outcome.result.leaf.answered.sites == (mode == .sites ? 1 : 0))
            #expect(outcome.serial.count == 16, "\(outcome.result.end)")
            guard outcome.serial.count == 16 else { continue }
            let (rip, dr6) = outcome.serial.withUnsafeBytes {
                ($0.loadUnaligned(as: UInt64.self), $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            }
            #expect(rip == site + 2, "\(mode): \(rip - site) bytes behind the CPUID")
            #expect(dr6 & 0x400F == 0x4000, "\(mode): DR6 \(dr6)")
        }
    }

    @Test(.enabled(if: !Host.breakpoints.faulting, "CPUID in ring 3 faults here"))
    func missingModeIsRefusedWithTheReason() throws {
        #expect {
            try TinyGuest(Assembly.halt).run { $0.liveCPUID = .fault }
        } throws: { error in
            "\(error)".contains("live CPUID: no fault") && "\(error)".contains("use auto")
        }
    }
}
