// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
@testable import KVM

@Suite(.enabled(if: noKVM == nil, "no /dev/kvm: \(noKVM ?? "")"))
struct VCPUTests {
    @Test func portAccessesExitWithTheirWidthAndData() throws {
        // mov dx, 3F8h; mov al, 'A'; out dx, al; in ax, dx; hlt
        let guest = try Guest(code: [0xBA, 0xF8, 0x03, 0xB0, 0x41, 0xEE, 0xED, 0xF4])
        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))
        let out = guest.vcpu.runPage.pointee.io
        #expect(out.direction == UInt8(KVM_EXIT_IO_OUT) && out.size == 1 && out.port == 0x3F8 && out.count == 1)
        let data = UnsafeMutableRawPointer(guest.vcpu.runPage) + Int(out.data_offset)
        #expect(data.load(as: UInt8.self) == 0x41)

        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))
        let input = guest.vcpu.runPage.pointee.io
        #expect(input.direction == UInt8(KVM_EXIT_IO_IN) && input.size == 2)
        (UnsafeMutableRawPointer(guest.vcpu.runPage) + Int(input.data_offset)).storeBytes(of: 0x1234, as: UInt16.self)
        try guest.runToHalt()
        #expect(try guest.vcpu.registers().rax & 0xFFFF == 0x1234)
    }

    @Test func registersComeBackAsSet() throws {
        let guest = try Guest(code: [0xF4])
        var registers = try guest.vcpu.registers()
        registers.rax = 0x1122_3344_5566_7788
        registers.r15 = .max
        try guest.vcpu.setRegisters(registers)
        let read = try guest.vcpu.registers()
        #expect(read.rax == 0x1122_3344_5566_7788 && read.r15 == .max && read.rip == 0x1000)
    }

    @Test func impossibleSpecialRegistersAreRefused() throws {
        let guest = try Guest(code: [0xF4])
        var special = try guest.vcpu.specialRegisters()
        special.cr4 = .max
        let impossible = special
        let error = #expect(throws: KVMError.self) { try guest.vcpu.setSpecialRegisters(impossible) }
        #expect(error == KVMError(call: "KVM_SET_SREGS", errno: EINVAL))
    }

    // MARK: Leaving the guest

    @Test func anExitRequestReturnsWithoutRunningTheGuest() throws {
        // out 80h, al; hlt
        let guest = try Guest(code: [0xE6, 0x80, 0xF4])
        VCPU.requestExit(runPage: guest.vcpu.runPage)
        #expect(guest.vcpu.run() == -EINTR)
        #expect(try guest.vcpu.registers().rip == 0x1000)
        VCPU.cancelExitRequest(runPage: guest.vcpu.runPage)
        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))

        // A pending access is finished nevertheless.
        VCPU.requestExit(runPage: guest.vcpu.runPage)
        #expect(guest.vcpu.run() == -EINTR)
        #expect(try guest.vcpu.registers().rip == 0x1002)
        VCPU.cancelExitRequest(runPage: guest.vcpu.runPage)
        try guest.runToHalt()
    }

    @Test(.timeLimit(.minutes(60))) func anotherThreadStopsAGuestThatNeverExits() throws {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in }
        sigaction(SIGUSR1, &action, nil)
        // The threads that tests run on block every signal.
        var signal = sigset_t()
        sigemptyset(&signal)
        sigaddset(&signal, SIGUSR1)
        var before = sigset_t()
        pthread_sigmask(SIG_UNBLOCK, &signal, &before)
        defer { pthread_sigmask(SIG_SETMASK, &before, nil) }

        struct Victim {
            let runPage: UnsafeMutablePointer<kvm_run>
            let thread: pthread_t
        }
        // again: jmp again
        let guest = try Guest(code: [0xEB, 0xFE])
        var victim = Victim(runPage: guest.vcpu.runPage, thread: pthread_self())
        try withUnsafeMutablePointer(to: &victim) { victim in
            var stopper = pthread_t()
            let created = pthread_create(
                &stopper, nil,
                { argument in
                    guard let victim = argument?.assumingMemoryBound(to: Victim.self).pointee else { return nil }
                    usleep(20_000)
                    VCPU.requestExit(runPage: victim.runPage)
                    pthread_kill(victim.thread, SIGUSR1)
                    return nil
                }, victim)
            try #require(created == 0)
            #expect(guest.vcpu.run() == -EINTR)
            pthread_join(stopper, nil)
        }
        #expect(try guest.vcpu.registers().rip == 0x1000)
    }

    @Test func blockedSignalsAreBlockedWhileRunningOnly() throws {
        let guest = try Guest(code: [0xF4])
        try guest.vcpu.setSignalMask(1 << (UInt64(SIGUSR1) - 1))
        try guest.runToHalt()
        try guest.vcpu.setSignalMask(nil)
    }

    @Test func aVCPUThatWaitsForItsStartUpSaysSo() throws {
        let guest = try Guest(code: [0xF4], machine: { try $0.createIRQChip() })
        let second = try guest.vm.createVCPU(id: 1)
        #expect(try guest.vcpu.mpState() == UInt32(KVM_MP_STATE_RUNNABLE))
        #expect(try second.mpState() == UInt32(KVM_MP_STATE_UNINITIALIZED))
        try second.setMPState(UInt32(KVM_MP_STATE_RUNNABLE))
        #expect(try second.mpState() == UInt32(KVM_MP_STATE_RUNNABLE))
        #expect(throws: KVMError(call: "KVM_CREATE_VCPU", errno: EEXIST)) { _ = try guest.vm.createVCPU(id: 1) }
    }

    // MARK: Debugging from outside

    @Test func singleStepExitsAfterEachInstruction() throws {
        // nop; nop; hlt
        let guest = try Guest(code: [0x90, 0x90, 0xF4])
        var debug = kvm_guest_debug()
        debug.control = UInt32(KVM_GUESTDBG_ENABLE) | UInt32(KVM_GUESTDBG_SINGLESTEP)
        try guest.vcpu.setGuestDebug(debug)
        for address in [0x1001, 0x1002] as [UInt64] {
            #expect(try guest.exit() == UInt32(KVM_EXIT_DEBUG))
            #expect(guest.vcpu.runPage.pointee.debug.arch.pc == address)
        }
        try guest.vcpu.setGuestDebug(kvm_guest_debug())
        try guest.runToHalt()
    }

    @Test func aHardwareBreakpointExitsBeforeItsInstruction() throws {
        // nop; nop; inc ax; hlt
        let guest = try Guest(code: [0x90, 0x90, 0x40, 0xF4])
        var debug = kvm_guest_debug()
        debug.control = UInt32(KVM_GUESTDBG_ENABLE) | UInt32(KVM_GUESTDBG_USE_HW_BP)
        debug.arch.debugreg.0 = 0x1002
        debug.arch.debugreg.7 = 0x402  // G0, execution
        try guest.vcpu.setGuestDebug(debug)
        #expect(try guest.exit() == UInt32(KVM_EXIT_DEBUG))
        #expect(guest.vcpu.runPage.pointee.debug.arch.pc == 0x1002)
        #expect(try guest.vcpu.registers().rax == 0)
        try guest.vcpu.setGuestDebug(kvm_guest_debug())
        try guest.runToHalt()
        #expect(try guest.vcpu.registers().rax == 1)
    }

    @Test func theGuestsOwnDebugRegistersAreApart() throws {
        let guest = try Guest(code: [0xF4])
        var registers = try guest.vcpu.debugRegisters()
        registers.db.2 = 0x1234
        try guest.vcpu.setDebugRegisters(registers)
        #expect(try guest.vcpu.debugRegisters().db.2 == 0x1234)
    }

    @Test func translationFollowsTheGuestsPaging() throws {
        let guest = try Guest(code: [0xF4])
        // Real mode: as it is.
        let translation = try guest.vcpu.translate(0x1234)
        #expect(translation.valid == 1 && translation.physical_address == 0x1234)
        // Long mode, with nothing mapped but 2 MiB from 0, which lie at 4 MiB.
        for (address, entry) in [(0x3000, 0x4003), (0x4000, 0x5003), (0x5000, 0x0040_0083)] as [(Int, UInt64)] {
            guest.memory.storeBytes(of: entry, toByteOffset: address, as: UInt64.self)
        }
        var special = try guest.vcpu.specialRegisters()
        special.cr3 = 0x3000
        special.cr4 |= 1 << 5  // PAE
        special.cr0 |= 1 << 31 | 1  // PG, PE
        special.efer |= 1 << 8 | 1 << 10  // LME, LMA
        special.cs.l = 1
        try guest.vcpu.setSpecialRegisters(special)
        let mapped = try guest.vcpu.translate(0x1234)
        #expect(mapped.valid == 1 && mapped.physical_address == 0x40_1234)
        #expect(try guest.vcpu.translate(0x0040_0000).valid == 0)
    }

    // MARK: Events

    @Test func anInterruptFromOutsideRunsItsHandler() throws {
        // sti; hlt; hlt; at 1010h: out 81h, al; iret
        var code: [UInt8] = [0xFB, 0xF4, 0xF4] + Array(repeating: 0x90, count: 13)
        code += [0xE6, 0x81, 0xCF]
        let guest = try Guest(code: code)
        guest.memory.storeBytes(of: 0x1010, toByteOffset: 0x20 * 4, as: UInt32.self)
        try guest.runToHalt()
        #expect(guest.vcpu.runPage.pointee.ready_for_interrupt_injection == 1)
        try guest.vcpu.interrupt(0x20)
        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))
        #expect(guest.vcpu.runPage.pointee.io.port == 0x81)
        try guest.runToHalt()
    }

    @Test func anNMIRunsItsHandler() throws {
        var code: [UInt8] = [0xF4, 0xF4] + Array(repeating: 0x90, count: 14)
        code += [0xE6, 0x82, 0xCF]
        let guest = try Guest(code: code)
        guest.memory.storeBytes(of: 0x1010, toByteOffset: 2 * 4, as: UInt32.self)
        try guest.vcpu.nmi()
        #expect(try guest.vcpu.events().nmi.pending == 1)
        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))
        #expect(guest.vcpu.runPage.pointee.io.port == 0x82)
    }

    @Test func anExceptionCanBeInjected() throws {
        // hlt; at 1010h, the handler of vector 5: out 85h, al
        var code: [UInt8] = [0xF4] + Array(repeating: 0x90, count: 15)
        code += [0xE6, 0x85]
        let guest = try Guest(code: code)
        guest.memory.storeBytes(of: 0x1010, toByteOffset: 5 * 4, as: UInt32.self)
        var events = try guest.vcpu.events()
        events.exception.injected = 1
        events.exception.nr = 5
        try guest.vcpu.setEvents(events)
        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))
        #expect(guest.vcpu.runPage.pointee.io.port == 0x85)
    }

    // MARK: MSRs and CPUID

    @Test func msrsComeBackAsSet() throws {
        let guest = try Guest(code: [0xF4])
        try guest.vcpu.setMSRs([(index: 0xC000_0102, value: 0x1234), (index: 0xC000_0081, value: 0x0023_0008 << 32)])
        #expect(try guest.vcpu.msrs([0xC000_0081, 0xC000_0102]) == [0x0023_0008 << 32, 0x1234])
        #expect(try guest.vcpu.msrs([]) == [])
        // More than KVM takes at once.
        let many = try guest.vcpu.msrs(Array(repeating: 0xC000_0102, count: 600))
        #expect(many == Array(repeating: 0x1234, count: 600))
    }

    @Test func aRefusedMSRIsNamed() throws {
        let guest = try Guest(code: [0xF4])
        let read = #expect(throws: KVMError.self) { try guest.vcpu.msrs([0xC000_0102, 0x1234_5678, 0x10]) }
        #expect(read?.call == "KVM_GET_MSRS(0x12345678)")
        #expect(read?.remedy == "KVM refused MSR 0x12345678, after 1 of 3.")
        let write = #expect(throws: KVMError.self) {
            try guest.vcpu.setMSRs(Array(repeating: (index: 0xC000_0102, value: 7), count: 300) + [(0x1234_5678, 0)])
        }
        #expect(write?.call == "KVM_SET_MSRS(0x12345678)")
        #expect(write?.remedy?.contains("after 300 of 301") == true)
        #expect(try guest.vcpu.msrs([0xC000_0102]) == [7])
    }

    @Test func theHostsListsGrowAsNeeded() throws {
        let system = try System()
        let table = try system.supportedCPUID()
        #expect(table.entry(leaf: 0)?.eax ?? 0 >= 1)
        #expect(!(try system.msrIndices().isEmpty))
        let feature = try system.featureMSRIndices()
        #expect(try system.featureMSRs(feature).count == feature.count)
        #expect(try system.emulatedCPUID().entries.count < 16)
        // From a room of one entry up.
        let guest = try Guest(code: [0xF4], vcpu: { try $0.setCPUID(table) })
        #expect(try guest.vcpu.cpuid(capacity: 1) == guest.vcpu.cpuid())
        #expect(try guest.vcpu.cpuid(capacity: -1).entries.count == table.entries.count)
    }

    @Test func cpuidIsFrozenByTheFirstRun() throws {
        var table = try System().supportedCPUID()
        let guest = try Guest(code: [0xF4], vcpu: { [table] in try $0.setCPUID(table) })
        try guest.runToHalt()
        table.set(leaf: 0x4FFF_FFFF, eax: 1, ebx: 2, ecx: 3, edx: 4)
        do throws(KVMError) {
            // Linux before 5.16 takes it.
            try guest.vcpu.setCPUID(table)
        } catch {
            #expect(error.errno == EINVAL)
            #expect(error.remedy?.contains("before") == true)
        }
    }

    @Test func tableEditsFindWhatKVMFinds() {
        var table = CPUIDTable()
        table.set(leaf: 4, subleaf: 1, eax: 1, ebx: 1, ecx: 1, edx: 1)
        table.set(leaf: 4, subleaf: 0, eax: 2, ebx: 2, ecx: 2, edx: 2)
        table.set(leaf: 1, eax: 3, ebx: 3, ecx: 3, edx: 3)
        #expect(table[4, 0]?.eax == 2 && table[4, 1]?.eax == 1 && table[4, 2] == nil)
        #expect(table[1, 77]?.eax == 3)
        table.set(leaf: 1, eax: 4, ebx: 0, ecx: 0, edx: 0)
        #expect(table.entries.count == 3 && table[1]?.eax == 4)
        table.remove(leaf: 4, subleaf: 1)
        #expect(table[4, 1] == nil && table[4, 0] != nil)
        table[4, 0] = nil
        table[9] = nil
        #expect(table.entries.count == 1)
        #expect(table != CPUIDTable() && table == table)
    }

    // MARK: The rest of the state

    @Test func stateSurvivesARoundTrip() throws {
        let guest = try Guest(
            code: [0xF4],
            machine: { try $0.createIRQChip() },
            vcpu: { try $0.setCPUID(try System().supportedCPUID()) })
        var fpu = try guest.vcpu.fpu()
        fpu.mxcsr = 0x1F80
        fpu.fcw = 0x27F
        try guest.vcpu.setFPU(fpu)
        #expect(try guest.vcpu.fpu().fcw == 0x27F)
        let area = try guest.vcpu.xsave()
        #expect(area.count >= 4096)
        try guest.vcpu.setXSAVE(area)
        #expect(try guest.vcpu.xsave() == area)
        try guest.vcpu.setXCRs(try guest.vcpu.xcrs())
        let registers = try guest.vcpu.lapic()
        try guest.vcpu.setLAPIC(registers)
        #expect(
            try withUnsafeBytes(of: registers.regs) { Array($0) }
                == withUnsafeBytes(of: guest.vcpu.lapic().regs) { Array($0) })
        #expect(try guest.vcpu.tscKHz() > 100_000)
    }
}

@Suite(
    .enabled(if: noKVM == nil, "no /dev/kvm: \(noKVM ?? "")"),
    .enabled(if: has(.syncRegs), "this kernel has no KVM_CAP_SYNC_REGS (Linux 4.17)"))
struct SynchronizedRegistersTests {
    @Test func registersTravelInTheRunPage() throws {
        // again: out 80h, ax; jmp again
        let guest = try Guest(code: [0xE7, 0x80, 0xEB, 0xFC])
        let page = guest.vcpu.runPage
        guest.vcpu.copyOut([.general, .special, .events])
        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))
        #expect(page.pointee.s.regs.regs.rsp == 0x1000)
        #expect(page.pointee.s.regs.sregs.cs.base == 0)
        page.pointee.s.regs.regs.rax = 0xABCD
        guest.vcpu.copyIn(.general)
        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))
        let data = UnsafeMutableRawPointer(page) + Int(page.pointee.io.data_offset)
        #expect(data.load(as: UInt16.self) == 0xABCD)
        #expect(page.pointee.kvm_dirty_regs == 0, "taken once")

        guest.vcpu.copyOut(SynchronizedRegisters(rawValue: 1 << 63))
        #expect(guest.vcpu.run() == -EINVAL)
    }
}
