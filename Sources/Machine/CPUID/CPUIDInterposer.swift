// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM

/// Answers one vCPU's CPUID in userspace, by breakpoints (docs/live-cpuid.md).
///
/// A breakpoint guards the guest's #GP handler: with CPUID faulting on, a CPUID in ring 3 arrives there. Another guards
/// the gate that leads to it, for the guest may change it. What debug registers are left guard CPUID instructions whose
/// addresses are known, and the guest's LIDTs. Where none of these reaches ring 3, a HLT in place of a known CPUID does.
struct CPUIDInterposer: ~Copyable {
    /// Tally leaves answered so far.
    private(set) var answered = LeafReport.Answered()
    /// The last such answer.
    private(set) var last: CPUIDRegisters?
    /// The machine's totals as the guest was told them, the first ``LeafReport/readingLimit``.
    private(set) var readings: [TallyPair] = []
    /// Questions for leaves of the tally's range that have no meaning, by leaf.
    private(set) var meaningless: [UInt32: UInt64] = [:]

    /// MSR_IA32_TSX_CTRL, which hides two bits of leaf 7.
    private static let tsxControl: UInt32 = 0x122
    private static let hlt: UInt8 = 0xF4

    private let plan: LiveCPUIDPlan
    private let answers: TallyAnswers
    private let memory: GuestMemory
    private var sites: [UInt64]
    /// Code whose CPUID instruction has not been found yet.
    private(set) var searches: [CPUIDSite]
    /// Sites in ring 3 whose first byte is a HLT now.
    private var planted: [UInt64] = []
    /// The guest's #GP handler; CPUID faulting is on while it has its breakpoint.
    private var fault = FaultHandler()
    /// The breakpoints are off for one instruction.
    private var stepping = false
    private var faultingMSRs = FaultingMSRs()
    /// What KVM's MSR 0x140 has.
    private var isFaulting = false
    /// The guest has changed a gate that was armed: its other vCPUs may use the same IDT.
    private(set) var gateChanges = 0
    private var table: CPUIDTable?

    init(plan: LiveCPUIDPlan, answers: TallyAnswers, memory: GuestMemory) {
        self.plan = plan
        self.answers = answers
        self.memory = memory
        sites = plan.sites
        searches = plan.searches
    }

    /// Arms the sites. Before the vCPU's first run.
    mutating func start(_ vcpu: borrowing VCPU) throws(KVMError) {
        guard plan.usesBreakpoints else { return }
        vcpu.copyOut(.general)
        if !searches.isEmpty {
            _ = findSites(handler: nil, LinearMemory(memory: memory, special: try vcpu.specialRegisters()), vcpu)
        }
        try setBreakpoints(vcpu)
    }

    /// TSC frequency in kHz, 0 if unknown.
    var tscKHz: UInt32 { answers.tscKHz }

    /// True while the guest has not yet shown where its #GP handler is.
    var isWaitingForHandler: Bool { plan.usesHandler && fault.handler == nil }

    /// Looks at the guest's IDT: arms the #GP handler that it has now and turns CPUID faulting on, or both off.
    mutating func arm(_ vcpu: borrowing VCPU, _ occasion: FaultHandler.Occasion) throws(KVMError) {
        guard plan.usesHandler || !searches.isEmpty else { return }
        try arm(vcpu, LinearMemory(memory: memory, special: try vcpu.specialRegisters()), occasion)
    }

    private mutating func arm(
        _ vcpu: borrowing VCPU, _ linear: LinearMemory, _ occasion: FaultHandler.Occasion
    ) throws(KVMError) {
        let gate = linear.faultGate()
        let isNewSite = findSites(handler: gate?.handler, linear, vcpu)
        guard plan.usesHandler else { return isNewSite ? try setBreakpoints(vcpu) : () }
        let before = fault.handler
        let isNewHandler = fault.update(gate, occasion)
        if let before, before != fault.handler {
            gateChanges += 1
        }
        if isNewHandler, plan.plants, fault.handler != nil {
            plant(linear)
        }
        if isNewHandler || isNewSite {
            try setBreakpoints(vcpu)
        }
        try setFaulting(vcpu)
    }

