// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// One block of iterations on vCPU 0: begin mark, iterations, end mark.
struct Block {
    private let request: BenchRequest
    private let apic: APIC

    init(_ request: BenchRequest, _ apic: APIC) {
        self.request = request
        self.apic = apic
    }

    func run() {
        guard let operation = BenchOperation(rawValue: request.operation) else { return mark(BenchLayout.markRefused) }
        let first = request.first
        let second = request.second
        switch operation {
        case .empty: measure { _ in }
        case .cpuid:
            var result = guest_registers()
            measure { _ in guest_cpuid_inline(UInt32(first), UInt32(second), &result) }
        case .cpuidHighest:
            var result = guest_registers()
            guest_cpuid_inline(0, 0, &result)
            let highest = result.eax
            measure { _ in guest_cpuid_inline(highest, 0, &result) }
        case .cpuidSite:
            var result = guest_registers()
            measure { _ in guest_cpuid(UInt32(first), UInt32(second), &result) }
        case .cpuidUser:
            var result = guest_registers()
            measure { _ in guest_cpuid_user(UInt32(first), UInt32(second), &result) }
        case .hypercall:
            if Processor.isAMD {
                measure { _ in guest_vmmcall(first) }
            } else {
                measure { _ in guest_vmcall(first) }
            }
        case .out8: measure { _ in guest_out8(UInt16(first), 0xA5) }
        case .in8: measure { _ in _ = guest_in8(UInt16(first)) }
        case .repOut8:
            let count = min(Int(second), Int(GUEST_SCRATCH_SIZE))
            measure { _ in guest_rep_out8(UInt16(first), guest_scratch(), count) }
        case .load32: measure { _ in _ = guest_mmio_read32(first) }
        case .store32: measure { _ in guest_mmio_write32(first, 0xA5A5_A5A5) }
        case .readMSR: measure { _ in guest_rdmsr(UInt32(first)) }
        case .writeMSR:
            var value: UInt64 = 0
            guard guest_read_msr(UInt32(first), &value) else { return mark(BenchLayout.markRefused) }
            measure { _ in guest_wrmsr(UInt32(first), value) }
        case .readCR0: measure { _ in _ = guest_read_cr0() }
        case .writeCR0:
            let value = guest_read_cr0()
            measure { index in guest_write_cr0(value ^ UInt64(~index & 1) << 18) }  // AM, from the first on
            guest_write_cr0(value)
        case .readCR3: measure { _ in _ = guest_read_cr3() }
        case .writeCR3:
            let value = guest_read_cr3()
            measure { _ in guest_write_cr3(value) }
        case .readCR4: measure { _ in _ = guest_read_cr4() }
        case .writeCR4:
            let value = guest_read_cr4()
            measure { index in guest_write_cr4(value ^ UInt64(~index & 1) << 6) }  // MCE
            guest_write_cr4(value)
        case .readCR8: measure { _ in _ = guest_read_cr8() }
        case .writeCR8: measure { _ in guest_write_cr8(first) }
        case .readDR: measure { _ in _ = guest_read_dr0() }
        case .writeDR: measure { _ in guest_write_dr0(0) }
        case .xsetbv:
            guard Processor.feature(26) else { return mark(BenchLayout.markRefused) }
            guest_write_cr4(guest_read_cr4() | 1 << 18)  // OSXSAVE
            let value = guest_read_xcr0()
            measure { _ in guest_write_xcr0(value) }
        case .wbinvd: measure { _ in guest_wbinvd() }
        case .invd: measure { _ in guest_invd() }
        case .invlpg: measure { _ in guest_invlpg(first) }
        case .rdpmc: measure { _ in guest_rdpmc(UInt32(first)) }
        case .pauseLoop: measure { _ in guest_pause_loop(first) }
        case .rdtsc: measure { _ in _ = guest_tsc_low() }
        case .rdrand:
            guard Processor.feature(30) else { return mark(BenchLayout.markRefused) }
            measure { _ in guest_rdrand() }
        case .touch: measure { index in guest_mmio_write8(first &+ UInt64(index) &* second, 0xA5) }
        default: runInterrupts(operation, first)
        }
    }

