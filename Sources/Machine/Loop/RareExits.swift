import CLinuxKVM
import ExitStats
import Glibc
import KVM
import Linux

/// Exits that take more than a few instructions: devices, ends of the run, MSRs, breakpoints, failures.
struct RareExits: ~Copyable {
    let index: Int
    let memory: GuestMemory
    let ioAPIC: IOAPIC?
    var interposer: CPUIDInterposer
    let isPC: Bool
    /// KVM_EXIT_SHUTDOWN is the guest's way to reset.
    let tripleFaultResets: Bool

    /// The reason that a KVM_RUN which returned an error is counted under. One error is an exit of its own: -EFAULT with
    /// KVM_EXIT_MEMORY_FAULT (kvm/api.rst 5); after all others `exit_reason` is of an older exit.
    @inline(never)
    static func reason(ofError result: Int32, _ page: UnsafeMutablePointer<kvm_run>) -> UInt32 {
        isMemoryFault(result, page) ? VMTALLY_KVM_EXIT_MEMORY_FAULT : UInt32(KVM_EXIT_INTR)
    }

    private static func isMemoryFault(_ result: Int32, _ page: UnsafeMutablePointer<kvm_run>) -> Bool {
        result == -EFAULT && page.pointee.exit_reason == VMTALLY_KVM_EXIT_MEMORY_FAULT
    }

    /// Handles what KVM_RUN returned with. False when the vCPU is not to run again.
    @inline(never)
    mutating func handle(
        _ result: Int32, _ vcpu: borrowing VCPU, _ platform: Platform, _ control: RunControl
    ) -> Bool {
        result == 0 ? handleExit(vcpu, platform, control) : interrupted(result, vcpu, control)
    }

    /// KVM_RUN returned an error.
    private mutating func interrupted(_ result: Int32, _ vcpu: borrowing VCPU, _ control: RunControl) -> Bool {
        guard result == -EINTR || result == -EAGAIN else {
            let error = describe(errno: -result)
            guard Self.isMemoryFault(result, vcpu.runPage) else { return fail(vcpu, control, "KVM_RUN: \(error)") }
            let fault = vmtally_memory_fault(vcpu.runPage)
            let range = "\(hex(fault.size)) bytes at \(hex(fault.gpa))"
            return fail(vcpu, control, "KVM_EXIT_MEMORY_FAULT: \(error): \(range), flags \(hex(fault.flags))")
        }
        // In this order: a stop that comes in between sets the flag again.
        VCPU.cancelExitRequest(runPage: vcpu.runPage)
        guard control.end == nil else { return false }
        return attempt(vcpu, control) { (rare, vcpu) throws(KVMError) in try rare.interposer.arm(vcpu, .chance) }
    }

    /// Handles an exit by its reason.
    private mutating func handleExit(
        _ vcpu: borrowing VCPU, _ platform: Platform, _ control: RunControl
    ) -> Bool {
        let page = vcpu.runPage
        switch Int32(truncatingIfNeeded: page.pointee.exit_reason) {
        case KVM_EXIT_IO:
            return goesOn(platform.claimedPortAccess(page), control)
        case KVM_EXIT_MMIO:
            return goesOn(platform.claimedMemoryAccess(page), control)
        case KVM_EXIT_DEBUG:
            return attempt(vcpu, control) { (rare, vcpu) throws(KVMError) in try rare.interposer.debugExit(vcpu) }
        case KVM_EXIT_X86_RDMSR:
            let value = interposer.readMSR(page.pointee.msr.index)
            vmtally_answer_msr(page, value ?? 0, value == nil ? 1 : 0)
            return true
        case KVM_EXIT_X86_WRMSR:
            return attempt(vcpu, control) { (rare, vcpu) throws(KVMError) in
                let msr = page.pointee.msr
                let accepted = try rare.interposer.writeMSR(msr.index, msr.data, vcpu)
                vmtally_answer_msr(page, msr.data, accepted ? 0 : 1)
            }
        case KVM_EXIT_INTR, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_SET_TPR:
            return true
        case KVM_EXIT_HLT:
            // No device of ours interrupts: whatever IF says, nothing wakes this vCPU.
            control.halted()
            return false
        case KVM_EXIT_IOAPIC_EOI:
            ioAPIC?.endOfInterrupt(vector: page.pointee.eoi.vector)
            return true
        case KVM_EXIT_SHUTDOWN where tripleFaultResets:
            control.finish(.reset)
            return false
        case KVM_EXIT_SHUTDOWN where isPC:
            let failure = GuestFailure(
                vcpu: index, cause: "KVM_EXIT_SHUTDOWN", state: GuestState(vcpu, memory).description)
            control.finish(.tripleFault(failure))
            return false
        case KVM_EXIT_SYSTEM_EVENT:
            control.finish(.systemEvent(type: page.pointee.system_event.type))
            return false
        case Int32(HostAnswers.exitReason):
            interposer.cpuidExit(vmtally_cpuid_exit(page))
            return true
        case let reason:
            return fail(vcpu, control, Self.cause(reason, page))
        }
    }

