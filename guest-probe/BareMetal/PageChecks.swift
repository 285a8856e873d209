// SPDX-License-Identifier: Apache-2.0
import CVMTally
import GuestCPU

/// The tally page: that it says what the leaves say at the same exit, that reading it makes no exit, that ring 3 may
/// read it, and that nobody may write to it.
struct PageChecks {
    private let page: UnsafePointer<vmtally_page>
    private let place: TallyPlace

    /// KVM_EXIT_* codes: the page's vocabulary, whatever the leaves' is.
    private static let portIO: UInt32 = 2
    private static let mmio: UInt32 = 6

    /// nil where the VMM has no page.
    init?(_ tally: inout Tally) {
        guard tally.hasSignature, tally.features.flags.contains(.page) else { return nil }
        place = TallyPlace(tally.ask(TallyLeaf.page, 0))
        guard let page = UnsafePointer<vmtally_page>(bitPattern: UInt(place.address)) else { return nil }
        self.page = page
    }

    func run(_ tally: inout Tally, into checks: inout Checks) {
        let isValid = vmtally_page_is_valid(page, place.size) != 0
        checks.add("page-valid", ring: .kernel, expected: 1, got: isValid ? 1 : 0)
        guard isValid else { return }
        if tally.isLive, tally.features.vocabulary == .kvm { checkAgreement(&tally, into: &checks) }
        checkReadings(into: &checks)
        checkStore(into: &checks)
        if let user = mappedForUser() { checkUser(user, into: &checks) }
    }

    private var total: TallyPair { TallyPair(vmtally_page_total(page)) }
    private func reason(_ code: UInt32) -> TallyPair { TallyPair(vmtally_page_reason(page, code)) }

    /// Between two readings of a leaf the page has the exits of the first, and the cycles of the second.
    private func checkAgreement(_ tally: inout Tally, into checks: inout Checks) {
        let before = tally.total()
        let between = total
        let after = tally.total()
        checks.add("page-exits", ring: tally.ring, expected: before.count, got: between.count)
        checks.add("page-cycles", ring: tally.ring, expected: after.cycles, got: between.cycles)

        let debug = ReasonCodes(.kvm).query
        var reasons: UInt64 = 0
        var right: UInt64 = 0
        for code in 0..<64 as Range<UInt32> {
            let answer = tally.ask(TallyLeaf.reason, code)
            guard let pair = answer.tallyPair else { continue }
            let here = reason(code)
            reasons += 1
            // A reading is an exit of this reason where the VMM answers it by itself; its own time is added when it has ended.
            let isReading = code == debug && tally.count(code) > pair.count
            if here.count == pair.count, isReading ? here.cycles > pair.cycles : here.cycles == pair.cycles {
                right += 1
            }
        }
        checks.add("page-reasons", ring: tally.ring, expected: reasons, got: right)
    }

    private func checkReadings(into checks: inout Checks) {
        let before = total
        var last = before
        for _ in 0..<100 { last = total }
        checks.add(
            "page-reads", ring: .kernel, expected: 0, got: last.count &- before.count &+ last.cycles &- before.cycles)

        let outs = reason(Self.portIO).count
        for _ in 0..<3 { guest_out8(Ports.unclaimed, 0) }
        checks.add("page-out8", ring: .kernel, expected: 3, got: reason(Self.portIO).count &- outs)
        checks.add("page-out8-all", ring: .kernel, expected: 3, got: total.count &- last.count)
    }

    /// Stores to the header, to the counters and to the end change nothing: each is an exit as of memory that is nobody's.
    private func checkStore(into checks: inout Checks) {
        let before = total.count
        let stores = reason(Self.mmio).count
        guest_mmio_write64(place.address, .max)
        guest_mmio_write64(place.address + UInt64(page.pointee.blocks), .max)
        guest_mmio_write32(place.address + UInt64(place.size) - 4, .max)
        checks.add("page-stores", ring: .kernel, expected: 3, got: reason(Self.mmio).count &- stores)
        checks.add("page-intact", ring: .kernel, expected: before &+ 3, got: total.count)
    }

    private func checkUser(_ user: UInt64, into checks: inout Checks) {
        let here = total
        let there = guest_call_user(guest_user_page_total(), user, 0)
        checks.add("page-exits", ring: .user, expected: here.count, got: there.first)
        checks.add("page-cycles", ring: .user, expected: here.cycles, got: there.second)
        for _ in 0..<5 { guest_out8(Ports.unclaimed, 0) }
        let after = guest_call_user(guest_user_page_total(), user, 0)
        checks.add("page-out8-all", ring: .user, expected: 5, got: after.first &- there.first)
    }

    /// The page once more for ring 3, read-only, behind itself.
    private func mappedForUser() -> UInt64? {
        UserMapping.map(place.address, size: UInt64(place.size), at: place.address + UserMapping.largePage)
    }
}

/// What leaf 0x4FFFFF03 tells.
struct TallyPlace {
    let address: UInt64
    let size: UInt32

    init(_ answer: CPUIDRegisters) {
        address = UInt64(answer.ebx) << 32 | UInt64(answer.eax)
        size = answer.ecx
    }
}

extension TallyPair {
    init(_ pair: vmtally_pair) {
        self.init(count: pair.count, cycles: pair.cycles)
    }
}
