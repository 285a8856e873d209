// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc
import Testing
@testable import KVM
@testable import Linux

@Suite(.enabled(if: noKVM == nil, "no /dev/kvm: \(noKVM ?? "")"))
struct VirtualMachineTests {
    // MARK: Memory

    @Test(
        arguments: [
            (0, 0x1001, 0x1000, EINVAL), (0, 0x1000, 0x800, EINVAL), (1 << 20, 0x1000, 0x1000, EINVAL),
            (1, 0, 0x1000, EEXIST), (0, 0, 0x2000, EINVAL),
        ] as [(UInt32, UInt64, UInt64, Int32)])
    func badMemoryRegionsAreRefused(slot: UInt32, address: UInt64, size: UInt64, errno: Int32) throws {
        let guest = try Guest(code: [0xF4])
        let error = #expect(throws: KVMError.self) {
            try guest.vm.setMemoryRegion(slot: slot, guestAddress: address, size: size, host: guest.memory)
        }
        #expect(error == KVMError(call: "KVM_SET_USER_MEMORY_REGION", errno: errno))
    }

    @Test func unclaimedMemoryExitsAsMMIO() throws {
        // mov ax, 2000h; mov ds, ax; mov byte [5], 'x'; mov ax, [6]; hlt
        let guest = try Guest(
            code: [0xB8, 0x00, 0x20, 0x8E, 0xD8, 0xC6, 0x06, 0x05, 0x00, 0x78, 0xA1, 0x06, 0x00, 0xF4])
        #expect(try guest.exit() == UInt32(KVM_EXIT_MMIO))
        var access = guest.vcpu.runPage.pointee.mmio
        #expect(access.phys_addr == 0x2_0005 && access.len == 1 && access.is_write == 1 && access.data.0 == 0x78)
        #expect(try guest.exit() == UInt32(KVM_EXIT_MMIO))
        access = guest.vcpu.runPage.pointee.mmio
        #expect(access.phys_addr == 0x2_0006 && access.len == 2 && access.is_write == 0)
        guest.vcpu.runPage.pointee.mmio.data.0 = 0x34
        guest.vcpu.runPage.pointee.mmio.data.1 = 0x12
        try guest.runToHalt()
        #expect(try guest.vcpu.registers().rax == 0x1234)
    }

    @Test func theDirtyLogHasThePagesWritten() throws {
        // mov [5000h], al; mov [F000h], al; hlt
        let guest = try Guest(
            code: [0xA2, 0x00, 0x50, 0xA2, 0x00, 0xF0, 0xF4], memoryFlags: UInt32(KVM_MEM_LOG_DIRTY_PAGES))
        _ = try guest.vm.dirtyLog(slot: 0)
        try guest.runToHalt()
        #expect(try guest.vm.dirtyLog(slot: 0) == [1 << 5 | 1 << 15])
        #expect(try guest.vm.dirtyLog(slot: 0) == [0])
        #expect(throws: KVMError.self) { try guest.vm.dirtyLog(slot: 1) }
        // The slot goes, and its log with it.
        try guest.vm.setMemoryRegion(slot: 0, guestAddress: 0, size: 0, host: nil)
        let error = #expect(throws: KVMError.self) { try guest.vm.dirtyLog(slot: 0) }
        #expect(error?.errno == ENOENT)
    }

    @Test(.enabled(if: has(.readOnlyMem), "this KVM has no KVM_CAP_READONLY_MEM"))
    func readOnlyMemoryExitsOnAWrite() throws {
        // mov [5000h], al; hlt
        let guest = try Guest(code: [0xA2, 0x00, 0x50, 0xF4], memoryFlags: UInt32(KVM_MEM_READONLY))
        #expect(try guest.exit() == UInt32(KVM_EXIT_MMIO))
        #expect(guest.vcpu.runPage.pointee.mmio.phys_addr == 0x5000)
    }

    // MARK: Interrupts

    /// Sets up the first PIC with its vectors from 20h, stops at an OUT, then waits; the handler is at 1040h.
    static let picCode: [UInt8] = {
        var code: [UInt8] = []
        // Initialise, vectors from 20h, slave on 2, 8086 mode; all lines on.
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0)] as [(UInt8, UInt8)] {
            code += [0xB0, value, 0xE6, port]  // mov al, value; out port, al
        }
        code += [0xE6, 0x80]  // out 80h, al
        code += [0xFB, 0xF4]  // sti; hlt
        code += Array(repeating: 0x90, count: 0x40 - code.count)
        code += [0xE6, 0x81]  // out 81h, al
        return code
    }()

    func picGuest(vector: Int, machine: (borrowing VirtualMachine) throws -> Void = { _ in }) throws -> Guest {
        let guest = try Guest(
            code: Self.picCode,
            machine: {
                try $0.setTSSAddress(0xFFFB_D000)
                try $0.setIdentityMapAddress(0xFFFB_C000)
                try $0.createIRQChip()
                try $0.createPIT2(flags: UInt32(KVM_PIT_SPEAKER_DUMMY))
                try machine($0)
            })
        guest.memory.storeBytes(of: 0x1040, toByteOffset: vector * 4, as: UInt32.self)
        try #require(try guest.exit() == UInt32(KVM_EXIT_IO))
        try #require(guest.vcpu.runPage.pointee.io.port == 0x80)
        return guest
    }

    func expectHandler(of guest: borrowing Guest) throws {
        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))
        #expect(guest.vcpu.runPage.pointee.io.port == 0x81)
    }

    @Test(.timeLimit(.minutes(60))) func aLineInterruptsTheGuest() throws {
        let guest = try picGuest(vector: 0x24)
        try guest.vm.irqLine(gsi: 4, level: true)
        try expectHandler(of: guest)
        try guest.vm.irqLine(gsi: 4, level: false)
    }

    @Test(.timeLimit(.minutes(60))) func anEventInterruptsTheGuest() throws {
        let guest = try picGuest(vector: 0x25)
        let event = FileDescriptor(owning: eventfd(0, Int32(EFD_NONBLOCK)))
        try guest.vm.registerIRQFD(event.rawValue, gsi: 5)
        #expect(eventfd_write(event.rawValue, 1) == 0)
        try expectHandler(of: guest)
        try guest.vm.deregisterIRQFD(event.rawValue, gsi: 5)
    }

    @Test(.timeLimit(.minutes(60))) func aRouteDecidesWhereALineGoes() throws {
        let guest = try picGuest(vector: 0x23)
        try guest.vm.setGSIRouting([
            .irqChip(gsi: 40, chip: UInt32(KVM_IRQCHIP_PIC_MASTER), pin: 3),
            .msi(gsi: 41, address: 0xFEE0_0000, data: 0x55),
        ])
        try guest.vm.irqLine(gsi: 40, level: true)
        try expectHandler(of: guest)
    }

    @Test(.timeLimit(.minutes(60))) func aMessageInterruptsTheGuest() throws {
        let guest = try picGuest(vector: 0x55)
        var apic = try guest.vcpu.lapic()
        // The spurious vector register's bit 8 switches the APIC on.
        withUnsafeMutableBytes(of: &apic.regs) { $0.storeBytes(of: 0x1FF, toByteOffset: 0xF0, as: UInt32.self) }
        try guest.vcpu.setLAPIC(apic)
        #expect(try guest.vm.signalMSI(address: 0xFEE0_0000, data: 0x55))
        try expectHandler(of: guest)
    }

    @Test func theChipsHaveState() throws {
        let guest = try picGuest(vector: 0x20)
        var pic = try guest.vm.irqChip(UInt32(KVM_IRQCHIP_PIC_MASTER))
        #expect(pic.chip.pic.irq_base == 0x20)
        pic.chip.pic.irq_base = 0x30
        try guest.vm.setIRQChip(pic)
        #expect(try guest.vm.irqChip(UInt32(KVM_IRQCHIP_PIC_MASTER)).chip.pic.irq_base == 0x30)
        try guest.vm.setPIT2(try guest.vm.pit2())
        #expect(throws: KVMError(call: "KVM_CREATE_IRQCHIP", errno: EEXIST)) { try guest.vm.createIRQChip() }
    }

    @Test(.enabled(if: has(.splitIRQChip), "this KVM has no KVM_CAP_SPLIT_IRQCHIP"))
    func aSplitChipHasLocalAPICsOnly() throws {
        let guest = try Guest(code: [0xF4], machine: { try $0.splitIRQChip(pins: 24) })
        _ = try guest.vcpu.lapic()
        #expect(throws: KVMError.self) { try guest.vm.irqChip(UInt32(KVM_IRQCHIP_PIC_MASTER)) }
        #expect(throws: KVMError(call: "KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)", errno: EEXIST)) {
            try guest.vm.splitIRQChip(pins: 24)
        }
    }

    @Test func theBootVCPUIsChosenFirst() throws {
        let guest = try Guest(code: [0xF4])
        #expect(throws: KVMError(call: "KVM_SET_BOOT_CPU_ID", errno: EBUSY)) { try guest.vm.setBootVCPU(id: 1) }
    }

    @Test func theClockCanBeSet() throws {
        let guest = try Guest(code: [0xF4])
        var clock = kvm_clock_data()
        clock.clock = 1_000_000_000_000
        try guest.vm.setClock(clock)
        let now = try guest.vm.clock().clock
        #expect((1_000_000_000_000..<1_060_000_000_000).contains(now))
    }

    // MARK: MSR filter

    @Test(
        .enabled(if: has(.x86UserSpaceMSR), "this KVM has no KVM_CAP_X86_USER_SPACE_MSR (Linux 5.10)"),
        .enabled(if: has(.x86MSRFilter), "this KVM has no KVM_CAP_X86_MSR_FILTER (Linux 5.10)"))
    func filteredMSRsExit() throws {
        // mov ecx, 140h; rdmsr; inc ax; wrmsr; mov ecx, 141h; rdmsr; hlt
        let guest = try Guest(
            code: [
                0x66, 0xB9, 0x40, 0x01, 0x00, 0x00, 0x0F, 0x32, 0x40, 0x0F, 0x30,  //
                0x66, 0xB9, 0x02, 0x01, 0x00, 0xC0, 0x0F, 0x32, 0xF4,
            ],
            machine: { vm in
                try vm.enable(.x86UserSpaceMSR, UInt64(KVM_MSR_EXIT_REASON_FILTER))
                try vm.setMSRFilter(
                    defaultAllow: true,
                    ranges: [
                        MSRFilterRange(base: 0x140, allow: false),
                        MSRFilterRange(base: 0xC000_0100, count: 8, accesses: .write, bitmap: []),
                    ])
            })
        try guest.vcpu.setMSRs([(index: 0xC000_0102, value: 0x77)])
        #expect(try guest.exit() == UInt32(KVM_EXIT_X86_RDMSR))
        let page = guest.vcpu.runPage
        #expect(page.pointee.msr.index == 0x140 && page.pointee.msr.reason == UInt32(KVM_MSR_EXIT_REASON_FILTER))
        page.pointee.msr.data = 0x41
        page.pointee.msr.error = 0
        #expect(try guest.exit() == UInt32(KVM_EXIT_X86_WRMSR))
        #expect(page.pointee.msr.index == 0x140 && page.pointee.msr.data & 0xFFFF == 0x42)
        page.pointee.msr.error = 0
        // Reading the other range is not denied.
        try guest.runToHalt()
        #expect(try guest.vcpu.registers().rax == 0x77)
    }

    @Test func aFilterHasLimits() throws {
        let guest = try Guest(code: [0xF4])
        let ranges = (0..<17).map { MSRFilterRange(base: UInt32($0) * 0x100, allow: true) }
        #expect(throws: KVMError.self) { try guest.vm.setMSRFilter(defaultAllow: true, ranges: ranges) }
        #expect(throws: KVMError.self) {
            try guest.vm.setMSRFilter(defaultAllow: true, ranges: [MSRFilterRange(base: 0, count: 12289, allow: true)])
        }
        try guest.vm.setMSRFilter(defaultAllow: false, ranges: [MSRFilterRange(base: 0, count: 12288, allow: true)])
        try guest.vm.setMSRFilter(defaultAllow: true, ranges: [])
    }

    @Test func aFilterRangeHasABitForEachMSR() {
        #expect(MSRFilterRange(base: 0, count: 9, allow: true).bitmap == [0xFF, 0xFF])
        #expect(MSRFilterRange(base: 0, count: 8, allow: false).bitmap == [0])
        #expect(MSRFilterRange(base: 0, count: 17, accesses: .read, bitmap: [1]).bitmap == [1, 0, 0])
        #expect(MSRFilterRange(base: 0, count: 1, accesses: .read, bitmap: [1, 2, 3]).bitmap == [1])
        #expect(MSRFilterRange(base: 0, count: 0, allow: true).bitmap == [])
    }

    // MARK: Accesses without exits

    @Test func aWriteSignalsItsEvent() throws {
        // mov al, 41h; out 90h, al; mov al, 42h; out 90h, al; hlt
        let guest = try Guest(code: [0xB0, 0x41, 0xE6, 0x90, 0xB0, 0x42, 0xE6, 0x90, 0xF4])
        let event = FileDescriptor(owning: eventfd(0, Int32(EFD_NONBLOCK)))
        try guest.vm.registerIOEvent(event.rawValue, address: 0x90, length: 1, in: .port, match: 0x41)
        // Only the second write exits.
        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))
        var count: eventfd_t = 0
        #expect(eventfd_read(event.rawValue, &count) == 0 && count == 1)
        let page = guest.vcpu.runPage
        #expect((UnsafeRawPointer(page) + Int(page.pointee.io.data_offset)).load(as: UInt8.self) == 0x42)
        try guest.vm.deregisterIOEvent(event.rawValue, address: 0x90, length: 1, in: .port, match: 0x41)
        #expect(throws: KVMError(call: "KVM_IOEVENTFD", errno: ENOENT)) {
            try guest.vm.deregisterIOEvent(event.rawValue, address: 0x90, length: 1, in: .port, match: 0x41)
        }
        try guest.runToHalt()
    }

    @Test(.enabled(if: has(.coalescedPIO), "this KVM has no KVM_CAP_COALESCED_PIO (Linux 4.20)"))
    func coalescedWritesWaitInTheRing() throws {
        // mov ax, 2000h; mov ds, ax; mov cx, 100
        // again: mov al, cl; out 90h, al; mov [4], ax; loop again; hlt
        let guest = try Guest(
            code: [
                0xB8, 0x00, 0x20, 0x8E, 0xD8, 0xB9, 0x64, 0x00,  //
                0x88, 0xC8, 0xE6, 0x90, 0xA3, 0x04, 0x00, 0xE2, 0xF7, 0xF4,
            ])
        try guest.vm.registerCoalescedZone(address: 0x90, size: 1, in: .port)
        try guest.vm.registerCoalescedZone(address: 0x2_0000, size: 0x1000, in: .memory)
        var writes: [CoalescedWrite] = []
        // A full ring makes the next write exit; 200 writes do not fit into one of 169.
        var exits = 0
        while try guest.exit() != UInt32(KVM_EXIT_HLT) {
            exits += 1
            guest.vcpu.drainCoalescedWrites { writes.append($0) }
            let page = guest.vcpu.runPage
            if page.pointee.exit_reason == UInt32(KVM_EXIT_IO) {
                let data = (UnsafeRawPointer(page) + Int(page.pointee.io.data_offset)).load(as: UInt8.self)
                writes.append(CoalescedWrite(space: .port, address: 0x90, data: [data]))
            } else {
                let mmio = page.pointee.mmio
                writes.append(
                    CoalescedWrite(space: .memory, address: mmio.phys_addr, data: [mmio.data.0, mmio.data.1]))
            }
        }
        guest.vcpu.drainCoalescedWrites { writes.append($0) }
        #expect(exits == 1)
        let expected = (1...100).reversed().flatMap { value in
            [
                CoalescedWrite(space: .port, address: 0x90, data: [UInt8(value)]),
                CoalescedWrite(space: .memory, address: 0x2_0004, data: [UInt8(value), 0x20]),
            ]
        }
        #expect(writes == expected)
        #expect(guest.vcpu.drainCoalescedWrites { _ in } == 0)
        try guest.vm.deregisterCoalescedZone(address: 0x90, size: 1, in: .port)
        try guest.vm.deregisterCoalescedZone(address: 0x2_0000, size: 0x1000, in: .memory)
    }
}
