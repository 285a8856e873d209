// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// The local APIC, by memory or by MSRs (SDM vol. 3A 12.4, 12.12).
struct APIC {
    private static let base: UInt64 = 0xFEE0_0000
    private static let baseMSR: UInt32 = 0x1B
    private static let x2APICBit: UInt64 = 1 << 10
    private static let enabledBit: UInt64 = 1 << 11
    private static let deadlineMSR: UInt32 = 0x6E0

    private enum Register {
        static let spurious: UInt32 = 0xF
        static let command: UInt32 = 0x30
        static let commandHigh: UInt32 = 0x31
        static let timer: UInt32 = 0x32
        static let selfIPI: UInt32 = 0x3F
    }

    /// What ``enable(_:)`` was last given.
    private(set) var mode: UInt32 = 0

    var isX2: Bool { mode == 2 }

    /// - Parameter mode: 0 there is none, 1 xAPIC, 2 x2APIC.
    mutating func enable(_ mode: UInt32) {
        guard mode != self.mode else { return }
        self.mode = mode
        guest_install_interrupts()
        if isX2 {
            guest_wrmsr(Self.baseMSR, msr(Self.baseMSR) | Self.x2APICBit | Self.enabledBit)
        }
        guest_use_x2apic(isX2 ? 1 : 0)
        write(Register.spurious, 0x1FF)  // enabled; spurious vector 0xFF
        write(Register.timer, UInt32(GUEST_VECTOR_0) | 2 << 17)  // TSC deadline
    }

    /// Makes the timer fire at a time, TSC cycles; a past one fires at once.
    @inline(__always)
    func setDeadline(_ time: UInt64) {
        guest_wrmsr(Self.deadlineMSR, time)
    }

    /// Sends vector 0 to this vCPU.
    @inline(__always)
    func interruptSelf() {
        if isX2 {
            guest_wrmsr(0x800 + Register.selfIPI, UInt64(GUEST_VECTOR_0))
        } else {
            guest_mmio_write32(Self.base + UInt64(Register.command) << 4, 1 << 18 | UInt32(GUEST_VECTOR_0))
        }
    }

    /// Sends a vector to vCPU `target`.
    @inline(__always)
    func interrupt(_ target: UInt32, vector: UInt32) {
        if isX2 {
            guest_wrmsr(0x800 + Register.command, UInt64(target) << 32 | UInt64(vector))
        } else {
            guest_mmio_write32(Self.base + UInt64(Register.commandHigh) << 4, target << 24)
            guest_mmio_write32(Self.base + UInt64(Register.command) << 4, vector)
        }
    }

    private func write(_ register: UInt32, _ value: UInt32) {
        if isX2 {
            guest_wrmsr(0x800 + register, UInt64(value))
        } else {
            guest_mmio_write32(Self.base + UInt64(register) << 4, value)
        }
    }

    private func msr(_ index: UInt32) -> UInt64 {
        var value: UInt64 = 0
        _ = guest_read_msr(index, &value)
        return value
    }
}
