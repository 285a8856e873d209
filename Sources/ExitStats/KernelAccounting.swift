// SPDX-License-Identifier: Apache-2.0

/// Where vCPUs spent their time, TSC cycles, as a host kernel with the series of kernel-patch/ accounts it.
public struct VCPUTime: Equatable, Sendable {
    public let guest: UInt64
    /// From VM exit to VM entry, without userspace and without blocking.
    public let kernel: UInt64
    /// Between two KVM_RUN.
    public let userspace: UInt64
    /// By HLT, or in polling for its end.
    public let blocked: UInt64
    /// Without a CPU, while the kernel would have gone on.
    public let preempted: UInt64

    private init(guest: UInt64, kernel: UInt64, userspace: UInt64, blocked: UInt64, preempted: UInt64) {
        self.guest = guest
        self.kernel = kernel
        self.userspace = userspace
        self.blocked = blocked
        self.preempted = preempted
    }

    public static func + (one: VCPUTime, other: VCPUTime) -> VCPUTime {
        VCPUTime(
            guest: one.guest &+ other.guest, kernel: one.kernel &+ other.kernel,
            userspace: one.userspace &+ other.userspace, blocked: one.blocked &+ other.blocked,
            preempted: one.preempted &+ other.preempted)
    }

    /// - Parameter counter: values of one of KVM's binary statistics by its name; nil where the kernel has none.
    /// - Returns: nil where the kernel does not account.
    public init?(statistics counter: (String) -> [UInt64]?) {
        func value(_ name: String) -> UInt64? { counter("exit_acct_\(name)_cycles")?.first }
        guard let guest = value("guest"), let kernel = counter("exit_acct_cycles")?.first else { return nil }
        self.guest = guest
        self.kernel = kernel
        userspace = value("userspace") ?? 0
        blocked = value("blocked") ?? 0
        preempted = value("preempted") ?? 0
    }
}

extension ExitCounts {
    /// VM exits by reason, as such a kernel counts them and times them from VM exit to VM entry.
    ///
    /// - Parameters:
    ///   - counter: values of one of KVM's binary statistics by its name; nil where the kernel has none.
    ///   - vocabulary: that of the kernel's answer to ``TallyLeaf/features``.
    /// - Returns: nil where the kernel does not count.
    public init?(
        kernelPatch counter: (String) -> [UInt64]?, _ vocabulary: TallyFeatures.Vocabulary,
        source: Source = .kernelPatch
    ) {
        guard let exits = counter("exit_acct_reason_exits"), let cycles = counter("exit_acct_reason_cycles") else {
            return nil
        }
        let codes = counter("exit_acct_codes") ?? []
        self.init(
            source: source, vocabulary: vocabulary,
            reasons: zip(exits, cycles).enumerated().compactMap { slot, counts in
                guard counts.0 > 0 else { return nil }
                // All ones: the slot of the codes that have none of their own.
                let code = slot < codes.count ? UInt32(exactly: codes[slot]) : nil
                return Reason(code: code, count: counts.0, times: Times(cycles: counts.1))
            })
    }

    /// The total of KVM's binary statistics, `exits` (Linux 5.14); nil where there is none.
    public init?(statistics counter: (String) -> [UInt64]?) {
        guard let exits = counter("exits")?.first else { return nil }
        self.init(source: .statistics, total: exits)
    }
}
