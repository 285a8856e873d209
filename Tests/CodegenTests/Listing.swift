// SPDX-License-Identifier: Apache-2.0
import Foundation

/// One function's machine code, as objdump prints it in AT&T syntax.
struct Listing {
    struct Instruction: Equatable {
        let address: UInt64
        /// Mnemonic and operands, as printed.
        let text: String

        /// The mnemonic, without prefixes.
        var mnemonic: Substring { words.first { !Self.prefixes.contains($0) } ?? "" }

        /// Locked by prefix: `lock incq`, or, as older LLVMs print it, a line `lock` of its own.
        var isLocked: Bool { words.contains("lock") }

        /// XCHG with memory locks without a prefix (SDM vol. 2D, XCHG).
        var isMemoryExchange: Bool { mnemonic.hasPrefix("xchg") && text.contains("(") }

        /// Into the kernel.
        var isSystemCall: Bool { mnemonic == "syscall" }

        var isCall: Bool { mnemonic.hasPrefix("call") }
        var isUnconditionalJump: Bool { mnemonic.hasPrefix("jmp") }
        var isJump: Bool { mnemonic.hasPrefix("j") }
        var endsPath: Bool { mnemonic.hasPrefix("ret") || mnemonic.hasPrefix("ud2") || isUnconditionalJump }

        /// The symbol that a call or jump goes to, without offset; nil when the target is computed.
        var targetSymbol: String? {
            guard let open = text.firstIndex(of: "<"), let close = text.lastIndex(of: ">") else { return nil }
            return text[text.index(after: open)..<close].split(separator: "+").first.map(String.init)
        }

        /// The address that a call or jump goes to; nil when it is computed.
        var targetAddress: UInt64? {
            guard words.count > 1, let operand = words.drop(while: { $0 != mnemonic }).dropFirst().first else {
                return nil
            }
            return UInt64(operand.hasPrefix("0x") ? operand.dropFirst(2) : operand, radix: 16)
        }

        private var words: [Substring] { text.split { $0 == " " || $0 == "\t" } }
        private static let prefixes: Set<Substring> = [
            "lock", "rep", "repz", "repnz", "notrack", "bnd", "data16", "cs",
        ]
    }

    let symbol: String
    let instructions: [Instruction]

    /// Parses what `objdump -d --no-show-raw-insn` prints of one symbol.
    init(symbol: String, text: String) {
        self.symbol = symbol
        instructions = text.split(separator: "\n").compactMap { line in
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2, let address = UInt64(parts[0].drop { $0 == " " }, radix: 16) else { return nil }
            let code = parts[1].split(separator: "#").first ?? ""
            return Instruction(address: address, text: code.trimmingCharacters(in: .whitespaces))
        }
    }

    /// What must not be between two exits, one line each; empty when all is well.
    ///
    /// - Parameter allowed: parts of the symbols that the function may call.
    func violations(allowedCalls allowed: [String]) -> [String] {
        instructions.compactMap { instruction in
            let place = String(instruction.address, radix: 16) + ": " + instruction.text
            if instruction.isLocked {
                return "locked instruction at " + place
            }
            if instruction.isMemoryExchange {
                return "exchange with memory at " + place
            }
            let leaves = instruction.isCall || instruction.isJump && instruction.targetSymbol != symbol
            guard leaves else { return nil }
            guard let target = instruction.targetSymbol else { return "computed call at " + place }
            return allowed.contains { target.contains($0) } ? nil : "call of \(target) at " + place
        }
    }

    /// The least number of instructions from the return of a system call to the next such call, with no other call between
    /// them; nil when every path makes one.
    func shortestCallFreeLoop() -> Int? {
        let index = Dictionary(uniqueKeysWithValues: instructions.enumerated().map { ($1.address, $0) })
        guard let call = instructions.firstIndex(where: \.isSystemCall) else { return nil }
        var distances = [call + 1: 1]
        var front = [call + 1]
        while !front.isEmpty {
            var next: [Int] = []
            for place in front where place < instructions.count {
                let instruction = instructions[place]
                if place == call {
                    return distances[place].map { $0 - 1 }
                }
                guard !instruction.isCall else { continue }
                let jump = instruction.isJump ? instruction.targetAddress.flatMap { index[$0] } : nil
                for successor in [instruction.endsPath ? nil : place + 1, jump].compactMap({ $0 })
                where distances[successor] == nil {
                    distances[successor] = (distances[place] ?? 0) + 1
                    next.append(successor)
                }
            }
            front = next
        }
        return nil
    }
}
