// SPDX-License-Identifier: Apache-2.0
import GuestCode
import KVM

extension Machine {
    /// Addresses that the processor has been told by Linux: system call entry (MSR_LSTAR) and #GP handler.
    func anchors() -> [SymbolTable.Anchor] {
        var anchors: [SymbolTable.Anchor] = []
        for vcpu in vcpus {
            if let address = try? vcpu.loop.vcpu.msrs([0xC000_0082]).first, address != 0 {
                anchors.append(.init(symbol: "entry_SYSCALL_64", address: address))
            }
            if let special = try? vcpu.loop.vcpu.specialRegisters(),
                let address = LinearMemory(memory: memory, special: special).faultGate()?.handler
            {
                anchors.append(.init(symbol: "asm_exc_general_protection", address: address))
            }
        }
        return anchors
    }

    /// The names that a Linux guest has of its own kernel's code, out of its RAM, when the run is over; nil when it is no
    /// Linux, or has none. They are where the guest has them: KASLR is in them.
    ///
    /// - Parameter anchors: ``RunResult/anchors``.
    public func kernelSymbols(_ anchors: [SymbolTable.Anchor]) -> SymbolTable? {
        guard let special = try? vcpus[0].loop.vcpu.specialRegisters() else { return nil }
        let linear = LinearMemory(memory: memory, special: special)
        // Those of the first vCPU: another's would not do better.
        for anchor in anchors.prefix(2) {
            guard let place = linear.walk(anchor.address)?.physical,
                let image = memory.surroundings(of: place, before: 32 << 20, after: 64 << 20),
                let table = Kallsyms(UnsafeRawBufferPointer(image)).flatMap(SymbolTable.init),
                table.address(of: anchor.symbol) == anchor.address
            else { continue }
            return table
        }
        return nil
    }
}
