// SPDX-License-Identifier: Apache-2.0
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
        let isMemoryFault = result == -EFAULT && page.pointee.exit_reason == VMTALLY_KVM_EXIT_MEMORY_FAULT
        return isMemoryFault ? VMTALLY_KVM_EXIT_MEMORY_FAULT : UInt32(KVM_EXIT_INTR)
    }

    /// Handles what KVM_RUN returned with. False when the vCPU is not to run again.
    @inline(never)
    mutating func handle(
        _ result: Int32, _ vcpu: borrowing VCPU, _ platform: Platform, _ control: RunControl
    ) -> Bool {
        do throws(KVMError) {
            return handle(try VCPU.Exit(after: result, runPage: vcpu.runPage), vcpu, platform, control)
        } catch {
            return fail(vcpu, control, "\(error)")
        }
    }

    /// Handles an exit, of KVM's or made up. False when the vCPU is not to run again.
    mutating func handle(
        _ exit: borrowing VCPU.Exit, _ vcpu: borrowing VCPU, _ platform: Platform, _ control: RunControl
    ) -> Bool {
        switch exit {
        case .portIn(let access):
            return goesOn(platform.claimedPortAccess(access, isRead: true), control)
        case .portOut(let access):
            return goesOn(platform.claimedPortAccess(access, isRead: false), control)
        case .mmioRead(let access):
            return goesOn(platform.claimedMemoryAccess(access, isRead: true), control)
        case .mmioWrite(let access):
            return goesOn(platform.claimedMemoryAccess(access, isRead: false), control)
        case .readMSR(let access):
            if let value = interposer.readMSR(access.index) { access.answer(value) } else { access.refuse() }
            return true
        case .writeMSR(let access):
            let (index, value) = (access.index, access.value)
            var isAccepted = false
            let goesOn = attempt(vcpu, control) { (rare, vcpu) throws(KVMError) in
                isAccepted = try rare.interposer.writeMSR(index, value, vcpu)
            }
            if isAccepted { access.answer() } else { access.refuse() }
            return goesOn
        case .debug:
            return attempt(vcpu, control) { (rare, vcpu) throws(KVMError) in try rare.interposer.debugExit(vcpu) }
        case .interrupted:
            // In this order: a stop that comes in between sets the flag again.
            VCPU.cancelExitRequest(runPage: vcpu.runPage)
            guard control.end == nil else { return false }
            return attempt(vcpu, control) { (rare, vcpu) throws(KVMError) in try rare.interposer.arm(vcpu, .chance) }
        case .halt:
            // No device of ours interrupts: whatever IF says, nothing wakes this vCPU.
            control.halted()
            return false
        case .endOfInterrupt(let vector):
            ioAPIC?.endOfInterrupt(vector: vector)
            return true
        case .shutdown where tripleFaultResets:
            control.finish(.reset)
            return false
        case .shutdown where isPC:
            let failure = GuestFailure(
                vcpu: index, cause: "KVM_EXIT_SHUTDOWN", state: GuestState(vcpu, memory).description)
            control.finish(.tripleFault(failure))
            return false
        case .shutdown:
            return fail(vcpu, control, exit, "triple fault")
        case .systemEvent(let type):
            control.finish(.systemEvent(type: type))
            return false
        case .failedEntry(let reason, let cpu):
            return fail(vcpu, control, exit, "hardware entry failure reason \(hex(reason)) on CPU \(cpu)")
        case .internalError(let suberror):
            return fail(vcpu, control, exit, Self.internalError(suberror))
        case .exception(let vector, let errorCode):
            return fail(vcpu, control, exit, "vector \(vector), error code \(hex(errorCode))")
        case .unknown(let reason):
            return fail(vcpu, control, exit, "hardware exit reason \(hex(reason))")
        case .memoryFault(let address, let size, let flags):
            return fail(
                vcpu, control, exit,
                "\(describe(errno: EFAULT)): \(hex(size)) bytes at \(hex(address)), flags \(hex(flags))")
        case .other(let reason):
            switch reason {
            case UInt32(KVM_EXIT_IRQ_WINDOW_OPEN), UInt32(KVM_EXIT_SET_TPR): return true
            case HostLeafSupport.exitReason:
                interposer.cpuidExit(vmtally_cpuid_exit(vcpu.runPage))
                return true
            default: return fail(vcpu, control, exit, "an exit that this VMM does not handle")
            }
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

    private func fail(
        _ vcpu: borrowing VCPU, _ control: RunControl, _ exit: borrowing VCPU.Exit, _ cause: String
    ) -> Bool {
        fail(vcpu, control, "\(ReasonVocabulary.kvm.name(exit.reason)): \(cause)")
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
