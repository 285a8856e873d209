// SPDX-License-Identifier: Apache-2.0
import CBPF
import ExitStats
import HostView

/// Memory as the BPF programs leave it.
package final class MadeUpMaps {
    package let maps: ExitMaps

    package init(slots: Int, rows: Int, vocabulary: TallyFeatures.Vocabulary?) {
        func zeroed(_ count: Int) -> UnsafeMutableRawBufferPointer {
            let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 64)
            memory.initializeMemory(as: UInt8.self, repeating: 0)
            return memory
        }
        maps = ExitMaps(
            slots: zeroed(slots * ExitMaps.slotBytes), rows: zeroed(rows * ExitMaps.rowBytes),
            cpus: zeroed(2 * ExitMaps.cpuBytes), vocabulary: vocabulary, scale: TSCScale(kHz: 1_000_000))
    }

    deinit {
        for memory in [maps.slots, maps.rows, maps.cpus] { memory.deallocate() }
    }

    package func slot(_ number: Int, process: UInt64, thread: UInt64, _ change: (inout vmtally_slot) -> Void) {
        guard let base = maps.slots.baseAddress else { return }
        let slot = (base + number * ExitMaps.slotBytes).assumingMemoryBound(to: vmtally_slot.self)
        slot.pointee.used = 1
        slot.pointee.owner = process << 32 | thread
        slot.pointee.last_owner = slot.pointee.owner
        change(&slot.pointee)
    }

    package func row(
        _ number: Int, of slot: Int, place: Int, kind: UInt64, code: UInt64, count: UInt64, ns: UInt64
    ) {
        guard let slots = maps.slots.baseAddress, let rows = maps.rows.baseAddress else { return }
        let at = (slots + slot * ExitMaps.slotBytes + MemoryLayout<vmtally_slot>.size)
            .assumingMemoryBound(to: vmtally_place.self)
        at[place] = vmtally_place(key: kind << 32 | code, row: UInt32(number), unused: 0)
        let row = (rows + number * ExitMaps.rowBytes).assumingMemoryBound(to: vmtally_row.self)
        row.pointee.key = kind << 32 | code
        row.pointee.count = count
        row.pointee.timed = count
        row.pointee.ns = ns * count
        row.pointee.inverted_minimum = ~ns
        row.pointee.maximum = ns
        let buckets = UnsafeMutableRawPointer(row + 1).assumingMemoryBound(to: UInt64.self)
        buckets[CycleHistogram.bucket(of: ns) - Int(VMTALLY_FIRST_BUCKET)] = count
    }
}

/// Reads made-up memory as the BPF collector reads the kernel's.
package final class MadeUpCollector: ExitCollector {
    package let name = "bpf"
    private let made: MadeUpMaps

    package init(_ made: MadeUpMaps) {
        self.made = made
    }

    package func read(_ detail: CollectorDetail) throws(CollectorError) -> [VCPUExits] {
        made.maps.exits(detail).map(\.exits)
    }

    package func losses() -> CollectorLosses { CollectorLosses() }
}
