// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM
import TestSupport
import Testing
@testable import Machine

/// Every exit is counted, once, under its reason and its vCPU.
@Suite(.ownThread, .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"), .serialized)
struct ExactnessTests {
    /// An MSR that goes to userspace, where nothing answers it: each access raises #GP.
    static let msr: UInt32 = 0x1234

    /// How many exits of each kind, over all vCPUs.
    struct Load: CustomTestStringConvertible, Sendable {
        let vcpus: UInt64
        let outs: UInt64
        let writes: UInt64
        let msrReads: UInt64

        var testDescription: String { "\(vcpus) vCPU(s), \(outs) OUTs" }
        var total: UInt64 { outs + writes + msrReads + vcpus }

        /// Each vCPU makes its share of each kind, and halts.
        var guest: TinyGuest {
            // out 0x80, al
            let outs = Assembly.loop(UInt32(self.outs / vcpus), Assembly.outByte)
            // mov [rdi], eax
            let writes =
                Assembly.edi(TinyGuest.deviceAddress) + Assembly.loop(UInt32(self.writes / vcpus), [0x89, 0x07])
            // mov ecx, msr; rdmsr
            let reads = Assembly.loop(UInt32(msrReads / vcpus), Assembly.ecx(msr) + [0x0F, 0x32])
            let code = Assembly.loadIDT + outs + writes + reads + Assembly.halt
            return TinyGuest(code + Assembly.skipTwoBytes, handlers: [13: code.count])
        }
    }

    @Test(
        .enabled(if: Host.has(.x86UserSpaceMSR), "KVM_CAP_X86_USER_SPACE_MSR is missing (Linux 5.10)"),
        .timeLimit(.minutes(60)),
        arguments: [
            Load(vcpus: 1, outs: 1_000_000, writes: 100_000, msrReads: 10_000),
            Load(vcpus: 2, outs: 100_000, writes: 10_000, msrReads: 1_000),
            Load(vcpus: 4, outs: 100_000, writes: 10_000, msrReads: 1_000),
        ])
    func everyExitIsCounted(_ load: Load) throws {
        let outcome = try load.guest.run {
            $0.cpus = Int(load.vcpus)
            $0.userspaceMSRs = [Self.msr...Self.msr]
            $0.timeoutMilliseconds = 3_600_000
        }
        let result = outcome.result
        #expect(result.end == .halted)
        #expect(
            outcome.counts == [
                KVM_EXIT_IO: load.outs, KVM_EXIT_MMIO: load.writes, KVM_EXIT_X86_RDMSR: load.msrReads,
                KVM_EXIT_HLT: load.vcpus,
            ])
        #expect(result.total.total == load.total)
        #expect(
            result.vcpus.map(\.total)
                == [UInt64](repeating: load.total / load.vcpus, count: Int(load.vcpus)))
        for vcpu in result.vcpus {
            #expect(vcpu[UInt32(KVM_EXIT_IO)]?.count == load.outs / load.vcpus)
            #expect(vcpu[UInt32(KVM_EXIT_HLT)]?.count == 1)
        }

        for reason in result.total.reasons {
            let times = try #require(reason.times)
            #expect(times.ended == reason.count)
            let range = try #require(times.range)
            #expect(range.lowerBound > 0)
            #expect((range.lowerBound * reason.count...range.upperBound * reason.count).contains(times.cycles))
        }
        // Each vCPU's handling lies within the run, as a clock outside of it sees it.
        for vcpu in result.vcpus {
            #expect(vcpu.pair.cycles > 0 && vcpu.pair.cycles < outcome.outerCycles)
        }
        #expect(Double(result.wallNanoseconds) * Double(outcome.tscKHz) / 1e6 <= Double(outcome.outerCycles) * 1.001)
        try Self.expectKernelAgrees(result, userspaceExits: load.total)
    }

    /// KVM's own `exits` are ours and those that it kept: where ring 0 is emulated, these are the moments at which the
    /// host wanted the processor back (no counter of their own there), some hundred a second.
    static func expectKernelAgrees(
        _ result: RunResult, userspaceExits: UInt64, sharing: UInt64 = 0,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let exits = try #require(result.kernel.values["exits"])
        try #require(exits + sharing >= userspaceExits, sourceLocation: sourceLocation)
        let kept = exits + sharing - userspaceExits
        if Host.emulatesRing0 {
            let seconds = Double(result.wallNanoseconds) / 1e9 * Double(result.vcpus.count)
            #expect(Double(kept) <= 2 + 4000 * seconds, sourceLocation: sourceLocation)
        }
        #expect(
            result.kernel.values["halt_exits"] == result.total[UInt32(KVM_EXIT_HLT)]?.count ?? 0,
            sourceLocation: sourceLocation)
    }

    /// A write to an MSR goes the same way, and the guest survives the #GPs: its handler has counted them.
    @Test(.enabled(if: Host.has(.x86UserSpaceMSR), "KVM_CAP_X86_USER_SPACE_MSR is missing (Linux 5.10)"))
    func userspaceMSRsRaiseGeneralProtection() throws {
        // lidt; mov ecx, msr; rdmsr; wrmsr; wrmsr; mov [rbx], r12
        let code =
            Assembly.loadIDT + Assembly.ecx(Self.msr) + [0x0F, 0x32, 0x0F, 0x30, 0x0F, 0x30, 0x4C, 0x89, 0x23]
            + Assembly.sendAndHalt(1)
        let guest = TinyGuest(code + Assembly.skipTwoBytes, handlers: [13: code.count])
        let outcome = try guest.run { $0.userspaceMSRs = [Self.msr...Self.msr] }
        #expect(outcome.result.end == .halted)
        #expect(outcome.serial == [3])
        #expect(
            outcome.counts == [
                KVM_EXIT_X86_RDMSR: 1, KVM_EXIT_X86_WRMSR: 2, KVM_EXIT_IO: 1, KVM_EXIT_HLT: 1,
            ])
    }

    /// While CPUID faulting is in use, the guest's view of it is a shadow: MSR 0xCE says that it exists, 0x140 holds
    /// what the guest wrote.
    @Test(.enabled(if: Host.has(.x86UserSpaceMSR), "KVM_CAP_X86_USER_SPACE_MSR is missing (Linux 5.10)"))
    func faultingMSRsAreShadowed() throws {
        // mov [rbx + offset], eax; mov [rbx + offset + 4], edx
        func store(_ offset: UInt8) -> [UInt8] { [0x89, 0x43, offset, 0x89, 0x53, offset + 4] }
        let read: [UInt8] = [0x0F, 0x32]
        let write: [UInt8] = [0x0F, 0x30]
        let code =
            Assembly.loadIDT + Assembly.ecx(0xCE) + read + store(0) + Assembly.ecx(0x140) + read + store(8)
            + Assembly.eax(1) + Assembly.edx(0) + write + read + store(16)
            // A reserved bit, and a write to what is read-only: #GP.
            + Assembly.eax(2) + write + Assembly.ecx(0xCE) + write
            + [0x4C, 0x89, 0x63, 24] + Assembly.sendAndHalt(32)
        let guest = TinyGuest(code + Assembly.skipTwoBytes, handlers: [13: code.count])
        var configuration = MachineConfiguration()
        configuration.liveCPUID = .fault
        configuration.serial = .capture
        configuration.timeoutMilliseconds = 3_600_000
        let machine = try guest.elf.withUnsafeBytes { bytes in
            try Machine(
                configuration, elf: bytes,
                support: BreakpointSupport(
                    hardware: true, resumeFlag: Host.breakpoints.resumeFlag, faulting: true))
        }
        let result = try machine.run()
        #expect(result.end == .halted)
        let words = machine.output.captured.withUnsafeBytes { bytes in
            stride(from: 0, to: bytes.count, by: 8).map { bytes.loadUnaligned(fromByteOffset: $0, as: UInt64.self) }
        }
        #expect(words == [1 << 31, 0, 1, 2])
        #expect(result.total[UInt32(KVM_EXIT_X86_RDMSR)]?.count == 3)
        #expect(result.total[UInt32(KVM_EXIT_X86_WRMSR)]?.count == 3)
    }

    /// vCPUs that halt at different times: the last one ends the run.
    @Test func lastHaltEndsTheRun() throws {
        // test esi, esi; jz 1f; 100 OUTs; 1: hlt
        let outs = Assembly.loop(100, Assembly.outByte)
        let outcome = try TinyGuest([0x85, 0xF6, 0x74, UInt8(outs.count)] + outs + Assembly.halt).run { $0.cpus = 4 }
        #expect(outcome.result.end == .halted)
        #expect(outcome.counts == [KVM_EXIT_IO: 300, KVM_EXIT_HLT: 4])
        #expect(outcome.result.vcpus.map(\.total) == [1, 101, 101, 101])
    }

    /// The first vCPU that ends the run takes the others with it, wherever they are.
    @Test func exitOfOneVCPUStopsTheOthers() throws {
        // test esi, esi; jnz 1f; mov al, 21; out 0xF4, al; 1: jmp 1b
        let outcome = try TinyGuest([0x85, 0xF6, 0x75, 0x04, 0xB0, 21, 0xE6, 0xF4, 0xEB, 0xFE]).run { $0.cpus = 4 }
        #expect(outcome.result.end == .exited(status: 43))
        #expect(outcome.count(KVM_EXIT_IO) == 1)
        #expect(outcome.result.wallNanoseconds < 30_000_000_000)
    }

    @Test func spinningGuestEndsAtItsTimeout() throws {
        // 1: jmp 1b
        let outcome = try TinyGuest([0xEB, 0xFE]).run {
            $0.cpus = 2
            $0.timeoutMilliseconds = 100
        }
        #expect(outcome.result.end == .timeout)
        #expect(outcome.result.end.exitStatus == 124)
        #expect(outcome.result.wallNanoseconds >= 100_000_000)
        #expect(outcome.counts == [KVM_EXIT_INTR: 2])
    }
}
