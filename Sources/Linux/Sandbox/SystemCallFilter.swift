// SPDX-License-Identifier: Apache-2.0
import CLinux

/// The system calls that a thread may still make, as a seccomp filter (seccomp_filter.rst).
///
/// Everything else ends the process with a message: see ``Sandbox``. A filter sees numbers and argument words, never what
/// a pointer points to.
package struct SystemCallFilter: Sendable {
    /// What an allowed call's argument has to be.
    package enum Condition: Sendable {
        /// The low 32 bits of the argument are one of these; the first is tried first.
        case oneOf(argument: Int, [UInt32])
        /// None of these bits is set in the argument's low half.
        case lacks(argument: Int, UInt32)
    }

    private struct Rule {
        let call: Int32
        let condition: Condition?
    }

    private var rules: [Rule] = []

    package init() {}

    /// Allows calls whatever their arguments are.
    package mutating func allow(_ calls: Int32...) {
        rules += calls.map { Rule(call: $0, condition: nil) }
    }

    /// Allows a call under a condition. What is allowed first is looked at first.
    package mutating func allow(_ call: Int32, _ condition: Condition) {
        rules.append(Rule(call: call, condition: condition))
    }

    /// Allows a call under either filter's conditions.
    package mutating func allow(allOf other: SystemCallFilter) {
        rules += other.rules
    }

    /// The filter as the kernel takes it.
    ///
    /// - Parameter role: what a forbidden call is reported with, in SECCOMP_RET_TRAP's data.
    func program(role: UInt16) -> [sock_filter] {
        let trap = Self.returning(UInt32(SECCOMP_RET_TRAP) | UInt32(role))
        // Another architecture's numbers, i386's and x32's, would mean other calls.
        var program = [
            Self.load(Offset.architecture), Self.jump(Code.equal, 0xC000_003E, 1, 0), trap,
            Self.load(Offset.number), Self.jump(Code.greaterOrEqual, 0x4000_0000, 0, 3),
            // No call: what a tracer puts in the place of one that it makes fail (scripts/inject).
            Self.jump(Code.equal, .max, 0, 1), Self.allowed, trap,
        ]
        for rule in rules {
            let number = UInt32(bitPattern: rule.call)
            switch rule.condition {
            case nil:
                program += [Self.jump(Code.equal, number, 0, 1), Self.allowed]
            case .oneOf(argument: let index, let values):
                // A jump goes 255 instructions far: two for each value.
                for part in stride(from: 0, to: values.count, by: 120) {
                    let values = values[part..<min(values.count, part + 120)]
                    program += [
                        Self.jump(Code.equal, number, 0, UInt8(2 * values.count + 2)),
                        Self.load(Offset.argument(index)),
                    ]
                    for value in values {
                        program += [Self.jump(Code.equal, value, 0, 1), Self.allowed]
                    }
                    program.append(Self.load(Offset.number))
                }
            case .lacks(argument: let index, let bits):
                program += [
                    Self.jump(Code.equal, number, 0, 4), Self.load(Offset.argument(index)),
                    Self.jump(Code.anyBit, bits, 1, 0), Self.allowed, Self.load(Offset.number),
                ]
            }
        }
        return program + [trap]
    }

    /// Offsets in struct seccomp_data.
    private enum Offset {
        static let number: UInt32 = 0
        static let architecture: UInt32 = 4
        static func argument(_ index: Int) -> UInt32 { UInt32(16 + 8 * index) }
    }

    private enum Code {
        static let equal = UInt16(BPF_JMP | BPF_JEQ | BPF_K)
        static let greaterOrEqual = UInt16(BPF_JMP | BPF_JGE | BPF_K)
        static let anyBit = UInt16(BPF_JMP | BPF_JSET | BPF_K)
    }

    private static let allowed = returning(UInt32(SECCOMP_RET_ALLOW))

    private static func load(_ offset: UInt32) -> sock_filter {
        sock_filter(code: UInt16(BPF_LD | BPF_W | BPF_ABS), jt: 0, jf: 0, k: offset)
    }

    private static func jump(_ code: UInt16, _ value: UInt32, _ ifTrue: UInt8, _ ifFalse: UInt8) -> sock_filter {
        sock_filter(code: code, jt: ifTrue, jf: ifFalse, k: value)
    }

    private static func returning(_ value: UInt32) -> sock_filter {
        sock_filter(code: UInt16(BPF_RET | BPF_K), jt: 0, jf: 0, k: value)
    }
}
