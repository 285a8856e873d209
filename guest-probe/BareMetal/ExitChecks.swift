// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// Makes known numbers of exits of several kinds and compares the tally before and after, reason by reason and in
/// total. The numbers differ from one another, so that one counted under another's name shows.
struct ExitChecks {
    var tally: Tally
    private let codes: ReasonCodes
    private let vocabulary: TallyFeatures.Vocabulary
    /// Memory that belongs to nothing: above what a small guest has, below the devices at 4 GiB's end.
    private static let device: UInt64 = 0xD000_0000
    /// The MSR that a VMM which answers CPUID by faulting intercepts, and others leave alone.
    private static let miscFeatures: UInt32 = 0x140

    /// Exits known to have happened since the first reading of ``run(memory:into:)``, the readings' own not included.
    private var made: UInt64 = 0

    init?(_ tally: Tally) {
        guard tally.isLive, tally.features.flags.contains(.perReason), let vocabulary = tally.features.vocabulary
        else { return nil }
        self.tally = tally
        self.vocabulary = vocabulary
        codes = ReasonCodes(vocabulary)
    }

    /// - Parameter memory: bytes of guest memory.
    mutating func run(memory: UInt64, into checks: inout Checks) {
        // A processor without the MSR raises #GP, which costs exits of its own where the VMM watches that gate.
        var value: UInt64 = 0
        let hasMSR = guest_read_msr(Self.miscFeatures, &value)

        let timeBefore = guest_tsc()
        let before = tally.total(scope)
        let readsBefore = tally.reads

        checkPorts(into: &checks)
        if memory <= Self.device { checkMMIO(into: &checks) }
        if hasMSR { checkMSRs(value, into: &checks) }
        checkReads(into: &checks)

        let after = tally.total(scope)
        let timeAfter = guest_tsc()
        let reads = tally.reads - readsBefore
        checks.add(
            "all-exits", ring: tally.ring, expected: made + reads, got: after.count &- before.count,
            rule: vocabulary == .kvm ? .equal : .atLeast)
        // The whole lies in between, by the same clock.
        checks.add(
            "all-cycles", ring: tally.ring, expected: timeAfter &- timeBefore, got: after.cycles &- before.cycles,
            rule: .atMost)
    }

    private var scope: TallyScope { tally.features.flags.contains(.perVCPU) ? .vcpu : .machine }

    /// Checks that `body` makes `expected` exits of one reason.
    private mutating func check(
        _ name: StaticString, _ code: UInt32, _ expected: UInt64, rule: Rule = .equal, into checks: inout Checks,
        _ body: () -> Void
    ) {
        // The reading itself is an exit, of this reason or of another: what one adds, the next one shows.
        let first = tally.reason(code).count
        let before = tally.reason(code).count
        let own = before &- first
        body()
        let after = tally.reason(code).count
        let got = after &- before &- own
        made += got
        checks.add(name, ring: tally.ring, expected: expected, got: got, rule: rule)
    }

    private mutating func checkPorts(into checks: inout Checks) {
        let port = Ports.unclaimed
        check("out8", codes.portIO, 11, into: &checks) {
            for _ in 0..<11 { guest_out8(port, 0x5A) }
        }
        check("out16", codes.portIO, 13, into: &checks) {
            for _ in 0..<13 { guest_out16(port, 0x5A5A) }
        }
        check("out32", codes.portIO, 17, into: &checks) {
            for _ in 0..<17 { guest_out32(port, 0x5A5A_5A5A) }
        }

        var ones: UInt64 = 0
        check("in8", codes.portIO, 7, into: &checks) {
            for _ in 0..<7 where guest_in8(port) == .max { ones += 1 }
        }
        check("in16", codes.portIO, 5, into: &checks) {
            for _ in 0..<5 where guest_in16(port) == .max { ones += 1 }
        }
        check("in32", codes.portIO, 9, into: &checks) {
            for _ in 0..<9 where guest_in32(port) == .max { ones += 1 }
        }
        checks.add("in-ones", ring: nil, expected: 21, got: ones)

        // How many elements of a string instruction one exit carries is KVM's business. Of the processor's exits there
        // is one more: KVM goes back to the instruction after each element, and finds the count used up.
        let lastLook: UInt64 = tally.features.vocabulary == .kvm ? 0 : 1
        var bytes = InlineArray<24, UInt8>(repeating: 0)
        withUnsafeMutableBytes(of: &bytes) { buffer in
            check("rep-out8", codes.portIO, 19 + lastLook, rule: .upTo, into: &checks) {
                guest_rep_out8(port, buffer.baseAddress, 19)
            }
            check("rep-in8", codes.portIO, 23 + lastLook, rule: .upTo, into: &checks) {
                guest_rep_in8(port, buffer.baseAddress, 23)
            }
        }
        var filled: UInt64 = 0
        for index in bytes.indices where bytes[index] == .max { filled += 1 }
        checks.add("rep-in8-ones", ring: nil, expected: 23, got: filled)
    }

    private mutating func checkMMIO(into checks: inout Checks) {
        // Where pages are nested, the kernel may see faults of its own besides.
        let rule: Rule = vocabulary == .kvm ? .equal : .atLeast
        let device = Self.device
        var ones: UInt64 = 0
        checkMMIO("mmio-write", 12, rule, into: &checks) {
            for _ in 0..<3 { guest_mmio_write8(device, 0x5A) }
            for _ in 0..<4 { guest_mmio_write32(device + 4, 0x5A5A_5A5A) }
            for _ in 0..<5 { guest_mmio_write64(device + 8, 0x5A5A_5A5A_5A5A_5A5A) }
        }
        checkMMIO("mmio-read", 10, rule, into: &checks) {
            for _ in 0..<2 where guest_mmio_read16(device + 2) == .max { ones += 1 }
            for _ in 0..<5 where guest_mmio_read32(device + 4) == .max { ones += 1 }
            for _ in 0..<3 where guest_mmio_read64(device + 8) == .max { ones += 1 }
        }
        checks.add("mmio-ones", ring: nil, expected: 10, got: ones)
    }

    private mutating func checkMMIO(
        _ name: StaticString, _ expected: UInt64, _ rule: Rule, into checks: inout Checks, _ body: () -> Void
    ) {
        guard let other = codes.otherMMIO else {
            check(name, codes.mmio, expected, rule: rule, into: &checks, body)
            return
        }
        let before = tally.count(codes.mmio) &+ tally.count(other)
        body()
        let after = tally.count(codes.mmio) &+ tally.count(other)
        made += after &- before
        checks.add(name, ring: tally.ring, expected: expected, got: after &- before, rule: rule)
    }

    private mutating func checkMSRs(_ value: UInt64, into checks: inout Checks) {
        let msr = Self.miscFeatures
        // The kernel intercepts it always, userspace if it asked to.
        let rule: Rule = vocabulary == .kvm ? .allOrNone : .equal
        check("rdmsr", codes.readMSR, 6, rule: rule, into: &checks) {
            var ignored: UInt64 = 0
            for _ in 0..<6 { _ = guest_read_msr(msr, &ignored) }
        }
        check("wrmsr", codes.writeMSR, 8, rule: rule, into: &checks) {
            for _ in 0..<8 { _ = guest_write_msr(msr, value) }
        }
    }

    /// The readings' own exits, under the reason that CPUID is counted by (if it is that one).
    private mutating func checkReads(into checks: inout Checks) {
        let before = tally.count(codes.query)
        for _ in 0..<14 { _ = tally.total() }
        let after = tally.count(codes.query)
        checks.add("reads", ring: tally.ring, expected: 15, got: after &- before, rule: .allOrNone)
    }
}