    /// Has CPUID fault in ring 3 while that can be answered, or the guest wants it.
    private mutating func setFaulting(_ vcpu: borrowing VCPU) throws(KVMError) {
        let wanted = faultingMSRs.guestFaulting || (plan.fault && fault.handler != nil)
        guard wanted != isFaulting else { return }
        try FaultingMSRs.set(vcpu, faulting: wanted)
        isFaulting = wanted
    }

    /// Looks for what `searches` has; true when something was found, and is to get its breakpoint.
    private mutating func findSites(handler: UInt64?, _ linear: LinearMemory, _ vcpu: borrowing VCPU) -> Bool {
        guard !searches.isEmpty else { return false }
        var rest: [CPUIDSite] = []
        for search in searches {
            if let address = search.instruction(handler: handler, linear, vcpu) {
                sites.append(address)
            } else {
                rest.append(search)
            }
        }
        defer { searches = rest }
        return rest.count < searches.count
    }

    /// Turns CPUIDs at sites that only ring 3 can run into HLT.
    private mutating func plant(_ linear: LinearMemory) {
        for site in sites {
            guard let page = linear.walk(site), page.isUser, let code = memory.slice(page.physical, count: 2),
                code.elementsEqual([0x0F, 0xA2])
            else { continue }
            code[0] = Self.hlt
            planted.append(site)
        }
        sites.removeAll { planted.contains($0) }
    }

    /// KVM_EXIT_DEBUG: a CPUID of ours, a change of the guest's IDT, or an event that is the guest's own.
    mutating func debugExit(_ vcpu: borrowing VCPU) throws(KVMError) {
        let debug = vcpu.runPage.pointee.debug.arch
        let linear = LinearMemory(memory: memory, special: try vcpu.specialRegisters())
        let before = (handler: fault.handler, changes: gateChanges, hit: watchHit(debug.dr6))
        // The IDT may have changed, a module may have come. A LIDT that has been stepped over is the guest's word.
        try arm(vcpu, linear, stepping ? .told : .chance)
        if stepping {
            stepping = false
            return try setBreakpoints(vcpu)
        }
        if let handler = before.handler, debug.pc == handler {
            try answerFault(vcpu, linear)
        } else if sites.contains(debug.pc) {
            try answerSite(vcpu, linear, at: debug.pc)
        } else if plan.tableLoads.contains(debug.pc) {
            try step(vcpu)
        } else if !before.hit, before.changes == gateChanges {
            try vcpu.reinjectDebugException(dr6: debug.dr6, breakpoints: breakpoints)
        }
    }

    /// Whether a write breakpoint on the gate has hit, by DR6.
    private func watchHit(_ dr6: UInt64) -> Bool {
        let armed = armed
        return (armed.execution.count..<armed.execution.count + armed.writes.count).contains { dr6 >> $0 & 1 == 1 }
    }

    /// KVM_EXIT_X86_CPUID: the kernel sends us a tally leaf, with an answer that we replace.
    mutating func cpuidExit(_ exit: UnsafeMutablePointer<vmtally_cpuid_exit>) {
        guard let query = TallyQuery(leaf: exit.pointee.function, subleaf: exit.pointee.index) else { return }
        let result = live(query)
        answered.exits += 1
        exit.pointee.eax = result.eax
        exit.pointee.ebx = result.ebx
        exit.pointee.ecx = result.ecx
        exit.pointee.edx = result.edx
    }

    /// RDMSR of what belongs to CPUID faulting, as the guest sees it; nil: #GP.
    func readMSR(_ index: UInt32) -> UInt64? {
        faultingMSRs.read(index)
    }