    private func runInterrupts(_ operation: BenchOperation, _ distance: UInt64) {
        guard apic.mode != 0, Processor.feature(24), !apic.isX2 || Processor.feature(21) else {
            return mark(BenchLayout.markRefused)
        }
        let own: UnsafeMutablePointer<guest_interrupt> = guest_interrupt_0()
        let others: UnsafeMutablePointer<guest_interrupt> = guest_interrupt_1()
        switch operation {
        case .haltTimer:
            collect { _ in
                let before = Self.count(own)
                let deadline = guest_tsc() &+ distance
                apic.setDeadline(deadline)
                while Self.count(own) == before { guest_sleep() }
                return Self.since(UInt32(truncatingIfNeeded: deadline))
            }
        case .timerDelayed:
            guest_interrupts_on()
            collect { _ in
                let before = Self.count(own)
                let deadline = guest_tsc() &+ distance
                apic.setDeadline(deadline)
                while Self.count(own) == before { guest_pause() }
                return Self.difference(Self.stamp(own), UInt32(truncatingIfNeeded: deadline))
            }
            guest_interrupts_off()
        case .timerImmediate:
            guest_interrupts_on()
            collect { _ in
                let before = Self.count(own)
                let start = guest_tsc_low()
                apic.setDeadline(1)
                while Self.count(own) == before { guest_pause() }
                return Self.stamp(own) &- start
            }
            guest_interrupts_off()
        case .selfIPI:
            guest_interrupts_on()
            collect { _ in
                let before = Self.count(own)
                let start = guest_tsc_low()
                apic.interruptSelf()
                while Self.count(own) == before { guest_pause() }
                return guest_tsc_low() &- start
            }
            guest_interrupts_off()
        case .haltIPI:
            let box: UnsafeMutablePointer<guest_mailbox> = guest_mailbox(0)
            awaitOther()
            collect { index in
                let before = Self.count(own)
                guest_store(&box.pointee.command, index &+ 1)
                while Self.count(own) == before { guest_sleep() }
                return Self.since(UInt32(truncatingIfNeeded: box.pointee.first))
            }
        case .ipiSend, .ipiDeliver, .ipiAcknowledge:
            awaitOther()
            collect { _ in
                let before = Self.count(others)
                let start = guest_tsc_low()
                apic.interrupt(1, vector: UInt32(GUEST_VECTOR_1))
                let sent = guest_tsc_low()
                while Self.count(others) == before { guest_pause() }
                let seen = guest_tsc_low()
                switch operation {
                case .ipiSend: return sent &- start
                case .ipiDeliver: return Self.difference(Self.stamp(others), start)
                default: return seen &- start
                }
            }
        default: mark(BenchLayout.markRefused)
        }
    }

    /// Runs `body` once an iteration and takes the time around it.
    @inline(__always)
    private func measure(_ body: (UInt32) -> Void) {
        collect { index in
            let start = guest_tsc_low()
            body(index)
            return guest_tsc_low() &- start
        }
    }

    /// Runs `sample` once an iteration and keeps what it returns. Those of the warm-up go where the first one will.
    @inline(__always)
    private func collect(_ sample: (UInt32) -> UInt32) {
        guard let samples = UnsafeMutablePointer<UInt32>(bitPattern: UInt(BenchLayout.samples)) else { return }
        let warmUp = request.warmUp
        let all = warmUp &+ min(request.iterations, BenchLayout.sampleLimit)
        mark(BenchLayout.markBegin)
        var index: UInt32 = 0
        while index != all {
            let place = index < warmUp ? 0 : index &- warmUp
            samples[Int(place)] = sample(index)
            index &+= 1
        }
        // Its way back to the ready port lies before the end mark: the host waits for it there.
        if request.usesPeer != 0 { guest_store(&guest_mailbox(1).pointee.command, Peer.leave) }
        mark(BenchLayout.markEnd)
    }

    @inline(never)
    private func mark(_ mark: UInt32) {
        if request.marksInMemory != 0 {
            guest_mmio_write32(BenchLayout.device, mark)
        } else {
            guest_out32(BenchLayout.markPort, mark)
        }
    }

    /// Waits until vCPU 1 does its part.
    private func awaitOther() {
        let box: UnsafeMutablePointer<guest_mailbox> = guest_mailbox(1)
        while guest_load(&box.pointee.state) != Peer.ready { guest_pause() }
    }

    private static func count(_ record: UnsafeMutablePointer<guest_interrupt>) -> UInt32 {
        guest_load(&record.pointee.count)
    }

    private static func stamp(_ record: UnsafeMutablePointer<guest_interrupt>) -> UInt32 {
        UInt32(truncatingIfNeeded: record.pointee.stamp)
    }

    private static func since(_ time: UInt32) -> UInt32 { difference(guest_tsc_low(), time) }

    /// From one time to a later one; 0 when it is not later, as where a timer fires early.
    private static func difference(_ later: UInt32, _ earlier: UInt32) -> UInt32 {
        UInt32(max(0, Int32(bitPattern: later &- earlier)))
    }
}

/// What CPUID says of this processor.
enum Processor {
    /// Leaf 0, EBX: "Auth" of AuthenticAMD, "Hygo" of HygonGenuine.
    static var isAMD: Bool {
        var result = guest_registers()
        guest_cpuid_inline(0, 0, &result)
        return result.ebx == 0x6874_7541 || result.ebx == 0x6F67_7948
    }

    /// A bit of leaf 1, ECX.
    static func feature(_ bit: UInt32) -> Bool {
        var result = guest_registers()
        guest_cpuid_inline(1, 0, &result)
        return result.ecx >> bit & 1 == 1
    }
}
