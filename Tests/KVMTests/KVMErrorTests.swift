// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
@testable import KVM
@testable import Linux

@Suite struct KVMErrorTests {
    @Test(
        arguments: [
            (EACCES, nil, "KVM_CREATE_VM: Permission denied (EACCES)"),
            (EACCES, "Ask.", "KVM_CREATE_VM: Permission denied (EACCES). Ask."),
            (E2BIG, nil, "KVM_CREATE_VM: Argument list too long (E2BIG)"),
            (9999, nil, "KVM_CREATE_VM: Unknown error (errno 9999)"),
            (-1, nil, "KVM_CREATE_VM: Unknown error (errno -1)"),
        ] as [(Int32, String?, String)])
    func saysWhatFailedAndWhatToDo(errno: Int32, remedy: String?, description: String) {
        #expect(KVMError(call: "KVM_CREATE_VM", errno: errno, remedy: remedy).description == description)
    }

    @Test(arguments: [
        ("/nonexistent/kvm", ENOENT, "modprobe"),
        ("/dev/null", ENOTTY, "not KVM's device"),
    ]) func openingSomethingElseHasARemedy(path: String, errno: Int32, remedy: String) {
        let error = #expect(throws: KVMError.self) { _ = try System(path: path) }
        #expect(error?.errno == errno)
        #expect(error?.remedy?.contains(remedy) == true, "\(String(describing: error))")
    }

    @Test(arguments: [
        (ENOENT, "modprobe kvm_intel"), (ENXIO, "modprobe kvm_amd"), (ENODEV, "nested virtualization"),
        (EACCES, "usermod -aG kvm"), (EPERM, "usermod -aG kvm"),
    ]) func eachObstacleHasItsRemedy(errno: Int32, remedy: String) {
        #expect(System.remedy(path: "/dev/kvm", errno: errno)?.contains(remedy) == true)
    }

    @Test func aDescriptorClosesWithItsOwner() throws {
        var ends: [Int32] = [0, 0]
        try #require(pipe(&ends) == 0)
        let reader = FileDescriptor(owning: ends[0])
        do {
            let writer = FileDescriptor(owning: ends[1])
            #expect(write(writer.rawValue, "x", 1) == 1)
        }
        var byte: UInt8 = 0
        #expect(read(reader.rawValue, &byte, 1) == 1)
        #expect(read(reader.rawValue, &byte, 1) == 0, "the end of the file: the writer is closed")
    }
}

/// Every call on a descriptor that is no machine and no vCPU fails under its own name, and nothing traps.
@Suite struct WrongDescriptorTests {
    typealias MachineCall = (name: String, body: @Sendable (borrowing VirtualMachine) throws -> Void)
    typealias VCPUCall = (name: String, body: @Sendable (borrowing VCPU) throws -> Void)

    static let machineCalls: [MachineCall] = [
        ("KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)", { try $0.splitIRQChip(pins: 24) }),
        ("KVM_SET_USER_MEMORY_REGION", { try $0.setMemoryRegion(slot: 0, guestAddress: 0, size: 0, host: nil) }),
        ("KVM_GET_DIRTY_LOG", { _ = try $0.dirtyLog(slot: 0) }),
        ("KVM_CREATE_VCPU", { _ = try $0.createVCPU(id: 0) }),
        ("KVM_SET_BOOT_CPU_ID", { try $0.setBootVCPU(id: 0) }),
        ("KVM_GET_CLOCK", { _ = try $0.clock() }),
        ("KVM_SET_CLOCK", { try $0.setClock(kvm_clock_data()) }),
        ("KVM_GET_STATS_FD", { _ = try $0.statistics() }),
        ("KVM_CREATE_IRQCHIP", { try $0.createIRQChip() }),
        ("KVM_GET_IRQCHIP", { _ = try $0.irqChip(0) }),
        ("KVM_SET_IRQCHIP", { try $0.setIRQChip(kvm_irqchip()) }),
        ("KVM_CREATE_PIT2", { try $0.createPIT2() }),
        ("KVM_GET_PIT2", { _ = try $0.pit2() }),
        ("KVM_SET_PIT2", { try $0.setPIT2(kvm_pit_state2()) }),
        ("KVM_SET_TSS_ADDR", { try $0.setTSSAddress(0) }),
        ("KVM_SET_IDENTITY_MAP_ADDR", { try $0.setIdentityMapAddress(0) }),
        ("KVM_IRQ_LINE", { try $0.irqLine(gsi: 0, level: true) }),
        ("KVM_SIGNAL_MSI", { try $0.signalMSI(address: 0, data: 0) }),
        ("KVM_SET_GSI_ROUTING", { try $0.setGSIRouting([]) }),
        ("KVM_X86_SET_MSR_FILTER", { try $0.setMSRFilter(defaultAllow: true, ranges: []) }),
        ("KVM_IOEVENTFD", { try $0.registerIOEvent(0, address: 0, length: 1, in: .port) }),
        ("KVM_IOEVENTFD", { try $0.deregisterIOEvent(0, address: 0, length: 1, in: .memory, match: 1) }),
        ("KVM_IRQFD", { try $0.registerIRQFD(0, gsi: 0, resample: 0) }),
        ("KVM_IRQFD", { try $0.deregisterIRQFD(0, gsi: 0) }),
        ("KVM_REGISTER_COALESCED_MMIO", { try $0.registerCoalescedZone(address: 0, size: 1, in: .port) }),
        ("KVM_UNREGISTER_COALESCED_MMIO", { try $0.deregisterCoalescedZone(address: 0, size: 1, in: .memory) }),
    ]