    /// WRMSR likewise; false: #GP.
    mutating func writeMSR(_ index: UInt32, _ value: UInt64, _ vcpu: borrowing VCPU) throws(KVMError) -> Bool {
        if index == FaultingMSRs.systemCallTarget {
            // KVM refuses what the processor would.
            guard (try? vcpu.setMSRs([(index, value)])) != nil else { return false }
        } else {
            guard faultingMSRs.write(index, value) else { return false }
        }
        // By the time of either the IDT is there.
        try arm(vcpu, .told)
        if !plan.usesHandler {
            try setFaulting(vcpu)
        }
        return true
    }

    /// A CPUID instruction at a known address, about to run.
    private mutating func answerSite(
        _ vcpu: borrowing VCPU, _ linear: LinearMemory, at address: UInt64
    ) throws(KVMError) {
        let isUser = linear.special.ss.dpl == 3
        if isUser, plan.fault, fault.handler != nil {
            // Faulting covers ring 3, and knows when the guest wants the fault for itself.
            sites.removeAll { $0 == address }
            return try setBreakpoints(vcpu)
        }
        guard !(isUser && faultingMSRs.guestFaulting), let length = linear.cpuidLength(at: address, vcpu) else {
            return try resume(vcpu)
        }
        try vcpu.changeRegisters { (registers, vcpu) throws(KVMError) in
            answered.sites += try answer(&registers, vcpu)
            let next = registers.rip &+ length
            registers.rip = linear.special.cs.l == 1 ? next : UInt64(UInt32(truncatingIfNeeded: next))
        }
        try trapIfStepped(vcpu, linear.special)
    }

    /// A #GP, at its handler's first instruction: a CPUID of ring 3, or the guest's own affair.
    private mutating func answerFault(_ vcpu: borrowing VCPU, _ linear: LinearMemory) throws(KVMError) {
        guard !faultingMSRs.guestFaulting,
            let frame = InterruptFrame(at: vcpu.copies.pointee.regs.rsp, linear, vcpu),
            frame.fromUser, frame.errorCode == 0,
            let (code, stack) = frame.segments(linear, vcpu),
            let length = cpuidLength(at: code.base &+ frame.rip, linear, vcpu)
        else { return try resume(vcpu) }
        var special = linear.special
        try vcpu.changeRegisters { (registers, vcpu) throws(KVMError) in
            answered.faults += try answer(&registers, vcpu)
            frame.unwind(&registers, &special, code: code, stack: stack, past: length)
        }
        special.tr.type = plan.taskType
        vcpu.copies.pointee.sregs = special
        vcpu.copyIn(.special)
        try trapIfStepped(vcpu, special)
    }

    /// Gives a guest that steps itself the #DB that follows the CPUID just answered (SDM vol. 3B 19.3.1.4).
    private func trapIfStepped(_ vcpu: borrowing VCPU, _ special: kvm_sregs) throws(KVMError) {
        let trapFlag: UInt64 = 0x100
        let registers = vcpu.copies.pointee.regs
        guard registers.rflags & trapFlag != 0 else { return }
        // At once: KVM drops a pending exception when it takes over registers.
        vcpu.takeBack([.general, .special])
        try vcpu.setSpecialRegisters(special)
        try vcpu.setRegisters(registers)
        let step: UInt64 = 0xFFFF_4FF0  // DR6 with BS alone
        try vcpu.reinjectDebugException(dr6: step, breakpoints: breakpoints)
    }

    /// Length of the instruction that raised #GP, if it is a CPUID or stands for one.
    private func cpuidLength(at address: UInt64, _ linear: LinearMemory, _ vcpu: borrowing VCPU) -> UInt64? {
        guard planted.contains(address) else { return plan.fault ? linear.cpuidLength(at: address, vcpu) : nil }
        // The guest may have put other code there since.
        return linear.read(address, count: 2, vcpu) == [Self.hlt, 0xA2] ? 2 : nil
    }

