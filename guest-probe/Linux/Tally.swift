// SPDX-License-Identifier: Apache-2.0
import CVMTally
import LinuxSystem

/// The tally as the page or CPUID tells it.
struct Tally {
    /// What is read instead of CPUID.
    let page: Page?
    /// Why it is not.
    let pageFailure: Page.Failure
    let features: TallyFeatures
    private let hasSignature: Bool
    let vocabulary: ReasonVocabulary
    /// This processor's APIC ID, by which the page knows it.
    private let vcpu: UInt32
    /// Queries made so far.
    private(set) var reads: UInt64 = 0

    init(_ options: Options) {
        hasSignature = Self.cpuid(TallyLeaf.signature, 0).isTallySignature
        let told = hasSignature ? TallyFeatures(Self.cpuid(TallyLeaf.features, 0)) : TallyFeatures(CPUIDRegisters())
        var page: Page?
        var failure = Page.Failure.absent
        // VM exits, which the host's kernel counts, are more than the page has.
        let tellsMore = told.flags.contains(.live) && told.vocabulary != .kvm
        if options.via == .page || options.via == .auto && !tellsMore {
            var place: vmtally_place?
            if told.flags.contains(.page) {
                let answer = Self.cpuid(TallyLeaf.page, 0)
                place = vmtally_place(
                    address: UInt64(answer.ebx) << 32 | UInt64(answer.eax), bytes: answer.ecx, version: answer.edx)
            }
            (page, failure) = Page.map(place)
        }
        self.page = page
        pageFailure = failure
        features = page?.features ?? told
        vocabulary = .vocabulary(features.vocabulary ?? .kvm)
        vcpu = page == nil ? 0 : Self.apicID()
    }

    var isLive: Bool { isKnown && features.flags.contains(.live) }

    /// What the numbers mean is known.
    var isKnown: Bool { page != nil || hasSignature }

    mutating func total(_ scope: TallyScope) -> TallyPair {
        if let page {
            return page.total(scope == .vcpu ? vcpu : nil)
        }
        reads += 1
        let question = scope.question(version: features.version)
        let answer = Self.cpuid(question.leaf, question.subleaf)
        // Without a signature nothing says that the other registers hold what ours do.
        guard hasSignature else { return TallyPair(count: UInt64(answer.eax)) }
        return answer.tallyPair ?? TallyPair()
    }

    mutating func reason(_ code: UInt32) -> TallyPair {
        if let page {
            return page.reason(code)
        }
        reads += 1
        return Self.cpuid(TallyLeaf.reason, code).tallyPair ?? TallyPair()
    }

    /// Reasons of the vocabulary that are asked for: none without a signature, for others have other leaves for them.
    var reasonCount: Int { isKnown ? min(vocabulary.reasons.count, Int(SYSTEM_SNAPSHOT_SIZE) / 2) : 0 }

    /// The reason under which a query is counted itself.
    var queryReason: UInt32 {
        switch features.vocabulary {
        case .vmx: 10  // CPUID
        case .svm: 0x72  // CPUID
        default: 4  // KVM_EXIT_DEBUG: queries arrive by a breakpoint
        }
    }

    /// Of leaf 0xB, or of leaf 1 where that is missing.
    private static func apicID() -> UInt32 {
        cpuid(0, 0).eax >= 0xB && cpuid(0xB, 0).ebx != 0 ? cpuid(0xB, 0).edx : cpuid(1, 0).ebx >> 24
    }

    static func cpuid(_ leaf: UInt32, _ subleaf: UInt32) -> CPUIDRegisters {
        var result = system_registers()
        system_cpuid(leaf, subleaf, &result)
        return CPUIDRegisters(eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx)
    }
}

/// Total and every reason at about one moment.
///
/// A query is an exit of its own. So that none of them shows in a difference, the reason that queries are counted under
/// is read next to the total: last before what is measured, first after it.
struct Snapshot {
    enum Side {
        case before, after
    }

    let total: TallyPair
    let nanoseconds: UInt64
    /// What a query costs the VM, cycles; 0: not known. Before what is measured only.
    let queryCycles: UInt64
    private let pairs: UnsafeMutablePointer<UInt64>

    init(_ tally: inout Tally, _ side: Side, _ scope: TallyScope = .machine) {
        let pairs = system_snapshot(side == .before ? 0 : 1).unsafelyUnwrapped
        self.pairs = pairs
        let query = tally.vocabulary.index(of: tally.queryReason) ?? 0
        func read(_ index: Int) {
            let pair = tally.reason(tally.vocabulary.reasons[index].code)
            pairs[index * 2] = pair.count
            pairs[index * 2 + 1] = pair.cycles
        }
        let count = tally.reasonCount
        switch side {
        case .before:
            for index in 0..<count where index != query { read(index) }
            if count > 0 { read(query) }
            let first = tally.total(scope)
            let second = tally.total(scope)
            total = tally.total(scope)
            // Other vCPUs' exits may come in between.
            queryCycles = min(second.cycles &- first.cycles, total.cycles &- second.cycles)
            nanoseconds = now(1)
        case .after:
            queryCycles = 0
            nanoseconds = now(1)
            total = tally.total(scope)
            if count > 0 { read(query) }
            for index in 0..<count where index != query { read(index) }
        }
    }

    /// Queries between the two readings of the total, and of the query's own reason: they are no part of what is
    /// measured.
    static let ownQueriesInTotal: UInt64 = 1
    static let ownQueriesInReason: UInt64 = 5

    /// What a value has grown since `before`, if there is one, without so many queries of our own.
    func growth(of value: (Snapshot) -> TallyPair, since before: Snapshot?, own: UInt64) -> TallyPair {
        guard let before else { return value(self) }
        return value(self).since(value(before), own: own, of: before.queryCycles)
    }

    func pair(_ index: Int) -> TallyPair {
        TallyPair(count: pairs[index * 2], cycles: pairs[index * 2 + 1])
    }
}

/// A clock in nanoseconds: 1 is monotonic, 7 runs since boot.
func now(_ clock: Int32) -> UInt64 {
    var time = system_time()
    _ = system_clock(clock, &time)
    return UInt64(time.seconds) * 1_000_000_000 + UInt64(time.nanoseconds)
}

extension TallyPair {
    /// The growth since an earlier reading, less what the measurement itself added: queries, and cycles of each.
    func since(_ earlier: TallyPair, own: UInt64 = 0, of ownCycles: UInt64 = 0) -> TallyPair {
        let count = count &- earlier.count
        let cycles = cycles &- earlier.cycles
        let spent = own &* ownCycles
        return TallyPair(count: count > own ? count - own : 0, cycles: cycles > spent ? cycles - spent : 0)
    }
}
