// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// What every ring's CPUID must answer, live or not.
struct LeafChecks {
    var tally: Tally
    /// Two readings of the whole VM, one right after the other.
    private(set) var first = TallyPair()
    private(set) var second = TallyPair()

    init(_ ring: Ring) { tally = Tally(ring: ring) }

    mutating func run(vcpus: UInt32, into checks: inout Checks) {
        // One ring may go unanswered where the other is not: on kvm-pvm ring 3 runs CPUID on the processor itself. The
        // report says so; what was asked in vain is no mistake of the tally.
        guard tally.hasSignature else { return }
        let ring = tally.ring
        checks.add(
            "abi-version", ring: ring, expected: UInt64(TallyLeaf.version), got: UInt64(tally.features.version),
            rule: .upTo)

        first = tally.total()
        second = tally.total()
        if tally.isLive {
            checkReadings(into: &checks)
            checkECX(into: &checks)
            checkScopes(vcpus: vcpus, into: &checks)
            checkReasons(into: &checks)
        } else {
            for _ in 0..<4 { guest_out8(Ports.unclaimed, 0) }
            let third = tally.total()
            checks.add("snapshot-exits", ring: ring, expected: 0, got: third.count &- first.count)
            checks.add("snapshot-cycles", ring: ring, expected: 0, got: third.cycles &- first.cycles)
        }

        let low = bits(tally.ask(TallyLeaf.page + 1, 0))
        let high = bits(tally.ask(TallyLeaf.reason - 1, 0))
        checks.add("reserved-leaves", ring: ring, expected: 0, got: UInt64(low | high))
    }

    /// Exits that a live reading costs, as the rule for what a reading adds: in userspace nothing else happens in
    /// between, in the kernel's count interrupts may come.
    private var exactness: Rule { tally.features.vocabulary == .kvm ? .equal : .atLeast }

    private mutating func checkReadings(into checks: inout Checks) {
        checks.add("read-exits", ring: tally.ring, expected: 1, got: second.count &- first.count, rule: exactness)
        checks.add("read-cycles", ring: tally.ring, expected: 1, got: second.cycles &- first.cycles, rule: .atLeast)

        let steps = 16
        var rising: UInt64 = 0
        var last = tally.total()
        for _ in 0..<steps {
            let next = tally.total()
            if next.count > last.count && next.cycles > last.cycles { rising += 1 }
            last = next
        }
        checks.add("rising-reads", ring: tally.ring, expected: UInt64(steps), got: rising)
    }

    private mutating func checkScopes(vcpus: UInt32, into checks: inout Checks) {
        guard tally.features.flags.contains(.perVCPU) else { return }
        let machine = tally.total(.machine)
        let vcpu = tally.total(.vcpu)
        if vcpus == 1 {
            checks.add(
                "vcpu-scope", ring: tally.ring, expected: 1, got: vcpu.count &- machine.count, rule: exactness)
        } else {
            checks.add("vcpu-scope", ring: tally.ring, expected: machine.count &+ 1, got: vcpu.count, rule: .atMost)
        }
    }

    /// Programs that leave ECX unset get the total all the same. Version 1 had a scope there.
    private mutating func checkECX(into checks: inout Checks) {
        guard tally.features.version > 1 else { return }
        var last = tally.total().count
        var expected: UInt64 = 0
        var right: UInt64 = 0
        var ecx: UInt32 = 1
        while ecx != 0 {
            let next = tally.ask(TallyLeaf.total, ecx).tallyPair?.count ?? 0
            if exactness == .equal ? next == last + 1 : next > last { right += 1 }
            (expected, last, ecx) = (expected + 1, next, ecx << 4)
        }
        checks.add("total-any-ecx", ring: tally.ring, expected: expected, got: right)
    }

    private mutating func checkReasons(into checks: inout Checks) {
        guard tally.features.flags.contains(.perReason), let vocabulary = tally.features.vocabulary else { return }
        let codes = ReasonCodes(vocabulary)

        let countBefore = tally.count(codes.portIO)
        let totalBefore = tally.total()
        for _ in 0..<3 { guest_out8(Ports.unclaimed, 0) }
        let after = tally.reason(codes.portIO)
        let totalAfter = tally.total()
        checks.add("out8-exits", ring: tally.ring, expected: 3, got: after.count &- countBefore)
        checks.add(  // the three, the reading of the reason, this reading
            "out8-total", ring: tally.ring, expected: 5, got: totalAfter.count &- totalBefore.count, rule: exactness)
        checks.add("part-cycles", ring: tally.ring, expected: totalAfter.cycles, got: after.cycles, rule: .atMost)

        let absent = tally.ask(TallyLeaf.reason, codes.absent)
        checks.add("absent-reason", ring: tally.ring, expected: 0, got: UInt64(bits(absent)))
        checks.add(
            "undefined-reason", ring: tally.ring, expected: 0xFFFF_FFFF,
            got: mark(tally.ask(TallyLeaf.reason, ReasonCodes.undefined)))
        checks.add(
            "undefined-count", ring: tally.ring, expected: 0xFFFF_FFFF,
            got: mark(tally.ask(TallyLeaf.reasonCount, ReasonCodes.undefined)))
    }

    /// 0 when all registers are.
    private func bits(_ answer: CPUIDRegisters) -> UInt32 { answer.eax | answer.ebx | answer.ecx | answer.edx }

    /// EDX of an answer whose other registers are zero, as ``CPUIDRegisters/tallyUndefined``'s are; else 0.
    private func mark(_ answer: CPUIDRegisters) -> UInt64 {
        answer.eax | answer.ebx | answer.ecx == 0 ? UInt64(answer.edx) : 0
    }
}

/// Places that no device claims: they read as all ones and ignore writes, and each access is an exit.
enum Ports {
    static let unclaimed: UInt16 = 0x2000
}
