// SPDX-License-Identifier: Apache-2.0
import CBPF
import Glibc

/// How many TSC cycles a nanosecond has: KVM and the kernel's clocks give ns, our figures are cycles.
public struct TSCScale: Equatable, Sendable {
    /// Cycles in 2^20 ns.
    public let cyclesPerMebiNanosecond: UInt64

    /// - Parameter kHz: of the TSC; 0 counts a cycle for each ns.
    public init(kHz: UInt64) {
        cyclesPerMebiNanosecond = kHz == 0 ? 1 << 20 : (kHz << 20) / 1_000_000
    }

    /// The kernel's own scale, as it gives it to perf (perf_event_mmap_page); where the kernel's clock is not the TSC,
    /// as in most VMs, what 20 ms of both clocks tell, within 0.01 % or so.
    public static let host: TSCScale = {
        var mult: UInt32 = 0
        var shift: UInt16 = 0
        if vmtally_tsc_scale(&mult, &shift) == 0, mult > 0, shift < 44 {
            // ns = cycles * mult >> shift
            return TSCScale(cyclesPerMebiNanosecond: (1 << (UInt64(shift) + 20)) / UInt64(mult))
        }
        var (first, last): (UInt64, UInt64) = (0, 0)
        let before = vmtally_tsc_now(&first)
        usleep(20_000)
        let cycles = vmtally_tsc_now(&last) &- before
        guard last > first, cycles > 0, cycles < 1 << 40 else { return TSCScale(kHz: 0) }
        return TSCScale(cyclesPerMebiNanosecond: (cycles << 20) / (last - first))
    }()

    private init(cyclesPerMebiNanosecond: UInt64) {
        self.cyclesPerMebiNanosecond = max(1, cyclesPerMebiNanosecond)
    }

    public var kHz: UInt64 { (cyclesPerMebiNanosecond * 1_000_000) >> 20 }

    /// TSC cycles in so many ns; what does not fit 64 bits is cut to the largest number.
    public func cycles(_ nanoseconds: UInt64) -> UInt64 {
        let product = nanoseconds.multipliedFullWidth(by: cyclesPerMebiNanosecond)
        guard product.high >> 20 == 0 else { return .max }
        return product.high << 44 | product.low >> 20
    }

    public func nanoseconds(_ cycles: UInt64) -> UInt64 {
        let (high, low) = cycles.multipliedFullWidth(by: 1 << 20)
        guard cyclesPerMebiNanosecond > high else { return .max }
        return cyclesPerMebiNanosecond.dividingFullWidth((high, low)).quotient
    }
}
