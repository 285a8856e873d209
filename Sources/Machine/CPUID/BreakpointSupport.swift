import CLinuxKVM
import KVM

/// What guest debugging on this host can do, found out by trying it in a VM of its own.
///
/// KVM_CAP_SET_GUEST_DEBUG says yes on hosts whose breakpoints never hit (SVM under TCG), and CPUID faulting is in
/// every vCPU's MSRs on hosts where ring 3's CPUID never reaches KVM (kvm_pvm on AMD): only a trial tells.
public struct BreakpointSupport: Equatable, Sendable {
    /// An execution breakpoint in a debug register ends KVM_RUN with KVM_EXIT_DEBUG.
    public var hardware = false
    /// RFLAGS.RF lets the guest run the instruction at the breakpoint.
    public var resumeFlag = false
    /// CPUID in ring 3 raises #GP when MSR 0x140 bit 0 is set, and the breakpoint on its handler hits.
    public var faulting = false

    /// A privileged instruction in ring 3 raises #GP, and the breakpoint on its handler hits.
    public var privilegedFaults = false

    /// The same in words, nil when all is there.
    public var missing: String? {
        if !hardware {
            return "hardware breakpoints do not hit in guests of this host"
        }
        return faulting ? nil : "CPUID in ring 3 does not fault on this host"
    }

    /// A trial that takes longer than this is stuck, ms.
    private static let patience = 1000

    // nop; out %al, $0x80; hlt
    private static let ring0Code: [UInt8] = [0x90, 0xE6, 0x80, 0xF4]
    // cpuid; out %al, $0x80; hlt
    private static let ring3Code: [UInt8] = [0x0F, 0xA2, 0xE6, 0x80, 0xF4]
    // out %al, $0x81; hlt
    private static let handlerCode: [UInt8] = [0xE6, 0x81, 0xF4]

    private enum Address {
        static let ring0: UInt64 = 0x1000
        static let ring3: UInt64 = 0x1010
        static let handler: UInt64 = 0x1020
        static let idt: UInt64 = 0x2000
        static let tss: UInt64 = 0x3000
        static let longMode: UInt64 = 0x8000
        static let stack: UInt64 = 0x7000
        static let userStack: UInt64 = 0x8000
    }

    /// Tries it. No breakpoint support, or a trial that gets stuck, is an answer, not an error.
    ///
    /// - Throws: what building a VM can throw.
    public static func probe(_ system: borrowing System) throws(MachineError) -> BreakpointSupport {
        let memory = try GuestMemory(mebibytes: 1)
        let longMode = LongMode(base: Address.longMode)
        guard longMode.write(to: memory, user: true) else { throw .memory("no room for page tables") }
        for (code, address) in [
            (ring0Code, Address.ring0), (ring3Code, Address.ring3), (handlerCode, Address.handler),
        ] {
            memory.slice(address, count: code.count)?.copyBytes(from: code)
        }
        let gate = Address.handler & 0xFFFF | UInt64(LongMode.Segment.code.selector) << 16 | 0x8E00 << 32
        memory.store(gate, at: Address.idt + 13 * 16)
        memory.store(Address.stack, at: Address.tss + 4)
        let vcpu = try lifted { () throws(KVMError) in
            let machine = try system.createVM()
            try machine.setMemoryRegion(slot: 0, guestAddress: 0, size: memory.size, host: memory.host)
            let vcpu = try machine.createVCPU(id: 0)
            try vcpu.setCPUID(try system.supportedCPUID())
            return vcpu
        }
        return try watched(TrialVM(vcpu, memory), longMode)
    }

    /// The trials' VM, for two threads to hold.
    private final class TrialVM: @unchecked Sendable {
        let vcpu: VCPU
        private let memory: GuestMemory

        init(_ vcpu: consuming VCPU, _ memory: GuestMemory) {
            self.vcpu = vcpu
            self.memory = memory
        }
    }

    /// Runs the trials with a second thread that ends a KVM_RUN which does not come back.
    ///
    /// That thread also lets go of the VM last: the kernel takes milliseconds to take one apart, and the guest that waits
    /// to be started need not wait for that.
    private static func watched(
        _ trial: consuming TrialVM, _ longMode: LongMode
    ) throws(MachineError) -> BreakpointSupport {
        let control = try RunControl(cpus: 1)
        control.enter(vcpu: 0, runPage: trial.vcpu.runPage)
        let watchdog = try Thread(name: "vmtally-trial") { [trial] in
            control.wait(until: deadline(milliseconds: patience), EndingSignals())
            withExtendedLifetime(trial) {}
        }
        let support = Result { [trial] () throws(KVMError) in try trials(trial.vcpu, longMode) }
        control.leave(vcpu: 0)
        _ = consume trial
        control.finish(.halted)
        watchdog.detach()
        return try support.mapError(MachineError.kvm).get()
    }

    private static func trials(_ vcpu: borrowing VCPU, _ longMode: LongMode) throws(KVMError) -> BreakpointSupport {
        var support = BreakpointSupport()
        var special = try vcpu.specialRegisters()
        longMode.enter(&special)
        special.idt.base = Address.idt
        special.idt.limit = 14 * 16 - 1
        special.tr.base = Address.tss
        try vcpu.setSpecialRegisters(special)
        var registers = kvm_regs()
        registers.rflags = 2
        registers.rip = Address.ring0
        registers.rsp = Address.stack
        try vcpu.setRegisters(registers)
        do {
            try vcpu.setGuestDebug(.breakpoints([Address.ring0]))
        } catch {
            return support
        }
        support.hardware = vcpu.stops(at: Address.ring0)
        guard support.hardware else { return support }
        registers.rflags = 0x1_0002
        try vcpu.setRegisters(registers)
        support.resumeFlag = vcpu.run() == 0 && vcpu.runPage.pointee.exit_reason == UInt32(KVM_EXIT_IO)

        longMode.enter(&special, user: true)
        special.idt.base = Address.idt
        special.idt.limit = 14 * 16 - 1
        special.tr.base = Address.tss
        registers.rflags = 0x3002  // IOPL 3: ring 3 may use ports
        registers.rip = Address.ring3
        registers.rsp = Address.userStack
        try vcpu.setSpecialRegisters(special)
        try vcpu.setRegisters(registers)
        try vcpu.setGuestDebug(.breakpoints([Address.handler]))
        do {
            try FaultingMSRs.enable(vcpu)
        } catch {
            return support
        }
        support.faulting = vcpu.stops(at: Address.handler)
        // Else it went on to the OUT, and has the HLT before it.
        support.privilegedFaults = support.faulting || vcpu.stops(at: Address.handler)
        return support
    }
}

extension VCPU {
    /// Runs once: did it end at a breakpoint at this address?
    fileprivate func stops(at address: UInt64) -> Bool {
        run() == 0 && runPage.pointee.exit_reason == UInt32(KVM_EXIT_DEBUG) && runPage.pointee.debug.arch.pc == address
    }
}
