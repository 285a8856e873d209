// SPDX-License-Identifier: Apache-2.0
import CBPF
import ExitStats

/// The memory that the BPF programs of bpf/exits.bpf.c count in, which the kernel shares with us.
///
/// Read while it is written: each number is whole, two of them need not be of the same moment.
package struct ExitMaps {
    package let slots: UnsafeMutableRawBufferPointer
    package let rows: UnsafeMutableRawBufferPointer
    package let cpus: UnsafeMutableRawBufferPointer
    /// What the codes of VM exits mean; nil where no event tells VM exits.
    package let vocabulary: TallyFeatures.Vocabulary?
    package let scale: TSCScale

    package static let slotBytes =
        MemoryLayout<vmtally_slot>.size + Int(VMTALLY_REASONS) * MemoryLayout<vmtally_place>.stride
    package static let rowBytes = MemoryLayout<vmtally_row>.size + Int(VMTALLY_BUCKETS) * 8
    package static let cpuBytes = MemoryLayout<vmtally_cpu>.size

    package init(
        slots: UnsafeMutableRawBufferPointer, rows: UnsafeMutableRawBufferPointer, cpus: UnsafeMutableRawBufferPointer,
        vocabulary: TallyFeatures.Vocabulary?, scale: TSCScale
    ) {
        self.slots = slots
        self.rows = rows
        self.cpus = cpus
        self.vocabulary = vocabulary
        self.scale = scale
    }

    private var slotCount: Int { slots.count / Self.slotBytes }
    private var rowCount: Int { rows.count / Self.rowBytes }

    /// The fixed part of a slot; nil when nothing has used it.
    package func slot(_ number: Int) -> UnsafeMutablePointer<vmtally_slot>? {
        guard number >= 0, number < slotCount, let base = slots.baseAddress else { return nil }
        let slot = (base + number * Self.slotBytes).assumingMemoryBound(to: vmtally_slot.self)
        return slot.pointee.used == 0 ? nil : slot
    }

    private func row(_ number: UInt32) -> UnsafeMutablePointer<vmtally_row>? {
        guard number < rowCount, let base = rows.baseAddress else { return nil }
        return (base + Int(number) * Self.rowBytes).assumingMemoryBound(to: vmtally_row.self)
    }

    private func places(_ slot: UnsafeMutablePointer<vmtally_slot>) -> UnsafeMutableBufferPointer<vmtally_place> {
        UnsafeMutableBufferPointer(
            start: UnsafeMutableRawPointer(slot + 1).assumingMemoryBound(to: vmtally_place.self),
            count: Int(VMTALLY_REASONS))
    }

    /// Numbers of the slot's rows.
    package func rows(of slot: UnsafeMutablePointer<vmtally_slot>) -> [UInt32] {
        places(slot).compactMap { $0.key == 0 ? nil : $0.row }
    }

    /// Makes a slot and its rows as new. The thread must have ended: nobody else writes them then.
    package func clear(_ slot: UnsafeMutablePointer<vmtally_slot>) {
        for number in rows(of: slot) {
            if let row = row(number) { memset(row, 0, Self.rowBytes) }
        }
        memset(slot, 0, Self.slotBytes)
    }

    /// Events that found no slot, and exits that are in a slot's total and found no row.
    var losses: (events: UInt64, reasons: UInt64) {
        (0..<cpus.count / Self.cpuBytes).reduce(into: (0, 0)) { sum, number in
            let cpu = cpus.loadUnaligned(fromByteOffset: number * Self.cpuBytes, as: vmtally_cpu.self)
            sum.events &+= cpu.lost
            sum.reasons &+= cpu.without_row
        }
    }

    /// Where, in a row's buckets, those of each bound end, by their middle; after the last those above all.
    package static func edges(_ bounds: [UInt64]) -> [Int] {
        guard !bounds.isEmpty else { return [] }
        let buckets = 0..<Int(VMTALLY_BUCKETS)
        return bounds.map { bound in
            buckets.first { CycleHistogram.midpoint(of: $0 + Int(VMTALLY_FIRST_BUCKET)) > bound } ?? buckets.upperBound
        } + [buckets.upperBound]
    }

    /// Exits of all vCPUs, with the slots that they are in.
    package func exits(_ detail: CollectorDetail) -> [(slot: Int, exits: VCPUExits)] {
        let edges = Self.edges(detail.bounds)
        return (0..<slotCount).compactMap { number in
            slot(number).map { (number, exits($0, detail, edges: edges)) }
        }
    }

    /// One vCPU's exits.
    ///
    /// - Parameter edges: of the detail's bounds.
    package func exits(_ slot: UnsafeMutablePointer<vmtally_slot>, _ detail: CollectorDetail, edges: [Int]) -> VCPUExits
    {
        // First: what is counted after this is in the rows and not in `other`.
        let fixed = slot.pointee
        var hardware: [ExitCounts.Reason] = []
        var nested: [ExitCounts.Reason] = []
        var userspace: [ExitCounts.Reason] = []
        for place in places(slot) where place.key != 0 {
            guard let row = row(place.row) else { continue }
            let kind = UInt32(truncatingIfNeeded: place.key >> 32)
            var reason = reason(row, code: UInt32(truncatingIfNeeded: place.key), detail, edges)
            switch kind {
            case VMTALLY_VM_EXIT.rawValue, VMTALLY_NESTED_EXIT.rawValue:
                // The upper half of VMX's number is flags (SDM vol. 3C 25.9.1).
                if vocabulary == .vmx { reason.code = reason.code.map { $0 & 0xFFFF } }
                if kind == VMTALLY_VM_EXIT.rawValue { hardware.append(reason) } else { nested.append(reason) }
            case VMTALLY_USERSPACE_EXIT.rawValue: userspace.append(reason)
            default: continue
            }
        }
        addOthers(fixed.exits &- fixed.nested_exits, to: &hardware)
        addOthers(fixed.nested_exits, to: &nested)
        addOthers(fixed.userspace_exits, to: &userspace)
        let owner = fixed.last_owner
        return VCPUExits(
            identity: VCPUIdentity(
                process: Int32(truncatingIfNeeded: owner >> 32), thread: Int32(truncatingIfNeeded: owner),
                started: fixed.thread_started, machine: fixed.kvm, vcpu: fixed.vcpu_id < 0 ? nil : fixed.vcpu_id),
            threadName: withUnsafeBytes(of: fixed.comm) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) },
            hasEnded: fixed.owner == 0,
            hardware: vocabulary.map { ExitCounts(source: .bpf, vocabulary: $0, reasons: hardware).merged },
            nested: vocabulary.map { ExitCounts(source: .bpf, vocabulary: $0, reasons: nested).merged },
            userspace: ExitCounts(source: .bpf, vocabulary: .kvm, reasons: userspace),
            guestCycles: vocabulary == nil ? nil : scale.cycles(fixed.guest_ns),
            resets: vocabulary == nil ? nil : fixed.resets)
    }

    /// Exits that are in the total and found no row of their own.
    private func addOthers(_ total: UInt64, to reasons: inout [ExitCounts.Reason]) {
        let known = reasons.reduce(0) { $0 &+ $1.count }
        if total > known { reasons.append(ExitCounts.Reason(code: nil, count: total - known)) }
    }

    private func reason(
        _ row: UnsafeMutablePointer<vmtally_row>, code: UInt32, _ detail: CollectorDetail, _ edges: [Int]
    ) -> ExitCounts.Reason {
        let fixed = row.pointee
        let shortest = scale.cycles(~fixed.inverted_minimum)
        let longest = scale.cycles(fixed.maximum)
        var times = ExitCounts.Times(
            cycles: scale.cycles(fixed.ns), range: fixed.timed > 0 && shortest <= longest ? shortest...longest : nil,
            halted: scale.cycles(fixed.halted_ns), userspace: scale.cycles(fixed.userspace_ns))
        let counts = UnsafeMutableRawPointer(row + 1).assumingMemoryBound(to: UInt64.self)
        var start = 0
        times.durations = edges.map { end in
            var sum: UInt64 = 0
            for index in start..<max(start, end) { sum &+= counts[index] }
            start = max(start, end)
            return sum
        }
        if detail.histograms, fixed.timed > 0 {
            times.buckets = [UInt64](unsafeUninitializedCapacity: CycleHistogram.bucketCount) { buckets, count in
                buckets.initialize(repeating: 0)
                for index in 0..<Int(VMTALLY_BUCKETS) {
                    buckets[index + Int(VMTALLY_FIRST_BUCKET)] = counts[index]
                }
                count = CycleHistogram.bucketCount
            }
        }
        return ExitCounts.Reason(code: code, count: fixed.count, times: times)
    }
}

extension ExitCounts {
    /// Reasons of one code as one: VMX's with and without flags.
    fileprivate var merged: ExitCounts {
        guard let vocabulary, Set(reasons.map(\.code)).count < reasons.count else { return self }
        return adding(.none(of: source, vocabulary))
    }
}
