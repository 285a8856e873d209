// SPDX-License-Identifier: Apache-2.0
import KVM

/// Registers and the bytes at RIP, for the report of a guest that could not go on.
struct GuestState: CustomStringConvertible {
    let description: String

    init(_ vcpu: borrowing VCPU, _ memory: GuestMemory) {
        var lines: [String] = []
        let registers = try? vcpu.registers()
        let special = try? vcpu.specialRegisters()
        if let r = registers {
            lines.append(Self.row([("rip", r.rip), ("rflags", r.rflags), ("rsp", r.rsp), ("rbp", r.rbp)]))
            lines.append(Self.row([("rax", r.rax), ("rbx", r.rbx), ("rcx", r.rcx), ("rdx", r.rdx)]))
            lines.append(Self.row([("rsi", r.rsi), ("rdi", r.rdi), ("r8", r.r8), ("r9", r.r9)]))
            lines.append(Self.row([("r10", r.r10), ("r11", r.r11), ("r12", r.r12), ("r13", r.r13)]))
            lines.append(Self.row([("r14", r.r14), ("r15", r.r15)]))
        }
        if let s = special {
            lines.append(Self.row([("cr0", s.cr0), ("cr2", s.cr2), ("cr3", s.cr3), ("cr4", s.cr4)]))
            lines.append(
                Self.row([
                    ("efer", s.efer), ("cs", UInt64(s.cs.selector)), ("ss", UInt64(s.ss.selector)),
                    ("cpl", UInt64(s.ss.dpl)),
                ]))
            lines.append(Self.row([("gdt", s.gdt.base), ("idt", s.idt.base), ("tr", s.tr.base)]))
        }
        if let r = registers, let s = special {
            let linear = LinearMemory(memory: memory, special: s)
            let rip = s.cs.base &+ r.rip
            var bytes: [UInt8] = []
            while bytes.count < 16, let byte = linear.read(rip &+ UInt64(bytes.count), count: 1, vcpu) {
                bytes += byte
            }
            let text = bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined(separator: " ")
            lines.append("bytes at rip: \(bytes.isEmpty ? "not in guest memory" : text)")
        }
        description = lines.map { "  \($0)" }.joined(separator: "\n")
    }

    private static func row(_ registers: [(String, UInt64)]) -> String {
        registers.map { name, value in
            let digits = String(value, radix: 16)
            return name + String(repeating: " ", count: 7 - name.count)
                + String(repeating: "0", count: 16 - digits.count)
                + digits
        }.joined(separator: "  ")
    }
}
