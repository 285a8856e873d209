import ExitStats
import KVM

/// VM exits by reason, as a host kernel with the patches of kernel-patch/ counts and times them.
public struct HardwareExits: Equatable, Sendable {
    public struct Reason: Equatable, Sendable {
        /// Code of the vocabulary; nil: codes that the kernel has no counter of their own for.
        public let code: UInt32?
        public let pair: TallyPair
    }

    public let vocabulary: TallyFeatures.Vocabulary
    /// Exits, and TSC cycles in the kernel from VM exit to VM entry, without userspace and without blocking.
    public let total: TallyPair
    public let reasons: [Reason]
    /// TSC cycles in the guest.
    public let guestCycles: UInt64
    /// TSC cycles blocked, by HLT or in polling for its end.
    public let blockedCycles: UInt64
    /// TSC cycles between two KVM_RUN.
    public let userspaceCycles: UInt64

    /// nil where the kernel does not count.
    package init?(_ counters: KernelCounters, _ host: HostAnswers) {
        guard let vocabulary = host.vocabulary, let exits = counters.arrays["exit_acct_reason_exits"],
            let cycles = counters.arrays["exit_acct_reason_cycles"]
        else { return nil }
        self.vocabulary = vocabulary
        total = TallyPair(
            count: counters.values["exit_acct_exits"] ?? 0, cycles: counters.values["exit_acct_cycles"] ?? 0)
        reasons = zip(exits, cycles).enumerated().compactMap { slot, counts in
            guard counts.0 > 0 else { return nil }
            let code = slot == exits.count - 1 ? nil : Self.code(UInt32(slot), vocabulary)
            return Reason(code: code, pair: TallyPair(count: counts.0, cycles: counts.1))
        }
        guestCycles = counters.values["exit_acct_guest_cycles"] ?? 0
        blockedCycles = counters.values["exit_acct_blocked_cycles"] ?? 0
        userspaceCycles = counters.values["exit_acct_userspace_cycles"] ?? 0
    }

    /// A slot's exit code: SVM's sparse codes follow its dense ones (api.rst 4.133 as patched).
    private static func code(_ slot: UInt32, _ vocabulary: TallyFeatures.Vocabulary) -> UInt32 {
        guard vocabulary == .svm else { return slot }
        return switch slot {
        case 0xA7...0xAA: 0x400 + slot - 0xA7
        case 0xAB: 0xF000_0000
        case 0xAC: 0xFFFF_FFFF
        default: slot
        }
    }
}
