// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc

/// A run of MSRs and which of them the guest may access without the VMM.
public struct MSRFilterRange: Equatable, Sendable {
    /// Kinds of access to an MSR.
    public struct Accesses: OptionSet, Sendable {
        /// `KVM_MSR_FILTER_*`.
        public let rawValue: UInt32

        /// Out of `KVM_MSR_FILTER_*`.
        public init(rawValue: UInt32) {
            self.rawValue = rawValue
        }

        /// RDMSR.
        public static let read = Accesses(rawValue: UInt32(KVM_MSR_FILTER_READ))
        /// WRMSR.
        public static let write = Accesses(rawValue: UInt32(KVM_MSR_FILTER_WRITE))
    }

    /// The first MSR.
    public let base: UInt32
    /// How many MSRs.
    public let count: UInt32
    /// The accesses that this range decides. Others go on to the next range or the default.
    public let accesses: Accesses
    /// Bit n is MSR `base` + n: 1 leaves the access to KVM, 0 denies it.
    public let bitmap: [UInt8]

    /// A bitmap that is too short denies what it lacks.
    public init(base: UInt32, count: UInt32, accesses: Accesses, bitmap: [UInt8]) {
        let byteCount = Int((UInt64(count) + 7) / 8)
        self.base = base
        self.count = count
        self.accesses = accesses
        self.bitmap = Array(bitmap.prefix(byteCount)) + Array(repeating: 0, count: max(0, byteCount - bitmap.count))
    }

    /// The same decision for `count` MSRs from `base`. Denied ones raise #GP, or exit to userspace where
    /// `KVM_CAP_X86_USER_SPACE_MSR` has `KVM_MSR_EXIT_REASON_FILTER` turned on.
    public init(base: UInt32, count: UInt32 = 1, accesses: Accesses = [.read, .write], allow: Bool) {
        self.init(
            base: base, count: count, accesses: accesses,
            bitmap: Array(repeating: allow ? 0xFF : 0, count: Int((UInt64(count) + 7) / 8)))
    }
}

extension VirtualMachine {
    /// Decides which MSR accesses of the guest KVM answers; the first range that matches counts (4.97).
    ///
    /// Up to 16 ranges of up to 12,288 MSRs. x2APIC's MSRs (0x800 to 0x8FF) cannot be filtered. No ranges and
    /// `defaultAllow` removes the filter.
    ///
    /// ```swift
    /// // RDMSR of MSR_PLATFORM_INFO comes as `VCPU.Exit.readMSR`.
    /// try vm.enable(.x86UserSpaceMSR, UInt64(KVM_MSR_EXIT_REASON_FILTER))
    /// try vm.setMSRFilter(
    ///     defaultAllow: true, ranges: [MSRFilterRange(base: 0xCE, accesses: .read, allow: false)])
    /// ```
    public func setMSRFilter(defaultAllow: Bool, ranges: [MSRFilterRange]) throws(KVMError) {
        let call = "KVM_X86_SET_MSR_FILTER"
        guard ranges.count <= Int(KVM_MSR_FILTER_MAX_RANGES) else {
            throw KVMError(
                call: call, errno: E2BIG, remedy: "\(ranges.count) ranges are more than \(KVM_MSR_FILTER_MAX_RANGES).")
        }
        // All bitmaps in one piece, which stays in place until the kernel has copied it.
        let bitmaps = FlexibleBuffer(byteCount: ranges.reduce(1) { $0 + $1.bitmap.count })
        var filter = kvm_msr_filter()
        filter.flags = UInt32(defaultAllow ? KVM_MSR_FILTER_DEFAULT_ALLOW : KVM_MSR_FILTER_DEFAULT_DENY)
        var offset = 0
        withUnsafeMutableBytes(of: &filter.ranges) { room in
            for (index, range) in ranges.enumerated() {
                let bitmap = bitmaps.base + offset
                bitmap.copyMemory(from: range.bitmap, byteCount: range.bitmap.count)
                offset += range.bitmap.count
                room.storeBytes(
                    of: kvm_msr_filter_range(
                        flags: range.accesses.rawValue, nmsrs: range.count, base: range.base,
                        bitmap: bitmap.assumingMemoryBound(to: UInt8.self)),
                    toByteOffset: index * MemoryLayout<kvm_msr_filter_range>.stride, as: kvm_msr_filter_range.self)
            }
        }
        try fd.control(call, VMTALLY_KVM_X86_SET_MSR_FILTER, with: &filter)
    }
}
