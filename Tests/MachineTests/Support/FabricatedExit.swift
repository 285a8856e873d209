// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import CTestSupport
import ExitStats
import Glibc
import Synchronization
@testable import KVM
@testable import Linux
@testable import Machine

/// The VMM's own loop over one KVM_RUN that never happened: the run page says what a test wants it to say.
///
/// For exits that no host can be made to give. It must be one that ends the run: the loop would get it again and again.
enum FabricatedExit {
    struct Outcome: Sendable {
        let end: RunEnd?
        let tally: ExitCounts

        var failure: GuestFailure? {
            if case .failed(let failure) = end { failure } else { nil }
        }
    }

    private final class Shared: @unchecked Sendable {
        var loop: VCPULoop

        init(_ loop: consuming VCPULoop) {
            self.loop = loop
        }
    }

    /// - Parameters:
    ///   - vcpu: a real one, or ``absentVCPU()``.
    ///   - error: what KVM_RUN fails with; 0: it succeeds.
    ///   - ended: the run has an end before.
    static func run(
        _ vcpu: consuming VCPU, _ memory: GuestMemory, error: Int32 = 0, ended: RunEnd? = nil,
        _ prepare: (UnsafeMutablePointer<kvm_run>) -> Void
    ) throws -> Outcome {
        let tally = try Tally()
        let control = try RunControl(cpus: 1)
        if let ended {
            control.finish(ended)
        }
        prepare(vcpu.runPage)
        let answers = TallyAnswers(own: tally, machine: [tally], tscKHz: 0)
        let plan = try LiveCPUIDPlan(.off, sites: [], cpus: 1, host: .none) { BreakpointSupport() }
        let interposer = CPUIDInterposer(plan: plan, answers: answers, memory: memory)
        let shared = Shared(
            VCPULoop(
                vcpu: vcpu, index: 0, tally: tally.writer,
                platform: MachineDevices(bareMetal: SerialOutput(.none), marker: BootMarker()).platform,
                control: control,
                rare: RareExits(
                    index: 0, memory: memory, ioAPIC: nil, interposer: interposer, isPC: false, tripleFaultResets: false
                )
            ))
        let refused = Mutex<Int32>(0)
        let thread = try Thread(name: "fabricated") {
            let result = ctest_answer_ioctl(VMTALLY_KVM_RUN, error)
            refused.withLock { $0 = result }
            if result == 0 {
                shared.loop.run()
            }
        }
        thread.join()
        if refused.withLock({ $0 }) != 0 {
            throw MachineError.system(SystemError("prctl(PR_SET_SECCOMP)", errno: refused.withLock { $0 }))
        }
        return Outcome(end: control.end, tally: tally.snapshot())
    }

    /// What a made-up exit does to the run: its end, or nil when the vCPU goes on.
    static func end(
        of exit: consuming VCPU.Exit, _ vcpu: consuming VCPU, _ memory: GuestMemory? = nil
    ) throws -> RunEnd? {
        let memory = try memory ?? GuestMemory(mebibytes: 1)
        let tally = try Tally()
        let control = try RunControl(cpus: 1)
        let plan = try LiveCPUIDPlan(.off, sites: [], cpus: 1, host: .none) { BreakpointSupport() }
        var rare = RareExits(
            index: 0, memory: memory, ioAPIC: nil,
            interposer: CPUIDInterposer(
                plan: plan, answers: TallyAnswers(own: tally, machine: [tally], tscKHz: 0), memory: memory),
            isPC: false, tripleFaultResets: false)
        let platform = MachineDevices(bareMetal: SerialOutput(.none), marker: BootMarker()).platform
        let goesOn = rare.handle(exit, vcpu, platform, control)
        return goesOn ? nil : control.end
    }

    /// A vCPU without KVM: a run page, and nothing that answers.
    static func absentVCPU() throws -> VCPU {
        let size = 12 << 10
        return try VCPU(
            fd: FileDescriptor(owning: ctest_memory_file(size)), runPageSize: size, coalescedPage: 0, xsaveSize: 4096)
    }
}
