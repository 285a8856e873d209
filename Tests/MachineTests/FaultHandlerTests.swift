// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import KVM
import Testing
@testable import Machine

/// When the guest's #GP handler is armed, and when no more.
struct FaultHandlerTests {
    private static let early = FaultGate(address: 0x20D0, isWritable: true, handler: 0x1000)
    private static let final = FaultGate(address: 0x20D0, isWritable: true, handler: 0x5000)
    /// Linux's IDT once it is done with it: mapped a second time, read-only.
    private static let readOnly = FaultGate(address: 0xF0D0, isWritable: false, handler: 0x5000)
    private static let empty = FaultGate(address: 0x20D0, isWritable: true, handler: nil)

    /// Looks at the IDT one after the other, and what is armed and watched after the last.
    struct Case: CustomTestStringConvertible, Sendable {
        let testDescription: String
        let looks: [(FaultGate?, FaultHandler.Occasion)]
        let handler: UInt64?
        let watched: UInt64?

        init(
            _ description: String, _ looks: [(FaultGate?, FaultHandler.Occasion)], handler: UInt64?, watched: UInt64?
        ) {
            testDescription = description
            self.looks = looks
            self.handler = handler
            self.watched = watched
        }
    }

    @Test(arguments: [
        Case("nothing there", [(nil, .chance), (nil, .told)], handler: nil, watched: nil),
        Case("an empty gate is watched, not armed", [(empty, .told)], handler: nil, watched: 0x20D0),
        Case("seen once by chance", [(early, .chance)], handler: nil, watched: 0x20D0),
        Case("seen twice by chance", [(early, .chance), (early, .chance)], handler: 0x1000, watched: 0x20D0),
        Case("another each time", [(early, .chance), (final, .chance)], handler: nil, watched: 0x20D0),
        Case("the guest says so", [(final, .told)], handler: 0x5000, watched: 0x20D0),
        Case("early boot's, then the final one", [(early, .chance), (final, .told)], handler: 0x5000, watched: 0x20D0),
        Case("armed too early, then changed", [(early, .told), (final, .chance)], handler: 0x5000, watched: 0x20D0),
        Case("read-only needs no watch", [(final, .told), (readOnly, .chance)], handler: 0x5000, watched: nil),
        Case("emptied", [(final, .told), (empty, .chance)], handler: nil, watched: 0x20D0),
        Case(
            "emptied and filled again", [(final, .told), (empty, .chance), (early, .chance)], handler: 0x1000,
            watched: 0x20D0),
        Case("the IDT goes", [(final, .told), (nil, .chance)], handler: nil, watched: nil),
    ])
    func looks(_ test: Case) {
        var fault = FaultHandler()
        for (gate, occasion) in test.looks {
            let before = (fault.handler, fault.watched)
            #expect(fault.update(gate, occasion) == (before != (fault.handler, fault.watched)))
        }
        #expect(fault.handler == test.handler)
        #expect(fault.watched == test.watched)
    }

    /// A gate in a guest's memory, and what is seen of it.
    struct Gate: CustomTestStringConvertible, Sendable {
        let testDescription: String
        var gate: [UInt64] = [0x1234_8E00_0008_5678, 0x9ABC]
        var base: UInt64 = 0x2000
        var limit: UInt16 = 0xFFF
        var efer: UInt64 = 0x500
        var cr0: UInt64 = 0x8001_0001
        var cr4: UInt64 = 0x20
        /// Flags of the page that the IDT is in.
        var page: UInt64 = 0x83
        let seen: FaultGate?
    }

    private static func seen(_ handler: UInt64?, at address: UInt64 = 0x20D0, isWritable: Bool = true) -> FaultGate {
        FaultGate(address: address, isWritable: isWritable, handler: handler)
    }

