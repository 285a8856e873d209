// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// What the guest does under a VMM that is no bench host: exits to userspace, their round trip as a line of text each.
enum Standalone {
    private static let iterations = 2_000
    private static let warmUp = 100

    static func run() -> Never {
        var serial = Serial()
        serial.put("vmtally bench guest, TSC cycles with the readings' own\n")
        measure("empty", &serial) {}
        measure("pio-out", &serial) { guest_out8(0x2000, 0xA5) }
        measure("pio-in", &serial) { _ = guest_in8(0x2000) }
        measure("mmio-write", &serial) { guest_mmio_write32(0xD000_0000, 0xA5A5_A5A5) }
        measure("mmio-read", &serial) { _ = guest_mmio_read32(0xD000_0000) }
        serial.flush()
        exitRun(0)
    }

    /// Times `body` and reports it.
    @inline(__always)
    private static func measure(_ name: StaticString, _ serial: inout Serial, _ body: () -> Void) {
        guard let samples = UnsafeMutablePointer<UInt32>(bitPattern: UInt(BenchLayout.samples)) else { return }
        for _ in 0..<warmUp { body() }
        for index in 0..<iterations {
            let start = guest_tsc_low()
            body()
            samples[index] = guest_tsc_low() &- start
        }
        report(name, samples, &serial)
    }

    @inline(never)
    private static func report(_ name: StaticString, _ samples: UnsafeMutablePointer<UInt32>, _ serial: inout Serial) {
        var smallest = UInt32.max
        var sum: UInt64 = 0
        for index in 0..<iterations {
            smallest = min(smallest, samples[index])
            sum += UInt64(samples[index])
        }
        serial.put(name, width: 12)
        serial.put(" n ")
        serial.put(UInt64(iterations))
        serial.put(" min ")
        serial.put(UInt64(smallest))
        serial.put(" p50 ")
        serial.put(UInt64(median(samples)))
        serial.put(" mean ")
        serial.put(sum / UInt64(iterations))
        serial.put("\n")
    }

    /// The value that half of the samples do not exceed, below 2^24: found bit by bit, which takes fewer instructions than
    /// to sort.
    private static func median(_ samples: UnsafeMutablePointer<UInt32>) -> UInt32 {
        var value: UInt32 = 0
        var bit: UInt32 = 1 << 23
        while bit != 0 {
            // Fewer than half lie below: the median does not.
            let limit = value | bit
            var below = 0
            for index in 0..<iterations where samples[index] < limit { below += 1 }
            if below < (iterations + 1) / 2 { value = limit }
            bit >>= 1
        }
        return value
    }
}