    /// Ends the run if a device passes on the guest's wish for it.
    private func goesOn(_ request: GuestRequest?, _ control: RunControl) -> Bool {
        guard let request else { return true }
        control.finish(request.end)
        return false
    }

    /// Ends the run with a report.
    private func fail(_ vcpu: borrowing VCPU, _ control: RunControl, _ cause: String) -> Bool {
        let state = GuestState(vcpu, memory)
        control.finish(.failed(GuestFailure(vcpu: index, cause: cause, state: state.description)))
        return false
    }

    private mutating func attempt(
        _ vcpu: borrowing VCPU, _ control: RunControl,
        _ action: (inout RareExits, borrowing VCPU) throws(KVMError) -> Void
    ) -> Bool {
        let (waiting, changes) = (interposer.isWaitingForHandler, interposer.gateChanges)
        do {
            try action(&self, vcpu)
        } catch {
            return fail(vcpu, control, "\(error)")
        }
        if waiting != interposer.isWaitingForHandler {
            control.setWaitingForHandler(vcpu: index, !waiting)
        }
        if interposer.gateChanges != changes {
            control.callOut(except: index)
        }
        return true
    }

    /// What went wrong, with the detail that the run page has (kvm/api.rst 5).
    private static func cause(_ reason: Int32, _ page: UnsafeMutablePointer<kvm_run>) -> String {
        let name = ReasonVocabulary.kvm.name(UInt32(bitPattern: reason))
        switch reason {
        case KVM_EXIT_SHUTDOWN:
            return "\(name): triple fault"
        case KVM_EXIT_FAIL_ENTRY:
            let entry = page.pointee.fail_entry
            return
                "\(name): hardware entry failure reason \(hex(entry.hardware_entry_failure_reason)) on CPU \(entry.cpu)"
        case KVM_EXIT_INTERNAL_ERROR:
            return "\(name): \(internalError(page.pointee.internal.suberror))"
        case KVM_EXIT_EXCEPTION:
            return "\(name): vector \(page.pointee.ex.exception), error code \(hex(page.pointee.ex.error_code))"
        case KVM_EXIT_UNKNOWN:
            return "\(name): hardware exit reason \(hex(page.pointee.hw.hardware_exit_reason))"
        default:
            return "\(name): an exit that this VMM does not handle"
        }
    }

    private static func internalError(_ suberror: UInt32) -> String {
        switch Int32(truncatingIfNeeded: suberror) {
        case KVM_INTERNAL_ERROR_EMULATION: "KVM cannot emulate the instruction at RIP"
        case KVM_INTERNAL_ERROR_SIMUL_EX: "simultaneous exceptions"
        case KVM_INTERNAL_ERROR_DELIVERY_EV: "exit while an event was being delivered"
        case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: "exit reason that KVM does not know"
        default: "suberror \(suberror)"
        }
    }
}