    @Test(arguments: [
        Gate(testDescription: "an interrupt gate", seen: seen(0x9ABC_1234_5678)),
        Gate(testDescription: "a trap gate", gate: [0x1234_8F00_0008_5678, 0], seen: seen(0x1234_5678)),
        Gate(testDescription: "not present", gate: [0x1234_0E00_0008_5678, 0], seen: seen(nil)),
        Gate(testDescription: "a call gate", gate: [0x1234_8C00_0008_5678, 0], seen: seen(nil)),
        Gate(testDescription: "a limit below it", limit: 14 * 16 - 2, seen: nil),
        Gate(testDescription: "its last byte at the limit", limit: 14 * 16 - 1, seen: seen(0x9ABC_1234_5678)),
        Gate(testDescription: "no long mode", efer: 0, seen: nil),
        Gate(testDescription: "CR4.FRED", cr4: 0x20 | 1 << 32, seen: nil),
        Gate(testDescription: "a page that is not there", page: 0, seen: nil),
        Gate(testDescription: "a read-only page", page: 0x81, seen: seen(0x9ABC_1234_5678, isWritable: false)),
        Gate(
            testDescription: "a read-only page without CR0.WP", cr0: 0x8000_0001, page: 0x81,
            seen: seen(0x9ABC_1234_5678)),
        Gate(testDescription: "across two pages", base: 0x2F2C, seen: seen(0x9ABC_1234_5678, at: 0x2FFC)),
        Gate(testDescription: "outside RAM", base: 0x1F_FF00, seen: nil),
    ])
    func gateInMemory(_ test: Gate) throws {
        let memory = try GuestMemory(mebibytes: 1)
        let longMode = LongMode(base: 0x8000)
        try #require(longMode.write(to: memory))
        memory.store(test.page, at: longMode.base + 0x2000)
        for (index, word) in test.gate.enumerated() {
            memory.store(word, at: test.base &+ 13 * 16 &+ UInt64(index) * 8)
        }
        var special = kvm_sregs()
        (special.cr0, special.cr3, special.cr4, special.efer) = (test.cr0, longMode.pml4, test.cr4, test.efer)
        (special.idt.base, special.idt.limit) = (test.base, test.limit)
        #expect(LinearMemory(memory: memory, special: special).faultGate() == test.seen)
    }

    /// nop; lidt [rbx]; sidt [rbx]; lidt [rip + 0]; monitor (0F 01 C8); xgetbv (0F 01 D0): operands in memory alone.
    @Test func descriptorTableLoadsAreFound() throws {
        let memory = try GuestMemory(mebibytes: 1)
        let code: [UInt8] = [
            0x90, 0x0F, 0x01, 0x1B, 0x0F, 0x01, 0x0B, 0x0F, 0x01, 0x1D, 0, 0, 0, 0, 0x0F, 0x01, 0xC8, 0x0F, 0x01, 0xD0,
            0x0F, 0x01,
        ]
        memory.slice(0x1000, count: code.count)?.copyBytes(from: code)
        func find(_ ranges: [Range<UInt64>], limit: Int) -> [UInt64] {
            DescriptorTableLoads.find(in: memory, ranges, limit: limit)
        }
        let image: [Range<UInt64>] = [0x1000..<0x1000 + UInt64(code.count)]
        #expect(find(image, limit: 4) == [0x1001, 0x1007])
        #expect(find(image, limit: 1) == [0x1001])
        #expect(find(image, limit: 0) == [])
        #expect(find([0..<0, 0x20_0000..<0x30_0000, 0x1001..<0x1003], limit: 4) == [])
    }

    /// What the plan has debug registers for: the handler, its gate, sites, LIDTs.
    @Test(
        arguments: [
            (0, true, 0, 2), (1, true, 1, 1), (2, true, 2, 0), (3, true, 2, 0), (3, false, 3, 0), (0, false, 0, 3),
        ] as [(sites: Int, writes: Bool, live: Int, loads: Int)])
    func debugRegistersAreShared(test: (sites: Int, writes: Bool, live: Int, loads: Int)) throws {
        var support = BreakpointSupport()
        (support.hardware, support.resumeFlag, support.faulting, support.writes) = (true, true, true, test.writes)
        let sites = (0..<test.sites).map { UInt64($0) }
        let plan = try LiveCPUIDPlan(.auto, sites: sites, cpus: 1, host: .none) { limit in
            (0..<limit).map { UInt64($0) }
        } support: {
            support
        }
        #expect(plan.sites.count == test.live && plan.tableLoads.count == test.loads)
        #expect((plan.shortfall != nil) == (test.live < test.sites))
    }

    /// A host that answers the range itself: what it says is not to pass for our snapshot.
    @Test(arguments: [(true, "fault"), (false, "none")]) func aRangeThatIsTaken(faulting: Bool, name: String) throws {
        var support = BreakpointSupport()
        (support.hardware, support.faulting, support.rangeIsTaken) = (true, faulting, true)
        let plan = try LiveCPUIDPlan(.auto, sites: [], cpus: 1, host: .none) { support }
        #expect(plan.name == name && plan.leaves == .none)
        #expect(plan.shortfall?.contains("answers of its own") == true)
    }

    @Test(.enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")")) func thisHostTakesNothing() {
        #expect(!Host.breakpoints.rangeIsTaken)
    }
}
