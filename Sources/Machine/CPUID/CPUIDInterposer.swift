import CLinuxKVM
import ExitStats
import KVM

/// Answers one vCPU's CPUID in userspace, by breakpoints (docs/live-cpuid.md).
///
/// DR0 guards the guest's #GP handler: with CPUID faulting on, a CPUID in ring 3 arrives there. DR1 to DR3 guard CPUID
/// instructions whose addresses are known. Both can be in use at once.
struct CPUIDInterposer: ~Copyable {
    /// Leaves answered with the live tally.
    private(set) var answered: UInt64 = 0
    /// The last such answer.
    private(set) var last: CPUIDRegisters?

    private let plan: LiveCPUIDPlan
    private let answers: TallyAnswers
    private let linear: LinearMemory
    /// Linear address of the guest's #GP handler, while the breakpoint and CPUID faulting are on.
    private var handler: UInt64?
    /// The breakpoints are off for one instruction.
    private var stepping = false
    private var faultingMSRs = FaultingMSRs()

    init(plan: LiveCPUIDPlan, answers: TallyAnswers, memory: GuestMemory) {
        self.plan = plan
        self.answers = answers
        linear = LinearMemory(memory)
    }

    /// Arms the sites. Before the vCPU's first run.
    mutating func start(_ vcpu: borrowing VCPU) throws(KVMError) {
        if !plan.sites.isEmpty {
            try setBreakpoints(vcpu)
        }
    }

    /// TSC frequency in kHz, 0 if unknown.
    var tscKHz: UInt32 { answers.tscKHz }

    /// True while the guest has not yet shown where its #GP handler is.
    var isWaitingForHandler: Bool { plan.fault && handler == nil }

    /// Arms the #GP handler's breakpoint and turns on CPUID faulting, if the guest's IDT has a gate 13 by now.
    mutating func armIfPossible(_ vcpu: borrowing VCPU) throws(KVMError) {
        guard plan.fault, let found = try generalProtectionHandler(vcpu), found != handler else { return }
        handler = found
        try setBreakpoints(vcpu)
        try FaultingMSRs.enable(vcpu)
    }

    /// KVM_EXIT_DEBUG: a CPUID of ours, or an event that is the guest's own.
    mutating func debugExit(_ vcpu: borrowing VCPU) throws(KVMError) {
        if stepping {
            stepping = false
            try setBreakpoints(vcpu)
            return
        }
        let debug = vcpu.runPage.pointee.debug.arch
        if debug.pc == handler {
            try answerFault(vcpu)
        } else if plan.sites.contains(debug.pc) {
            try answerSite(vcpu, at: debug.pc)
            try armIfPossible(vcpu)
        } else {
            try vcpu.reinjectDebugException(dr6: debug.dr6, breakpoints: breakpoints)
        }
    }

    /// RDMSR and WRMSR of what belongs to CPUID faulting, as the guest sees it; nil: #GP.
    mutating func readMSR(_ index: UInt32) -> UInt64? {
        faultingMSRs.read(index)
    }

    mutating func writeMSR(_ index: UInt32, _ value: UInt64, _ vcpu: borrowing VCPU) throws(KVMError) -> Bool {
        guard faultingMSRs.write(index, value) else { return false }
        // Linux writes 0x140 on each CPU when its IDT is final.
        try armIfPossible(vcpu)
        if handler == nil {
            try FaultingMSRs.set(vcpu, faulting: faultingMSRs.guestFaulting)
        }
        return true
    }

    /// A CPUID instruction at a known address, about to run.
    private mutating func answerSite(_ vcpu: borrowing VCPU, at address: UInt64) throws(KVMError) {
        let special = try vcpu.specialRegisters()
        let longMode = special.cs.l == 1
        let hidden = special.cs.dpl == 3 && faultingMSRs.guestFaulting
        guard !hidden, let length = linear.cpuidLength(at: address, longMode: longMode, vcpu) else {
            return try resume(vcpu)
        }
        var registers = try vcpu.registers()
        try answer(&registers, vcpu)
        registers.rip = longMode ? registers.rip &+ length : UInt64(UInt32(truncatingIfNeeded: registers.rip &+ length))
        try vcpu.setRegisters(registers)
    }

