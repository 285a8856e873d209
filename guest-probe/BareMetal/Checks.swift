// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// How a check compares what it got with what it expected.
enum Rule {
    case equal
    case atLeast
    case atMost
    /// 1 up to the expected value.
    case upTo
    /// 0 or the expected value.
    case allOrNone
}

/// One thing that the probe made happen, and what the tally said about it.
struct Check {
    let name: StaticString
    /// The ring that read the tally; nil when none did in particular.
    let ring: Ring?
    let expected: UInt64
    let got: UInt64
    let rule: Rule

    var isOK: Bool {
        switch rule {
        case .equal: got == expected
        case .atLeast: got >= expected
        case .atMost: got <= expected
        case .upTo: got >= 1 && got <= expected
        case .allOrNone: got == 0 || got == expected
        }
    }
}

/// The checks made so far, in the guest's scratch memory: an array inside the struct would be copied about, and there is
/// no heap. Only one may exist.
struct Checks: ~Copyable {
    private static let capacity = Int(GUEST_SCRATCH_SIZE) / MemoryLayout<Check>.stride

    private let checks = guest_scratch().bindMemory(to: Check.self, capacity: capacity)
    private(set) var count = 0
    private(set) var failures: UInt64 = 0

    subscript(index: Int) -> Check { checks[index] }

    @inline(never)
    mutating func add(
        _ name: StaticString, ring: Ring?, expected: UInt64, got: UInt64, rule: Rule = .equal
    ) {
        let check = Check(name: name, ring: ring, expected: expected, got: got, rule: rule)
        if !check.isOK { failures += 1 }
        precondition(count < Self.capacity)
        (checks + count).initialize(to: check)
        count += 1
    }
}
