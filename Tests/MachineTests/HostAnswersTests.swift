import ExitStats
import Testing
@testable import KVM
@testable import Machine

/// What a host kernel with the patches of kernel-patch/ tells, made up.
@Suite struct HostAnswersTests {
    static func counters(_ arrays: [String: [UInt64]]) -> KernelCounters {
        var counters = KernelCounters()
        counters.add(
            arrays.map { name, values in
                BinaryStats.Counter(
                    name: name, values: values, kind: .cumulative, unit: .none, base: .ten, exponent: 0,
                    bucketSize: 0)
            })
        return counters
    }

    /// Slots of SVM's sparse codes, and the last one, which has none.
    @Test func slotsBecomeExitCodes() throws {
        var exits = [UInt64](repeating: 0, count: 174)
        for slot in [0x7B, 0xA7, 0xAA, 0xAB, 0xAC, 173] {
            exits[slot] = UInt64(slot)
        }
        let counters = Self.counters([
            "exit_acct_reason_exits": exits, "exit_acct_reason_cycles": exits.map { $0 * 10 },
            "exit_acct_exits": [1000],
        ])
        let tally = try #require(HostAnswers.kernel(.svm).exits(counters))
        #expect(tally.reasons.map(\.code) == [0x7B, 0x400, 0x403, 0xF000_0000, 0xFFFF_FFFF, nil])
        #expect(tally.reasons.map(\.times?.cycles) == tally.reasons.map { $0.count * 10 })
        #expect(tally.total == 1000)
        #expect(HostAnswers.none.exits(counters) == nil)
        #expect(try #require(HostAnswers.kernel(.vmx).exits(counters)).reasons.first?.code == 0x7B)
    }

    /// `auto` takes the kernel's answers before it tries breakpoints; `off` takes none, and says what is in the table.
    @Test(
        arguments: [
            (.auto, .kernel(.vmx), "host", .asListed), (.host, .kernel(.svm), "host", .asListed),
            (.auto, .userspace, "host-exit", .snapshot), (.off, .kernel(.vmx), "none", .none),
            (.off, .userspace, "snapshot", .snapshot), (.off, .none, "snapshot", .snapshot),
        ] as [(LiveCPUIDMode, HostAnswers, String, TallyLeaves)])
    func theKernelComesFirst(mode: LiveCPUIDMode, host: HostAnswers, name: String, leaves: TallyLeaves) throws {
        let plan = try LiveCPUIDPlan(mode, sites: [0x1000], cpus: 1, host: host) {
            Issue.record("breakpoints were tried")
            return BreakpointSupport()
        }
        #expect(plan.name == name && plan.leaves == leaves)
    }

    @Test func aStockKernelIsNoHost() {
        #expect(throws: MachineError.self) {
            try LiveCPUIDPlan(.host, sites: [], cpus: 1, host: .none) { BreakpointSupport() }
        }
    }

    /// A kernel that counts must not find its signature in the table of a guest that is not to be told.
    @Test(arguments: [(.asListed, true), (.none, false), (.snapshot, true)] as [(TallyLeaves, Bool)])
    func tableHasWhatIsAskedFor(leaves: TallyLeaves, signature: Bool) {
        var listed = CPUIDTable(entries: [])
        listed.set(leaf: TallyLeaf.signature, subleaf: nil, eax: TallyLeaf.total, ebx: 1, ecx: 2, edx: 3)
        let table = listed.forGuest(apicID: 0, tscKHz: 0, leaves)
        let entry = table.entry(leaf: TallyLeaf.signature)
        #expect((entry != nil) == signature)
        #expect(entry?.ebx == [.asListed: 1, .snapshot: CPUIDRegisters.tallySignature.ebx][leaves])
        #expect(table.entries.count { $0.function == TallyLeaf.signature } == (signature ? 1 : 0))
    }
}
