// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM
import Linux
import Synchronization

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

    /// A write breakpoint in a debug register ends KVM_RUN behind the instruction that wrote.
    public var writes = false

    /// KVM answers CPUID 0x4FFFFFFC to 0x4FFFFFFF of a guest whose table does not have them, as kernels of course work do.
    public var rangeIsTaken = false
    /// What to put into TR's type when the special registers are set: 11, a busy TSS. QEMU's TCG wants 9 there, as LTR
    /// leaves it in its cache; with 11 its OUT of ring 3 ignores the TSS's I/O bitmap (#GP), and KVM's SVM always says 11.
    var taskType: UInt8 = 11

    /// The same in words, nil when all is there.
    public var missing: String? {
        if !hardware {
            return "hardware breakpoints do not hit in guests of this host"
        }
        return faulting ? nil : "CPUID in ring 3 does not fault on this host"
    }

    // nop; out %al, $0x80; hlt
    private static let ring0Code: [UInt8] = [0x90, 0xE6, 0x80, 0xF4]
    // mov %al, data; nop; hlt
    private static let writingCode: [UInt8] =
        [0x88, 0x04, 0x25] + (0..<4).map { UInt8(truncatingIfNeeded: Address.data >> ($0 * 8)) } + [0x90, 0xF4]
    // cpuid; out %al, $0x80; hlt
    private static let ring3Code: [UInt8] = [0x0F, 0xA2, 0xE6, 0x80, 0xF4]
    // cpuid; out %al, $0x80; hlt
    private static var leafCode: [UInt8] { ring3Code }
    // out %al, $0x81; hlt
    private static let handlerCode: [UInt8] = [0xE6, 0x81, 0xF4]

    private enum Address {
        static let ring0: UInt64 = 0x1000
        static let ring3: UInt64 = 0x1010
        static let handler: UInt64 = 0x1020
        static let writing: UInt64 = 0x1030
        static let leaf: UInt64 = 0x1040
        static let data: UInt64 = 0x1100
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
        let table = try lifted { () throws(KVMError) in try system.supportedCPUID() }
        return try BreakpointTrial(system, table).result()
    }

    /// Begins to try it, for the first machine of this process that asks: a program reads its options meanwhile, and waits a
    /// millisecond less. What cannot be tried now is tried then.
    public static func tryAhead() {
        BreakpointTrial.ahead.withLock { ahead in
            guard ahead == nil, let system = try? System(), let table = try? system.supportedCPUID() else { return }
            ahead = try? BreakpointTrial(system, table)
        }
    }

    /// Builds the VM, tries it, and calls `stoppable` with the vCPU before it first runs.
    static func tryOut(
        _ system: borrowing System, _ table: CPUIDTable, stoppable: (borrowing VCPU) -> Void,
        outcome: (Result<BreakpointSupport, MachineError>) -> Void
    ) {
        do throws(MachineError) {
            let memory = try GuestMemory(mebibytes: 1)
            let longMode = LongMode(base: Address.longMode)
            guard longMode.write(to: memory, user: true) else {
                throw .refused(.memory, "no room for page tables", "report this")
            }
            for (code, address) in [
                (ring0Code, Address.ring0), (ring3Code, Address.ring3), (handlerCode, Address.handler),
                (writingCode, Address.writing), (leafCode, Address.leaf),
            ] {
                memory.slice(address, count: code.count)?.copyBytes(from: code)
            }
            let gate = Address.handler & 0xFFFF | UInt64(LongMode.Segment.code.selector) << 16 | 0x8E00 << 32
            memory.store(gate, at: Address.idt + 13 * 16)
            memory.store(Address.stack, at: Address.tss + 4)
            // The I/O bitmap is behind the TSS and all zeros: ring 3 may use all ports.
            memory.store(UInt16(0x68), at: Address.tss + 0x66)
            let vcpu = try lifted { () throws(KVMError) in
                let machine = try system.createVM()
                try machine.setMemoryRegion(slot: 0, guestAddress: 0, size: memory.size, host: memory.host)
                let vcpu = try machine.createVCPU(id: 0)
                try vcpu.setCPUID(table)
                return vcpu
            }
            stoppable(vcpu)
            let result: Result<BreakpointSupport, MachineError>
            do throws(KVMError) {
                var support = try trials(vcpu, longMode)
                support.rangeIsTaken = try rangeIsTaken(vcpu, longMode)
                result = .success(support)
            } catch {
                result = .failure(.kvm(error))
            }
            // Before the VM is taken apart, which takes the kernel milliseconds; and before the vCPU's run page goes, which
            // whoever stops the trial writes to.
            outcome(result)
            withExtendedLifetime(memory) {}
        } catch {
            outcome(.failure(error))
        }
    }

    /// Ring 0 or ring 3 of the trial's guest, at an instruction.
    private static func enter(
        _ vcpu: borrowing VCPU, _ longMode: LongMode, user: Bool, at address: UInt64, stack: UInt64, flags: UInt64 = 2,
        leaf: UInt32 = 0, taskType: UInt8 = 11
    ) throws(KVMError) {
        var special = try vcpu.specialRegisters()
        longMode.enter(&special, user: user)
        special.idt.base = Address.idt
        special.idt.limit = 14 * 16 - 1
        special.tr.base = Address.tss
        special.tr.limit = 0xFFF
        special.tr.type = taskType
        try vcpu.setSpecialRegisters(special)
        var registers = kvm_regs()
        registers.rax = UInt64(leaf)
        registers.rflags = flags
        registers.rip = address
        registers.rsp = stack
        try vcpu.setRegisters(registers)
    }

    private static func trials(_ vcpu: borrowing VCPU, _ longMode: LongMode) throws(KVMError) -> BreakpointSupport {
        var support = BreakpointSupport()
        try enter(vcpu, longMode, user: false, at: Address.ring0, stack: Address.stack)
        do {
            try vcpu.setGuestDebug(.breakpoints([Address.ring0]))
        } catch {
            return support
        }
        support.hardware = vcpu.stops(at: Address.ring0)
        guard support.hardware else { return support }
        // RF
        try enter(vcpu, longMode, user: false, at: Address.ring0, stack: Address.stack, flags: 0x1_0002)
        support.resumeFlag = vcpu.run() == 0 && vcpu.runPage.pointee.exit_reason == UInt32(KVM_EXIT_IO)

        try enter(vcpu, longMode, user: false, at: Address.writing, stack: Address.stack)
        try vcpu.setGuestDebug(.breakpoints([], writes: [Address.data]))
        support.writes = vcpu.stops(at: Address.writing + 7)

        // IOPL 3: ring 3 may use ports
        try enter(vcpu, longMode, user: true, at: Address.ring3, stack: Address.userStack, flags: 0x3002)
        try vcpu.setGuestDebug(.breakpoints([Address.handler]))
        do {
            try FaultingMSRs.set(vcpu, faulting: true)
        } catch {
            return support
        }
        support.faulting = vcpu.stops(at: Address.handler)
        // Else it went on to the OUT, and has the HLT before it.
        support.privilegedFaults = support.faulting || vcpu.stops(at: Address.handler)

        for type in [11, 9] as [UInt8] where support.faulting {
            try enter(vcpu, longMode, user: true, at: Address.ring3 + 2, stack: Address.userStack, taskType: type)
            try vcpu.setGuestDebug(kvm_guest_debug())
            guard vcpu.writesPort(0x80) else { continue }
            support.taskType = type
            break
        }
        return support
    }

    /// Whether ring 0 gets other answers to CPUID in the range of the tally than those of a table without it.
    private static func rangeIsTaken(_ vcpu: borrowing VCPU, _ longMode: LongMode) throws(KVMError) -> Bool {
        try vcpu.setGuestDebug(kvm_guest_debug())
        let table = try vcpu.cpuid()
        for leaf in TallyLeaf.range.suffix(4) {
            try enter(vcpu, longMode, user: false, at: Address.leaf, stack: Address.stack, leaf: leaf)
            guard vcpu.writesPort(0x80) else { return false }
            let got = try vcpu.registers()
            let (eax, ebx, ecx, edx) = table.answer(leaf: leaf, subleaf: 0, tsxControl: 0)
            guard [got.rax, got.rbx, got.rcx, got.rdx] == [eax, ebx, ecx, edx].map(UInt64.init) else { return true }
        }
        return false
    }
}

