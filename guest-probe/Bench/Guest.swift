// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// Where start.S arrives on every vCPU: does what the bench host asks for, block by block. Under another VMM it measures
/// a few exits by itself.
@c(guest_main)
func guestMain(_ boot: UnsafePointer<guest_boot_info>?, _ vcpu: UInt32) -> Never {
    guard guest_in32(BenchLayout.identityPort) == BenchLayout.identity,
        let request = UnsafePointer<BenchRequest>(bitPattern: UInt(BenchLayout.request))
    else {
        if vcpu == 0 { Standalone.run() }
        stop()
    }
    var apic = APIC()
    while true {
        guest_out32(BenchLayout.readyPort, vcpu)
        let request = request.pointee
        apic.enable(request.apic)
        if vcpu == 0 {
            Block(request, apic).run()
        } else {
            Peer(request, apic).run()
        }
    }
}
