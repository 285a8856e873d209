// SPDX-License-Identifier: Apache-2.0
import KVM
@testable import GuestCode
@testable import Machine

/// A vCPU at a tiny guest's entry, and the machine around it, without the VMM's loop.
struct BareVCPU: ~Copyable {
    let memory: GuestMemory
    let machine: VirtualMachine
    let vcpu: VCPU

    init(_ guest: TinyGuest) throws {
        let memory = try GuestMemory(mebibytes: 16)
        let boot = try guest.elf.withUnsafeBytes { bytes in
            try BareMetal(try ELFExecutable(bytes), bytes: bytes, into: memory, cpus: 1)
        }
        let system = try System()
        let machine = try system.createVM()
        try machine.setIdentityMapAddress(0xFFFB_C000)
        try machine.setTSSAddress(0xFFFB_D000)
        try machine.setMemoryRegion(slot: 0, guestAddress: 0, size: memory.size, host: memory.host)
        let vcpu = try machine.createVCPU(id: 0)
        try vcpu.setCPUID(try system.supportedCPUID())
        try boot.start(vcpu, index: 0)
        self.memory = memory
        self.machine = machine
        self.vcpu = vcpu
    }

    /// The vCPU alone: KVM keeps its machine until it is gone.
    consuming func takeVCPU() -> VCPU {
        vcpu
    }
}
