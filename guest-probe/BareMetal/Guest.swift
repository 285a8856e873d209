import GuestCPU

@c(guest_main)
func guestMain(_ boot: UnsafePointer<guest_boot_info>?, _ vcpu: UInt64) -> Never {
    var r = guest_registers()
    guest_cpuid(0x4FFF_FFFF, 0, &r)
    guest_cpuid_user(0x4FFF_FFFF, 0, &r)
    var serial = Serial()
    serial.put("hello\n")
    serial.put(UInt64(r.eax))
    serial.put("\n")
    exitRun(0)
}
