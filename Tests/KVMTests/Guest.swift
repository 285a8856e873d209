// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
@testable import KVM

/// Why the tests that need /dev/kvm cannot run here; nil where they can.
///
/// On a continuous-integration machine a missing KVM is a failure, not a reason to skip: there the tests run and say so.
let noKVM: String? = {
    do throws(KVMError) {
        _ = try System()
        return nil
    } catch {
        return getenv("CI") == nil ? error.description : nil
    }
}()

/// Whether this host offers something; true where that cannot be told, so that the test itself says why.
func has(_ capability: Capability) -> Bool {
    do throws(KVMError) {
        return try System().check(capability) > 0
    } catch {
        return true
    }
}

/// A machine with one vCPU in real mode at 0:1000h, as little of a guest as there can be.
struct Guest: ~Copyable {
    static let codeAddress = 0x1000

    let vm: VirtualMachine
    let vcpu: VCPU
    let memory: UnsafeMutableRawPointer
    let memorySize: Int

    /// - Parameters:
    ///   - code: at 1000h.
    ///   - prepare: what must happen before the vCPU exists or runs.
    init(
        code: [UInt8], memorySize: Int = 64 << 10, memoryFlags: UInt32 = 0,
        machine prepareMachine: (borrowing VirtualMachine) throws -> Void = { _ in },
        vcpu prepareVCPU: (borrowing VCPU) throws -> Void = { _ in }
    ) throws {
        let vm = try System().createVM()
        let memory = mmap(nil, memorySize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        let mapped = try #require(memory != MAP_FAILED ? memory : nil)
        mapped.advanced(by: Self.codeAddress).copyMemory(from: code, byteCount: code.count)
        try vm.setMemoryRegion(
            slot: 0, flags: memoryFlags, guestAddress: 0, size: UInt64(memorySize), host: mapped)
        try prepareMachine(vm)
        let vcpu = try vm.createVCPU(id: 0)
        try prepareVCPU(vcpu)
        var special = try vcpu.specialRegisters()
        special.cs.base = 0
        special.cs.selector = 0
        try vcpu.setSpecialRegisters(special)
        var registers = kvm_regs()
        registers.rip = UInt64(Self.codeAddress)
        registers.rsp = 0x1000
        registers.rflags = 2
        try vcpu.setRegisters(registers)
        self.vm = vm
        self.vcpu = vcpu
        self.memory = mapped
        self.memorySize = memorySize
    }

    deinit {
        munmap(memory, memorySize)
    }

    /// Runs to the next exit to userspace; its reason.
    func exit() throws -> UInt32 {
        let result = vcpu.run()
        try #require(result == 0, "KVM_RUN: \(KVMError(call: "KVM_RUN", errno: -result))")
        return vcpu.runPage.pointee.exit_reason
    }

    func runToHalt() throws {
        try #require(try exit() == UInt32(KVM_EXIT_HLT))
    }
}
