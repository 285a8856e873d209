// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// What vCPUs other than 0 do: each makes a few exits of its own when told to, and reads its own tally around them.
enum OtherVCPUs {
    private static let ready: UInt32 = 1
    private static let done: UInt32 = 2
    /// Go; and from here on: go, and read as an ABI of version `command - go` has it.
    private static let go: UInt32 = 1

    /// TSC cycles that vCPU 0 waits for the others: about ten seconds, for hosts with fewer CPUs than the guest.
    private static let patience: UInt64 = 30_000_000_000

    /// Exits that vCPU `index` makes: small, and not the same for all.
    private static func share(of index: UInt32) -> UInt64 { 3 + UInt64(index % 5) }

    /// The whole life of a vCPU other than 0. It ends waiting, not in HLT: that would be an exit at a moment of its
    /// own, and the last reading could not be exact.
    static func live(as index: UInt32) -> Never {
        guard index < GUEST_MAX_VCPUS, let mailbox = guest_mailbox(index) else { wait() }
        guest_store(&mailbox.pointee.state, ready)
        while guest_load(&mailbox.pointee.command) == 0 { guest_yield() }
        let version = guest_load(&mailbox.pointee.command) - go
        let question = TallyScope.vcpu.question(version: version)

        var result = guest_registers()
        if version > 0 { guest_cpuid(question.leaf, question.subleaf, &result) }
        mailbox.pointee.first = UInt64(result.edx) << 32 | UInt64(result.eax)
        for _ in 0..<share(of: index) { guest_out8(Ports.unclaimed, 0xA5) }
        if version > 0 { guest_cpuid(question.leaf, question.subleaf, &result) }
        mailbox.pointee.second = UInt64(result.edx) << 32 | UInt64(result.eax)
        guest_store(&mailbox.pointee.state, done)
        wait()
    }

    /// On vCPU 0: waits until all others are there, so that what they do at their start is over.
    /// - Returns: how many are.
    static func gather(of vcpus: UInt32) -> UInt64 { count(of: vcpus, in: ready) }

    /// On vCPU 0: sets the others going, and checks their exits in the VM's total and in each one's own.
    static func check(of vcpus: UInt32, with tally: inout Tally, into checks: inout Checks) {
        guard let vocabulary = tally.features.vocabulary, tally.features.flags.contains(.perReason) else { return }
        let rule: Rule = vocabulary == .kvm ? .equal : .atLeast
        let portIO = ReasonCodes(vocabulary).portIO
        let others = 1..<min(vcpus, UInt32(GUEST_MAX_VCPUS))
        let reads = tally.features.flags.contains(.perVCPU) && tally.ring == .kernel

        let exitsBefore = tally.count(portIO)
        let before = tally.total()
        for index in others {
            guest_store(&guest_mailbox(index).pointee.command, reads ? go + tally.features.version : go)
        }
        let finished = count(of: vcpus, in: done)
        let after = tally.total()
        let exitsAfter = tally.count(portIO)

        var exits: UInt64 = 0
        var right: UInt64 = 0
        for index in others {
            let share = share(of: index)
            exits += share
            let mailbox = guest_mailbox(index).pointee
            let got = mailbox.second &- mailbox.first
            if got == share + 1 || rule == .atLeast && got > share { right += 1 }
        }
        let count = UInt64(others.count)
        checks.add("others-done", ring: nil, expected: count, got: finished)
        checks.add("others-out8", ring: tally.ring, expected: exits, got: exitsAfter &- exitsBefore)
        checks.add(  // two readings by each, and the one that ends it
            "others-total", ring: tally.ring, expected: exits + (reads ? 2 * count : 0) + 1,
            got: after.count &- before.count, rule: rule)
        if reads { checks.add("others-own", ring: .kernel, expected: count, got: right) }
    }

    private static func count(of vcpus: UInt32, in state: UInt32) -> UInt64 {
        let start = guest_tsc()
        var count: UInt64 = 0
        for index in 1..<min(vcpus, UInt32(GUEST_MAX_VCPUS)) {
            while guest_load(&guest_mailbox(index).pointee.state) != state {
                guard guest_tsc() &- start < patience else { return count }
                guest_yield()
            }
            count += 1
        }
        return count
    }

    private static func wait() -> Never {
        while true { guest_yield() }
    }
}