/// A trial that runs in a thread of its own, beside whatever else a starting machine has to do.
///
/// The thread also takes the trial's VM apart, for which nobody waits.
final class BreakpointTrial {
    private final class Shared: Sendable {
        let system: System
        let control: RunControl
        let outcome = Mutex<Result<BreakpointSupport, MachineError>?>(nil)

        init(_ system: consuming System, _ control: RunControl) {
            self.system = system
            self.control = control
        }
    }

    /// A trial that takes longer than this is stuck, ms. It takes a few; a busy machine may keep it waiting.
    private static let patience = 10_000

    /// The one that ``BreakpointSupport/tryAhead()`` began.
    fileprivate static let ahead = Mutex<BreakpointTrial?>(nil)

    private let shared: Shared
    private let thread: Thread
    private var isJoined = false

    /// One that has been begun ahead, or one that begins now.
    static func begun(_ system: borrowing System, _ table: CPUIDTable) throws(MachineError) -> BreakpointTrial {
        if let ahead = ahead.withLock({ $0.take() }) { return ahead }
        return try BreakpointTrial(system, table)
    }

    /// - Parameter table: what KVM supports.
    init(_ system: borrowing System, _ table: CPUIDTable) throws(MachineError) {
        let copy = try lifted { () throws(KVMError) in try system.duplicate() }
        let shared = Shared(copy, try RunControl(cpus: 1))
        self.shared = shared
        thread = try lifted { () throws(SystemError) in
            try Thread(name: "vmtally-trial") {
                BreakpointSupport.tryOut(shared.system, table) { vcpu in
                    shared.control.enter(vcpu: 0, runPage: vcpu.runPage)
                } outcome: { result in
                    shared.control.leave(vcpu: 0)
                    shared.outcome.withLock { $0 = result }
                    shared.control.finish(.halted)
                }
            }
        }
    }

    deinit {
        guard !isJoined else { return }
        // Nobody wants to know any more, or the outcome is there: only a trial that is stuck takes notice.
        shared.control.finish(.timeout)
        thread.detach()
    }

    /// Waits for the outcome, and calls a trial off that is stuck: what it found until then is the outcome.
    func result() throws(MachineError) -> BreakpointSupport {
        shared.control.wait(until: deadline(milliseconds: Self.patience), EndingSignals())
        if shared.control.end == .timeout {
            isJoined = true
            thread.join()
        }
        return try shared.outcome.withLock { $0 }?.get() ?? BreakpointSupport()
    }
}

extension VCPU {
    /// Runs once: did it end at an OUT to this port?
    fileprivate func writesPort(_ port: UInt16) -> Bool {
        run() == 0 && runPage.pointee.exit_reason == UInt32(KVM_EXIT_IO) && runPage.pointee.io.port == port
    }

    /// Runs once: did it end at a breakpoint at this address?
    fileprivate func stops(at address: UInt64) -> Bool {
        run() == 0 && runPage.pointee.exit_reason == UInt32(KVM_EXIT_DEBUG) && runPage.pointee.debug.arch.pc == address
    }
}
