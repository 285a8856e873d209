// SPDX-License-Identifier: Apache-2.0

/// Where vCPUs spent their time, TSC cycles, as a host kernel with the series of kernel-patch/ or the module of
/// kernel-module/ accounts for it.
public struct VCPUTime: Equatable, Sendable {
    /// In the guest.
    public let guest: UInt64
    /// From VM exit to VM entry, without userspace and without blocking.
    public let kernel: UInt64
    /// Between two KVM_RUN.
    public let userspace: UInt64
    /// By HLT, or in polling for its end.
    public let blocked: UInt64
    /// Without a CPU, while the kernel would have gone on.
    public let preempted: UInt64

    /// All five, TSC cycles.
    public init(guest: UInt64, kernel: UInt64, userspace: UInt64, blocked: UInt64, preempted: UInt64) {
        self.guest = guest
        self.kernel = kernel
        self.userspace = userspace
        self.blocked = blocked
        self.preempted = preempted
    }

    /// Of two vCPUs, or of two spans.
    public static func + (one: VCPUTime, other: VCPUTime) -> VCPUTime {
        VCPUTime(
            guest: one.guest &+ other.guest, kernel: one.kernel &+ other.kernel,
            userspace: one.userspace &+ other.userspace, blocked: one.blocked &+ other.blocked,
            preempted: one.preempted &+ other.preempted)
    }
}