    /// A #GP, at its handler's first instruction: a CPUID of ring 3, or the guest's own affair.
    private mutating func answerFault(_ vcpu: borrowing VCPU) throws(KVMError) {
        var registers = try vcpu.registers()
        var special = try vcpu.specialRegisters()
        guard !faultingMSRs.guestFaulting,
            let words = linear.readWords(registers.rsp, count: InterruptFrame.words, vcpu),
            let frame = InterruptFrame(words), frame.errorCode == 0, frame.fromUser,
            let code = InterruptFrame.segment(frame.cs, special, linear, vcpu),
            let stack = InterruptFrame.segment(frame.ss, special, linear, vcpu),
            let length = linear.cpuidLength(at: code.base &+ frame.rip, longMode: code.l == 1, vcpu)
        else { return try resume(vcpu) }
        try answer(&registers, vcpu)
        frame.unwind(&registers, &special, code: code, stack: stack, skipping: length)
        try vcpu.setRegisters(registers)
        try vcpu.setSpecialRegisters(special)
    }

    /// Writes the answer into RAX to RDX: ours live, any other as KVM itself would have given it.
    private mutating func answer(_ registers: inout kvm_regs, _ vcpu: borrowing VCPU) throws(KVMError) {
        let leaf = UInt32(truncatingIfNeeded: registers.rax)
        let subleaf = UInt32(truncatingIfNeeded: registers.rcx)
        if let query = TallyQuery(leaf: leaf, subleaf: subleaf) {
            let result = answers.answer(query)
            answered += 1
            last = result
            (registers.rax, registers.rbx) = (UInt64(result.eax), UInt64(result.ebx))
            (registers.rcx, registers.rdx) = (UInt64(result.ecx), UInt64(result.edx))
        } else {
            // KVM changes some bits of the table as the guest changes CR4 or an MSR, so each answer reads it anew.
            let result = try vcpu.cpuid().answer(leaf: leaf, subleaf: subleaf)
            (registers.rax, registers.rbx) = (UInt64(result.eax), UInt64(result.ebx))
            (registers.rcx, registers.rdx) = (UInt64(result.ecx), UInt64(result.edx))
        }
    }

    /// Lets the guest run the instruction at the breakpoint.
    private mutating func resume(_ vcpu: borrowing VCPU) throws(KVMError) {
        if plan.resumeFlagWorks {
            var registers = try vcpu.registers()
            registers.rflags |= 0x1_0000
            try vcpu.setRegisters(registers)
        } else {
            stepping = true
            try vcpu.setGuestDebug(.singleStep)
        }
    }

    private var breakpoints: kvm_guest_debug { .breakpoints([handler] + plan.sites) }

    private func setBreakpoints(_ vcpu: borrowing VCPU) throws(KVMError) {
        try vcpu.setGuestDebug(breakpoints)
    }

    /// Where gate 13 of the guest's IDT leads in 64-bit mode; nil when there is no such gate yet (SDM vol. 3A 7.14.1).
    private func generalProtectionHandler(_ vcpu: borrowing VCPU) throws(KVMError) -> UInt64? {
        let special = try vcpu.specialRegisters()
        let longModeActive = special.efer & 0x400 != 0
        guard longModeActive, special.idt.limit >= 14 * 16 - 1,
            let gate = linear.readWords(special.idt.base &+ 13 * 16, count: 2, vcpu)
        else { return nil }
        let present = gate[0] >> 47 & 1 == 1
        let isGate = gate[0] >> 40 & 0xE == 0xE
        guard present, isGate else { return nil }
        return gate[0] & 0xFFFF | gate[0] >> 32 & 0xFFFF_0000 | gate[1] << 32
    }
}
