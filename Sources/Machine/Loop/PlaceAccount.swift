// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM

/// The places of one vCPU's exits: a table an axis, so that a guest that fills one takes no room from another.
struct PlaceTallies: Sendable {
    let axes: Set<PlaceAxis>
    private let ports: PlaceTally
    private let msrs: PlaceTally
    private let addresses: PlaceTally
    private let rips: PlaceTally

    /// Reserves 2 MiB of address space.
    init(_ axes: Set<PlaceAxis>) throws(TallyMemoryError) {
        self.axes = axes
        ports = try PlaceTally()
        msrs = try PlaceTally()
        addresses = try PlaceTally()
        rips = try PlaceTally()
    }

    /// What the exit loop writes through, while the tables live.
    struct Writers {
        let hasPorts: Bool
        let hasMSRs: Bool
        let hasAddresses: Bool
        let hasRIPs: Bool
        let ports: PlaceTallyWriter
        let msrs: PlaceTallyWriter
        let addresses: PlaceTallyWriter
        let rips: PlaceTallyWriter
    }

    var writers: Writers {
        Writers(
            hasPorts: axes.contains(.port), hasMSRs: axes.contains(.msr), hasAddresses: axes.contains(.address),
            hasRIPs: axes.contains(.rip), ports: ports.writer, msrs: msrs.writer, addresses: addresses.writer,
            rips: rips.writer)
    }

    func snapshot(_ axis: PlaceAxis) -> PlaceSnapshot {
        switch axis {
        case .port: ports.snapshot()
        case .msr: msrs.snapshot()
        case .address: addresses.snapshot()
        case .rip: rips.snapshot()
        }
    }
}

/// Counts and times by reason, and by the places that were asked for: what the run page tells of the exit, and the RIP
/// that KVM has copied there.
struct PlaceAccount: ExitAccount {
    let tally: TallyWriter
    let places: PlaceTallies.Writers
    let page: UnsafeMutablePointer<kvm_run>
    let registers: UnsafeMutablePointer<kvm_sync_regs>

    struct Slot {
        let reason: Int
        let rip: PlaceTallyWriter.Slot
        /// Of a port, an MSR or an address: an exit has one of them at most.
        let operand: PlaceTallyWriter.Slot
    }

    @inline(__always)
    func clock() -> UInt64 { tally.clock() }

    @inline(__always)
    func begin(_ code: UInt32) -> Slot {
        Slot(
            reason: tally.begin(code),
            rip: places.hasRIPs ? places.rips.begin(ExitPlace(registers.pointee.regs.rip, code: code)) : .none,
            operand: operand(code))
    }

    @inline(__always)
    private func operand(_ code: UInt32) -> PlaceTallyWriter.Slot {
        switch Int32(truncatingIfNeeded: code) {
        case KVM_EXIT_IO where places.hasPorts:
            let io = page.pointee.io
            return places.ports.begin(
                ExitPlace(
                    UInt64(io.port), code: code, isWrite: io.direction == UInt8(KVM_EXIT_IO_OUT), size: io.size))
        case KVM_EXIT_MMIO where places.hasAddresses:
            return places.addresses.begin(
                ExitPlace(
                    page.pointee.mmio.phys_addr, code: code, isWrite: page.pointee.mmio.is_write != 0,
                    size: UInt8(truncatingIfNeeded: page.pointee.mmio.len)))
        case KVM_EXIT_X86_RDMSR where places.hasMSRs, KVM_EXIT_X86_WRMSR where places.hasMSRs:
            return places.msrs.begin(ExitPlace(UInt64(page.pointee.msr.index), code: code))
        default:
            return .none
        }
    }

    @inline(__always)
    func end(_ slot: Slot, cycles: UInt64) {
        tally.end(slot.reason, cycles: cycles)
        slot.rip.end(cycles: cycles)
        slot.operand.end(cycles: cycles)
    }
}
