import Synchronization

#if canImport(Glibc)
import Glibc
#endif

/// Counts and times the exits of one vCPU, by reason.
///
/// One thread writes, through ``writer``; any thread reads, at any time. Each counter is a 64-bit atomic that only its
/// writer changes, by a relaxed load and store: no locked instruction, no allocation and no reference counting lie
/// between two exits. All memory is reserved up front and comes zeroed from the kernel, so the histogram of a reason
/// that never happens costs no page.
public final class Tally: Sendable {
    /// Codes below this index their slot directly.
    @usableFromInline static let directSlots = 256
    /// Codes from `directSlots` up (SVM's 0x400, the GHCB's 0x8000xxxx, whatever comes next) claim one of these each.
    /// The last one is shared by those that find none, so that no exit is ever dropped.
    @usableFromInline static let claimedSlots = 64
    @usableFromInline static let slotCount = directSlots + claimedSlots

    @usableFromInline let memory: Memory

    /// Reserves the counters of one vCPU: about 3 MiB of address space, touched a page at a time by what happens.
    ///
    /// - Throws: ``TallyMemoryError`` when the address space is exhausted.
    public init() throws(TallyMemoryError) {
        memory = try Memory()
    }

    deinit {
        memory.unmap()
    }

    /// The writing end. Only the vCPU's own thread may use it, and not after the tally is gone.
    public var writer: TallyWriter { TallyWriter(memory: memory) }

    /// Exits of all reasons and the cycles of those that ended.
    public var total: TallyPair { memory.totals.pointee.pair() }

    /// Exits of one reason and the cycles of those that ended; zero when it has not happened.
    public func pair(reason code: UInt32) -> TallyPair {
        guard let slot = memory.slot(of: code) else { return TallyPair() }
        return memory.slots[slot].pair()
    }

    /// Copies all counters. An exit that is under way is in the counts, not in cycles or histogram.
    public func snapshot() -> TallySnapshot {
        let direct = (0..<UInt32(Self.directSlots)).map { (slot: Int($0), code: $0) }
        let claimed = (0..<memory.claims.pointee.load(ordering: .acquiring)).map { claim in
            let slot = Self.directSlots + claim
            return (slot: slot, code: memory.codes[claim].load(ordering: .relaxed))
        }
        let reasons = (direct + claimed).compactMap { (slot, code) -> ReasonTally? in
            let counters = memory.slots + slot
            let pair = counters.pointee.pair()
            guard pair.count > 0 else { return nil }
            let histogram = memory.histograms + slot * CycleHistogram.bucketCount
            let buckets = (0..<CycleHistogram.bucketCount).map { histogram[$0].load(ordering: .relaxed) }
            return ReasonTally(
                code: code, count: pair.count, cycles: pair.cycles,
                minimum: counters.pointee.minimum, maximum: counters.pointee.maximum, buckets: buckets)
        }
        return TallySnapshot(reasons: reasons)
    }
}

/// The counters' memory could not be had.
public struct TallyMemoryError: Error, Equatable, CustomStringConvertible {
    /// Bytes asked for.
    public let bytes: Int
    /// What mmap(2) answered.
    public let errno: Int32

    public var description: String {
        "cannot reserve \(bytes) bytes of address space for exit counters (errno \(errno)): lower --cpus or raise the limit (ulimit -v)"
    }
}

/// The writing end of a ``Tally``: what the exit loop calls, twice an exit.
public struct TallyWriter {
    @usableFromInline let memory: Tally.Memory

    /// Counts an exit, before it is handled, and returns its slot for ``end(_:cycles:)``.
    @inlinable @inline(__always)
    public func begin(_ code: UInt32) -> Int {
        let slot = code < UInt32(Tally.directSlots) ? Int(code) : memory.claim(code)
        memory.slots[slot].count.add(1)
        memory.totals.pointee.count.add(1)
        return slot
    }

    /// Accounts the cycles that handling took.
    @inlinable @inline(__always)
    public func end(_ slot: Int, cycles: UInt64) {
        let counters = memory.slots + slot
        counters.pointee.cycles.add(cycles)
        counters.pointee.invertedShortest.raise(to: ~cycles)
        counters.pointee.longest.raise(to: cycles)
        memory.totals.pointee.cycles.add(cycles)
        memory.histograms[slot &* CycleHistogram.bucketCount &+ CycleHistogram.bucket(of: cycles)].add(1)
    }
}

