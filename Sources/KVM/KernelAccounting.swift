// SPDX-License-Identifier: Apache-2.0

/// VM exits by reason and the time around them, as the host's kernel accounts for them: the series of kernel-patch/ in
/// KVM's statistics, the module of kernel-module/ in its own file.
///
/// All times are TSC cycles, summed over vCPUs.
public struct KernelAccounting: Equatable, Sendable {
    /// One reason's exits.
    public struct Reason: Equatable, Sendable {
        /// Of the vendor's manual; nil for all codes that have no counter of their own.
        public let code: UInt32?
        /// How many.
        public internal(set) var exits: UInt64
        /// From VM exit to VM entry, less userspace and blocked time.
        public internal(set) var cycles: UInt64
    }

    /// Those that a vCPU had, each code once.
    public internal(set) var reasons: [Reason]
    /// In the guest.
    public internal(set) var guest: UInt64
    /// From VM exit to VM entry, less all that follows.
    public internal(set) var kernel: UInt64
    /// Between two KVM_RUN.
    public internal(set) var userspace: UInt64
    /// By HLT, or in polling for its end.
    public internal(set) var blocked: UInt64
    /// Without a CPU, while the kernel would have gone on.
    public internal(set) var preempted: UInt64

    /// - Parameter counter: values of one of KVM's binary statistics by its name; nil where the kernel has none.
    /// - Returns: nil for a kernel without the series.
    init?(statistics counter: (String) -> [UInt64]?) {
        func value(_ name: String) -> UInt64? { counter("exit_acct_\(name)")?.first }
        guard let exits = counter("exit_acct_reason_exits"), let cycles = counter("exit_acct_reason_cycles") else {
            return nil
        }
        let codes = counter("exit_acct_codes") ?? []
        reasons = zip(exits, cycles).enumerated().compactMap { slot, counts in
            guard counts.0 > 0 else { return nil }
            // All ones: the slot of the codes that have none of their own.
            let code = slot < codes.count ? UInt32(exactly: codes[slot]) : nil
            return Reason(code: code, exits: counts.0, cycles: counts.1)
        }
        guest = value("guest_cycles") ?? 0
        kernel = value("cycles") ?? 0
        userspace = value("userspace_cycles") ?? 0
        blocked = value("blocked_cycles") ?? 0
        preempted = value("preempted_cycles") ?? 0
    }

    init(_ snapshot: ExitModuleSnapshot) {
        func sum(_ value: (ExitModuleSnapshot.VCPU) -> UInt64) -> UInt64 {
            snapshot.vcpus.reduce(0) { $0 &+ value($1) }
        }
        reasons = []
        guest = sum(\.times.guest)
        kernel = sum(\.times.kernel)
        userspace = sum(\.times.userspace)
        blocked = sum(\.times.blocked)
        preempted = sum(\.times.preempted)
        for reason in snapshot.vcpus.lazy.flatMap(\.reasons) where reason.count > 0 {
            add(Reason(code: reason.code, exits: reason.count, cycles: reason.cycles))
        }
        let unseen = sum(\.unseen)
        if unseen > 0 {
            // What VMX cannot run KVM emulates, and calls exit reason 33 (SDM vol. 3D appendix C) without an event of its own.
            add(Reason(code: snapshot.vocabulary == 1 ? 33 : nil, exits: unseen, cycles: 0))
        }
    }

    private mutating func add(_ reason: Reason) {
        if let index = reasons.firstIndex(where: { $0.code == reason.code }) {
            reasons[index].exits &+= reason.exits
            reasons[index].cycles &+= reason.cycles
        } else {
            reasons.append(reason)
        }
    }

    /// Growth.
    func difference(since earlier: KernelAccounting) -> KernelAccounting {
        var result = self
        result.guest &-= earlier.guest
        result.kernel &-= earlier.kernel
        result.userspace &-= earlier.userspace
        result.blocked &-= earlier.blocked
        result.preempted &-= earlier.preempted
        for before in earlier.reasons {
            result.add(Reason(code: before.code, exits: 0 &- before.exits, cycles: 0 &- before.cycles))
        }
        result.reasons.removeAll { $0.exits == 0 }
        return result
    }
}