    static let vcpuCalls: [VCPUCall] = [
        ("KVM_ENABLE_CAP(KVM_CAP_HYPERV_SYNIC)", { try $0.enable(.hyperVSYNIC) }),
        ("KVM_GET_STATS_FD", { _ = try $0.statistics() }),
        ("KVM_GET_REGS", { _ = try $0.registers() }),
        ("KVM_SET_REGS", { try $0.setRegisters(kvm_regs()) }),
        ("KVM_GET_SREGS", { _ = try $0.specialRegisters() }),
        ("KVM_SET_SREGS", { try $0.setSpecialRegisters(kvm_sregs()) }),
        ("KVM_GET_CPUID2", { _ = try $0.cpuid() }),
        ("KVM_SET_CPUID2", { try $0.setCPUID(CPUIDTable()) }),
        ("KVM_GET_MSRS", { _ = try $0.msrs([0x10]) }),
        ("KVM_SET_MSRS", { try $0.setMSRs([(index: 0x10, value: 0)]) }),
        ("KVM_SET_GUEST_DEBUG", { try $0.setGuestDebug(kvm_guest_debug()) }),
        ("KVM_GET_DEBUGREGS", { _ = try $0.debugRegisters() }),
        ("KVM_SET_DEBUGREGS", { try $0.setDebugRegisters(kvm_debugregs()) }),
        ("KVM_GET_VCPU_EVENTS", { _ = try $0.events() }),
        ("KVM_SET_VCPU_EVENTS", { try $0.setEvents(kvm_vcpu_events()) }),
        ("KVM_TRANSLATE", { _ = try $0.translate(0) }),
        ("KVM_GET_LAPIC", { _ = try $0.lapic() }),
        ("KVM_SET_LAPIC", { try $0.setLAPIC(kvm_lapic_state()) }),
        ("KVM_GET_MP_STATE", { _ = try $0.mpState() }),
        ("KVM_SET_MP_STATE", { try $0.setMPState(0) }),
        ("KVM_GET_XCRS", { _ = try $0.xcrs() }),
        ("KVM_SET_XCRS", { try $0.setXCRs(kvm_xcrs()) }),
        ("KVM_GET_FPU", { _ = try $0.fpu() }),
        ("KVM_SET_FPU", { try $0.setFPU(kvm_fpu()) }),
        ("KVM_GET_XSAVE", { _ = try $0.xsave() }),
        ("KVM_SET_XSAVE", { try $0.setXSAVE(Array(repeating: 0, count: 4096)) }),
        ("KVM_SET_XSAVE", { try $0.setXSAVE([]) }),
        ("KVM_GET_TSC_KHZ", { _ = try $0.tscKHz() }),
        ("KVM_SET_TSC_KHZ", { try $0.setTSCKHz(1) }),
        ("KVM_SET_SIGNAL_MASK", { try $0.setSignalMask(1) }),
        ("KVM_SET_SIGNAL_MASK", { try $0.setSignalMask(nil) }),
        ("KVM_NMI", { try $0.nmi() }),
        ("KVM_SMI", { try $0.smi() }),
        ("KVM_INTERRUPT", { try $0.interrupt(1) }),
        ("KVM_KVMCLOCK_CTRL", { try $0.notifyPaused() }),
    ]

    @Test(arguments: machineCalls.indices) func aMachineCallFailsUnderItsName(_ number: Int) throws {
        let (name, body) = Self.machineCalls[number]
        let vm = VirtualMachine(fd: FileDescriptor(owning: open("/dev/null", O_RDWR)), runPageSize: 4096)
        #expect(vm.check(.irqChip) == 0)
        do {
            try body(vm)
            Issue.record("\(name) should have failed")
        } catch let error as KVMError {
            #expect(error.call == name)
            #expect(error.errno == (name == "KVM_GET_DIRTY_LOG" ? ENOENT : ENOTTY))
        }
    }

    @Test(arguments: vcpuCalls.indices) func aVCPUCallFailsUnderItsName(_ number: Int) throws {
        let (name, body) = Self.vcpuCalls[number]
        // /dev/zero can at least be mapped.
        let vcpu = try VCPU(
            fd: FileDescriptor(owning: open("/dev/zero", O_RDWR)), runPageSize: 4096, coalescedPage: 2, xsaveSize: 4096)
        #expect(vcpu.run() == -ENOTTY)
        #expect(vcpu.drainCoalescedWrites { _ in } == 0, "a ring past the end of the mapping")
        do {
            try body(vcpu)
            Issue.record("\(name) should have failed")
        } catch let error as KVMError {
            #expect(error.call == name)
            #expect([ENOTTY, EINVAL].contains(error.errno))
        }
    }

    @Test func aVCPUThatCannotBeMappedThrows() {
        let error = #expect(throws: KVMError.self) {
            _ = try VCPU(fd: FileDescriptor(owning: -1), runPageSize: 4096, coalescedPage: 0, xsaveSize: 4096)
        }
        #expect(error?.errno == EBADF)
    }

    @Test func aCapabilityTakesFourArguments() {
        let vm = VirtualMachine(fd: FileDescriptor(owning: open("/dev/null", O_RDWR)), runPageSize: 4096)
        let error = #expect(throws: KVMError.self) { try vm.enable(.exitHypercall, 1, 2, 3, 4, 5) }
        #expect(error?.errno == E2BIG)
    }
}