extension Atomic<UInt64> {
    /// Adds without a locked instruction: the caller is the only writer.
    @inlinable @inline(__always)
    func add(_ amount: UInt64) {
        store(load(ordering: .relaxed) &+ amount, ordering: .relaxed)
    }

    /// Keeps the larger value, without a locked instruction: the caller is the only writer.
    @inlinable @inline(__always)
    func raise(to value: UInt64) {
        if value > load(ordering: .relaxed) {
            store(value, ordering: .relaxed)
        }
    }
}

extension Tally {
    /// Counters of one reason, or of all. All zero means: never happened.
    @usableFromInline struct Counters: ~Copyable {
        @usableFromInline let count: Atomic<UInt64>
        @usableFromInline let cycles: Atomic<UInt64>
        /// The minimum's complement, so that zeroed memory needs no initialisation.
        @usableFromInline let invertedShortest: Atomic<UInt64>
        @usableFromInline let longest: Atomic<UInt64>

        var minimum: UInt64 { ~invertedShortest.load(ordering: .relaxed) }
        var maximum: UInt64 { longest.load(ordering: .relaxed) }

        /// Count and cycles of one moment: read again while an exit begins in between, within reason.
        func pair() -> TallyPair {
            var count = count.load(ordering: .acquiring)
            for _ in 0..<64 {
                let cycles = cycles.load(ordering: .acquiring)
                let again = self.count.load(ordering: .acquiring)
                if again == count {
                    return TallyPair(count: count, cycles: cycles)
                }
                count = again
            }
            return TallyPair(count: count, cycles: cycles.load(ordering: .acquiring))
        }
    }

    /// The mapping: totals, slots, claimed codes, then one histogram a slot.
    @usableFromInline struct Memory: @unchecked Sendable {
        @usableFromInline let totals: UnsafeMutablePointer<Counters>
        @usableFromInline let slots: UnsafeMutablePointer<Counters>
        /// Number of claimed slots in use.
        let claims: UnsafeMutablePointer<Atomic<Int>>
        /// The code of each claimed slot.
        let codes: UnsafeMutablePointer<Atomic<UInt32>>
        @usableFromInline let histograms: UnsafeMutablePointer<Atomic<UInt64>>

        private static let claimsOffset = (1 + slotCount) * MemoryLayout<Counters>.stride
        private static let codesOffset = claimsOffset + MemoryLayout<Atomic<Int>>.stride
        /// On a page of its own, so that counting touches no histogram.
        private static let histogramsOffset =
            (codesOffset + claimedSlots * MemoryLayout<Atomic<UInt32>>.stride + 4095) & ~4095
        private static let size =
            histogramsOffset + slotCount * CycleHistogram.bucketCount * MemoryLayout<Atomic<UInt64>>.stride

        init() throws(TallyMemoryError) {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
            guard let base = mmap(nil, Self.size, PROT_READ | PROT_WRITE, flags, -1, 0), base != MAP_FAILED else {
                throw TallyMemoryError(bytes: Self.size, errno: errno)
            }
            totals = base.bindMemory(to: Counters.self, capacity: 1 + slotCount)
            slots = totals + 1
            claims = (base + Self.claimsOffset).bindMemory(to: Atomic<Int>.self, capacity: 1)
            codes = (base + Self.codesOffset).bindMemory(to: Atomic<UInt32>.self, capacity: claimedSlots)
            histograms = (base + Self.histogramsOffset).bindMemory(
                to: Atomic<UInt64>.self, capacity: slotCount * CycleHistogram.bucketCount)
        }

        func unmap() {
            munmap(totals, Self.size)
        }

        /// The slot of a code, nil when a code from `directSlots` up has claimed none.
        func slot(of code: UInt32) -> Int? {
            guard code >= UInt32(directSlots) else { return Int(code) }
            let used = claims.pointee.load(ordering: .acquiring)
            return (0..<used).first { codes[$0].load(ordering: .relaxed) == code }.map { directSlots + $0 }
        }

        /// The slot of a code from `directSlots` up, claimed at its first exit.
        @usableFromInline @inline(never)
        func claim(_ code: UInt32) -> Int {
            if let slot = slot(of: code) {
                return slot
            }
            let used = claims.pointee.load(ordering: .relaxed)
            guard used < claimedSlots else { return directSlots + claimedSlots - 1 }
            codes[used].store(code, ordering: .relaxed)
            claims.pointee.store(used + 1, ordering: .releasing)
            return directSlots + used
        }
    }
}