    /// Writes the answer into RAX to RDX: ours live, any other as KVM itself would have given it.
    ///
    /// - Returns: how many tally leaves that was.
    private mutating func answer(_ registers: inout kvm_regs, _ vcpu: borrowing VCPU) throws(KVMError) -> UInt64 {
        let leaf = UInt32(truncatingIfNeeded: registers.rax)
        let subleaf = UInt32(truncatingIfNeeded: registers.rcx)
        let query = TallyQuery(leaf: leaf, subleaf: subleaf)
        let result: CPUIDRegisters
        if let query {
            result = live(query)
        } else {
            let tsxControl = leaf == 7 ? try? vcpu.msrs([Self.tsxControl]).first : nil
            let (eax, ebx, ecx, edx) = try currentTable(for: leaf, vcpu)
                .answer(leaf: leaf, subleaf: subleaf, tsxControl: tsxControl ?? 0)
            result = CPUIDRegisters(eax: eax, ebx: ebx, ecx: ecx, edx: edx)
        }
        registers.rax = UInt64(result.eax)
        registers.rbx = UInt64(result.ebx)
        registers.rcx = UInt64(result.ecx)
        registers.rdx = UInt64(result.edx)
        return query == nil ? 0 : 1
    }

    /// The tally as it is at this moment.
    private mutating func live(_ query: TallyQuery) -> CPUIDRegisters {
        let result = answers.answer(query)
        last = result
        if case .reserved(let leaf) = query {
            meaningless[leaf, default: 0] += 1
        }
        if query == .total(.machine), readings.count < LeafReport.readingLimit, let pair = result.tallyPair {
            readings.append(pair)
        }
        return result
    }

    /// The vCPU's table, read again for the leaves that KVM changes as the guest runs (kvm_update_cpuid_runtime).
    private mutating func currentTable(for leaf: UInt32, _ vcpu: borrowing VCPU) throws(KVMError) -> CPUIDTable {
        if let table, ![1, 7, 0xD].contains(leaf) {
            return table
        }
        let fresh = try vcpu.cpuid()
        table = fresh
        return fresh
    }

    /// Lets the guest run the instruction at the breakpoint.
    private mutating func resume(_ vcpu: borrowing VCPU) throws(KVMError) {
        if plan.resumeFlagWorks {
            try vcpu.changeRegisters { (registers, _) in registers.rflags |= 0x1_0000 }
        } else {
            try step(vcpu)
        }
    }

    /// The same, and comes back behind it.
    private mutating func step(_ vcpu: borrowing VCPU) throws(KVMError) {
        stepping = true
        try vcpu.setGuestDebug(.singleStep)
    }

    /// What the debug registers guard, in their order.
    private var armed: (execution: [UInt64], writes: [UInt64]) {
        let gate = plan.watchesGate ? fault.watched : nil
        // The gate's lower half, with what most guests change of it; the upper one where a register is left.
        let writes = gate.map { [$0 & ~7, ($0 & ~7) &+ 8] } ?? []
        let execution = ([fault.handler].compactMap(\.self) + sites + plan.tableLoads)
            .prefix(gate == nil ? 4 : 3)
        return (Array(execution), Array(writes.prefix(4 - execution.count)))
    }

    private var breakpoints: kvm_guest_debug { .breakpoints(armed.execution, writes: armed.writes) }

    private func setBreakpoints(_ vcpu: borrowing VCPU) throws(KVMError) {
        try vcpu.setGuestDebug(breakpoints)
    }
}

extension VCPU {
    /// Changes the general registers; KVM takes them over when it runs the vCPU again.
    fileprivate func changeRegisters(
        _ change: (inout kvm_regs, borrowing VCPU) throws(KVMError) -> Void
    ) throws(KVMError) {
        try change(&copies.pointee.regs, self)
        copyIn(.general)
    }
}
