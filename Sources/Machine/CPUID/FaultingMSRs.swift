// SPDX-License-Identifier: Apache-2.0
import KVM

/// The guest's own view of CPUID faulting, while the VMM uses the real one (SDM vol. 3B 20.15, vol. 4 table 2-2).
package struct FaultingMSRs {
    /// MSR_PLATFORM_INFO; bit 31: CPUID faulting exists.
    static let platformInfo: UInt32 = 0xCE
    /// MSR_MISC_FEATURES_ENABLES; bit 0: CPUID faults at CPL > 0.
    package static let miscFeaturesEnables: UInt32 = 0x140

    /// MSR_LSTAR, where SYSCALL goes. A kernel sets it up on each CPU before ring 3 first runs there; Linux, in
    /// cpu_init(), right after the IDT (trap_init(), start_secondary()).
    static let systemCallTarget: UInt32 = 0xC000_0082

    /// What the guest must not reach in KVM while the VMM uses faulting.
    static let filter = [
        MSRFilterRange(base: platformInfo, allow: false), MSRFilterRange(base: miscFeaturesEnables, allow: false),
        MSRFilterRange(base: systemCallTarget, accesses: .write, allow: false),
    ]

    private static let faultingExists: UInt64 = 1 << 31

    /// The guest asked for faulting itself: its ring 3 gets its #GPs.
    private(set) var guestFaulting = false

    /// What RDMSR gives; nil: #GP. KVM shows every guest that faulting exists.
    func read(_ index: UInt32) -> UInt64? {
        switch index {
        case Self.platformInfo: Self.faultingExists
        case Self.miscFeaturesEnables: guestFaulting ? 1 : 0
        default: nil
        }
    }

    /// What WRMSR does; false: #GP.
    mutating func write(_ index: UInt32, _ value: UInt64) -> Bool {
        guard index == Self.miscFeaturesEnables, value & ~1 == 0 else { return false }
        guestFaulting = value == 1
        return true
    }

    /// Turns faulting on or off in KVM.
    static func set(_ vcpu: borrowing VCPU, faulting: Bool) throws(KVMError) {
        try vcpu.setMSRs([(platformInfo, faultingExists), (miscFeaturesEnables, faulting ? 1 : 0)])
    }
}
