// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Testing
@testable import KVM
@testable import Machine

/// What a host kernel with the patches of kernel-patch/ tells, made up.
@Suite struct HostLeafSupportTests {
    static func counters(_ arrays: [String: [UInt64]], vcpus: Int = 1) -> KernelCounters {
        var counters = KernelCounters()
        for _ in 0..<vcpus {
            counters.add(
                arrays.map { name, values in
                    BinaryStats.Counter(
                        name: name, values: values, kind: name == "exit_acct_codes" ? .instant : .cumulative,
                        unit: .none,
                        base: .ten, exponent: 0, bucketSize: 0)
                })
        }
        return counters
    }

    /// The kernel tells which code a slot counts; the last has those without a slot. Two vCPUs: counts add up, codes do not.
    @Test func slotsBecomeExitCodes() throws {
        let counters = Self.counters(
            [
                "exit_acct_codes": [0x7B, 0x400, 0x402, 0xF000_0000, 0xFFFF_FFFF, .max],
                "exit_acct_reason_exits": [1, 2, 0, 3, 4, 5], "exit_acct_reason_cycles": [10, 20, 0, 30, 40, 50],
            ], vcpus: 2)
        let tally = try #require(HostLeafSupport.kernel(.svm).exits(counters))
        #expect(tally.reasons.map(\.code) == [0x7B, 0x400, 0xF000_0000, 0xFFFF_FFFF, nil])
        #expect(tally.reasons.map(\.count) == [2, 4, 6, 8, 10])
        #expect(tally.reasons.map(\.times?.cycles) == tally.reasons.map { $0.count * 10 })
        #expect(HostLeafSupport.none.exits(counters) == nil)
    }

    /// The first four characters of `GenuineIntel`, `AuthenticAMD`, `HygonGenuine`, `CentaurHauls`.
    @Test(
        arguments: [
            (0x756E_6547, .vmx), (0x6874_7541, .svm), (0x6F67_7948, .svm), (0x746E_6543, .vmx),
        ] as [(UInt32, TallyFeatures.Vocabulary)])
    func theVendorTellsTheVocabulary(vendor: UInt32, vocabulary: TallyFeatures.Vocabulary) {
        #expect(HostLeafSupport.vocabulary(vendor) == vocabulary)
    }

    /// What asks the kernel to answer: the signature, and features that are live.
    @Test func theTableAsksTheKernel() throws {
        var table = CPUIDTable(entries: [])
        table.list(.userspace)
        #expect(table.entries.isEmpty)
        table.list(.kernel(.svm))
        let features = try #require(table.entry(leaf: TallyLeaf.features))
        #expect(table.entry(leaf: TallyLeaf.signature)?.ecx == CPUIDRegisters.tallySignature.ecx)
        #expect((features.ebx, features.edx) == (7, 2))
    }

    /// `auto` takes the kernel's answers before it tries breakpoints; `off` takes none, and says what is in the table.
    @Test(
        arguments: [
            (.auto, .kernel(.vmx), "host", .asListed), (.host, .kernel(.svm), "host", .asListed),
            (.auto, .userspace, "host-exit", .snapshot), (.off, .kernel(.vmx), "none", .none),
            (.off, .userspace, "snapshot", .snapshot), (.off, .none, "snapshot", .snapshot),
        ] as [(LiveCPUIDMode, HostLeafSupport, String, TallyLeaves)])
    func theKernelComesFirst(mode: LiveCPUIDMode, host: HostLeafSupport, name: String, leaves: TallyLeaves) throws {
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
