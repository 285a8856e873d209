// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM

/// Registers that KVM copies to and from the run page, which saves an ioctl each (kvm/api.rst 5, `kvm_valid_regs`).
///
/// Needs `KVM_CAP_SYNC_REGS`, whose value is the set that a kernel knows.
public struct SynchronizedRegisters: OptionSet, Sendable {
    /// `KVM_SYNC_X86_*`.
    public let rawValue: UInt64

    /// Out of `KVM_SYNC_X86_*`.
    public init(rawValue: UInt64) {
        self.rawValue = rawValue
    }

    /// `kvm_regs`
    public static let general = SynchronizedRegisters(rawValue: UInt64(KVM_SYNC_X86_REGS))
    /// `kvm_sregs`
    public static let special = SynchronizedRegisters(rawValue: UInt64(KVM_SYNC_X86_SREGS))
    /// `kvm_vcpu_events`
    public static let events = SynchronizedRegisters(rawValue: UInt64(KVM_SYNC_X86_EVENTS))
}

/// Registers through the run page, without an ioctl (kvm/api.rst 5, KVM_CAP_SYNC_REGS).
///
/// ```swift
/// vcpu.copyOut(.general)
/// _ = vcpu.run()
/// let rip = vcpu.copies.pointee.regs.rip
/// ```
extension VCPU {
    /// The copies: `regs`, `sregs` and `events`.
    public var copies: UnsafeMutablePointer<kvm_sync_regs> { vmtally_sync_regs(runPage) }

    /// From now on KVM copies `registers` out whenever `run()` returns. A set that KVM does not know makes `run()`
    /// return -EINVAL.
    public func copyOut(_ registers: SynchronizedRegisters) {
        runPage.pointee.kvm_valid_regs = registers.rawValue
    }

    /// The next `run()` takes the copies of `registers` as they are in the run page then, once.
    public func copyIn(_ registers: SynchronizedRegisters) {
        runPage.pointee.kvm_dirty_regs |= registers.rawValue
    }

    /// Takes `copyIn` back.
    public func takeBack(_ registers: SynchronizedRegisters) {
        runPage.pointee.kvm_dirty_regs &= ~registers.rawValue
    }
}
