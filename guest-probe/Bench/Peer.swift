// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// vCPU 1's part in a block: it takes interrupts, or wakes vCPU 0.
struct Peer {
    static let ready: UInt32 = 1
    static let leave: UInt32 = 1

    private let request: BenchRequest
    private let apic: APIC

    init(_ request: BenchRequest, _ apic: APIC) {
        self.request = request
        self.apic = apic
    }

    func run() {
        let own: UnsafeMutablePointer<guest_mailbox> = guest_mailbox(1)
        guest_store(&own.pointee.command, 0)
        guest_store(&guest_mailbox(0).pointee.command, 0)
        guest_store(&own.pointee.state, Self.ready)
        if BenchOperation(rawValue: request.operation) == .haltIPI {
            wake(own)
        } else {
            guest_interrupts_on()
            while guest_load(&own.pointee.command) != Self.leave { guest_pause() }
            guest_interrupts_off()
        }
        guest_store(&own.pointee.state, 0)
    }

    /// Sends vCPU 0 an interrupt each time it is about to halt, long enough after.
    private func wake(_ own: UnsafeMutablePointer<guest_mailbox>) {
        let box: UnsafeMutablePointer<guest_mailbox> = guest_mailbox(0)
        var served: UInt32 = 0
        while guest_load(&own.pointee.command) != Self.leave {
            let asked = guest_load(&box.pointee.command)
            guard asked != served else {
                guest_yield()
                continue
            }
            served = asked
            let start = guest_tsc()
            while guest_tsc() &- start < request.first { guest_yield() }
            box.pointee.first = guest_tsc()
            apic.interrupt(0, vector: UInt32(GUEST_VECTOR_0))
        }
    }
}
