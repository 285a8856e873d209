// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// Ends the run: a write of `value` to port 0xF4 makes it end with status `value << 1 | 1`, as QEMU's isa-debug-exit.
func exitRun(_ value: UInt8) -> Never {
    guest_out8(0xF4, value)
    stop()
}

/// Ends this vCPU.
func stop() -> Never {
    while true { guest_halt() }
}

/// Called by start.S for an exception that nothing expects: reports it and ends the run with status 7.
@c(guest_exception)
func guestException(_ vector: UInt32, _ error: UInt64, _ address: UInt64) -> Never {
    var serial = Serial()
    serial.put("\nexception ")
    serial.put(UInt64(vector))
    serial.put(", error code ")
    serial.put(hexadecimal: error)
    serial.put(", RIP ")
    serial.put(hexadecimal: address)
    serial.put("\n")
    serial.flush()
    exitRun(3)
}
