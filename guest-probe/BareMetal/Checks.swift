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
    var name: StaticString = ""
    /// The ring that read the tally; nil when none did in particular.
    var ring: Ring?
    var expected: UInt64 = 0
    var got: UInt64 = 0
    var rule = Rule.equal

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

/// The checks made so far. Of a fixed size, because the guest has no heap.
struct Checks {
    private var checks = InlineArray<96, Check>(repeating: Check())
    private(set) var count = 0
    private(set) var failures: UInt64 = 0

    subscript(index: Int) -> Check { checks[index] }

    @inline(never)
    mutating func add(
        _ name: StaticString, ring: Ring?, expected: UInt64, got: UInt64, rule: Rule = .equal
    ) {
        let check = Check(name: name, ring: ring, expected: expected, got: got, rule: rule)
        if !check.isOK { failures += 1 }
        checks[count] = check
        count += 1
    }
}
