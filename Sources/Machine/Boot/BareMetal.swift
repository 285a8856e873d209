// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import GuestCode
import KVM

/// How a bare-metal guest starts: image in RAM, boot structures and one stack a vCPU at RAM's end.
struct BareMetal {
    static let stackSize: UInt64 = 64 << 10
    static let bootInfoMagic: UInt64 = 0x3159_4C4C_4154_4D56  // "VMTALLY1"

    let entry: UInt64
    let longMode: LongMode
    /// Guest physical address past the highest stack.
    let stacksEnd: UInt64

    /// Loads an image and writes the boot structures.
    ///
    /// - Throws: ``MachineError/image(_:)`` when a segment is outside RAM or overlaps the boot structures,
    ///   ``MachineError/refused(_:)`` when RAM is too small for the stacks.
    init(_ image: ELFExecutable, bytes: UnsafeRawBufferPointer, into memory: GuestMemory, cpus: Int)
        throws(MachineError)
    {
        let reserved = LongMode.size + UInt64(cpus) * Self.stackSize
        guard memory.lowSize > reserved else {
            throw .refused(
                .memory, "\(cpus) vCPUs need \(reserved >> 10) KiB for stacks and page tables", "give the guest more")
        }
        longMode = LongMode(base: memory.lowSize - reserved)
        stacksEnd = memory.lowSize
        entry = image.entry
        try Self.load(image.segments, of: bytes, into: memory, reserved: longMode.base..<stacksEnd)
        guard longMode.write(to: memory) else {
            throw .refused(.memory, "no room for page tables", "give the guest more")
        }
        memory.store(Self.bootInfoMagic, at: longMode.bootInfo)
        memory.store(memory.size, at: longMode.bootInfo + 8)
        memory.store(UInt32(cpus), at: longMode.bootInfo + 16)
    }

    /// Copies segments to where they belong: all of each in RAM, none of it where the boot structures are.
    static func load(
        _ segments: [ELFExecutable.Segment], of bytes: UnsafeRawBufferPointer, into memory: GuestMemory,
        reserved: Range<UInt64>
    ) throws(MachineError) {
        for segment in segments {
            guard !segment.memory.overlaps(reserved),
                let target = memory.slice(segment.address, count: Int(clamping: segment.memorySize))
            else { throw .image(.outsideMemory(segment.memory)) }
            // Fresh RAM is zero: only the file's bytes need a copy.
            target.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[segment.file]))
        }
    }

    /// Puts a vCPU at the entry point: RDI = boot info, RSI = index, RSP = top of its own stack.
    func start(_ vcpu: borrowing VCPU, index: Int) throws(KVMError) {
        var special = try vcpu.specialRegisters()
        longMode.enter(&special)
        try vcpu.setSpecialRegisters(special)
        var registers = kvm_regs()
        registers.rip = entry
        registers.rflags = 2
        registers.rdi = longMode.bootInfo
        registers.rsi = UInt64(index)
        registers.rsp = stacksEnd - UInt64(index) * Self.stackSize
        try vcpu.setRegisters(registers)
    }
}
