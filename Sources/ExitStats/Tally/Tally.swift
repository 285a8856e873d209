// SPDX-License-Identifier: Apache-2.0
import CLinux
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

    /// The same with the counters in a part of a file, for others to map; histograms stay private memory.
    ///
    /// - Parameters:
    ///   - file: shared memory, of ``TallyPageLayout/stride`` zero bytes from `offset` on. It may be closed afterwards.
    ///   - offset: a multiple of the page size.
    public init(in file: Int32, at offset: Int) throws(TallyMemoryError) {
        let memory = try Memory()
        let size = TallyPageLayout.stride
        guard mmap(memory.base, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, offset) == memory.base
        else {
            let error = TallyMemoryError(bytes: size, errno: errno)
            memory.unmap()
            throw error
        }
        self.memory = memory
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
    ///
    /// While the writer runs, the histogram may be one exit away from count and cycles.
    public func snapshot() -> ExitCounts {
        let pending = memory.pending.pointee.load(ordering: .relaxed)
        let claims = memory.claims.pointee.load(ordering: .acquiring)
        let reasons = (0..<Self.directSlots + claims).compactMap { slot -> ExitCounts.Reason? in
            let counters = memory.slots + slot
            let pair = counters.pointee.pair()
            guard pair.count > 0 else { return nil }
            let claim = slot - Self.directSlots
            let code = claim < 0 ? UInt32(slot) : memory.codes[claim].load(ordering: .relaxed)
            let first = Memory.bucket(0, of: slot)
            let counted = memory.buckets + first
            let buckets = [UInt64](unsafeUninitializedCapacity: CycleHistogram.bucketCount) { copy, count in
                count = CycleHistogram.bucketCount
                for bucket in 0..<count { copy[bucket] = counted[bucket].load(ordering: .relaxed) }
                if (0..<count).contains(pending - first) { copy[pending - first] &+= 1 }
            }
            let shortest = counters.pointee.minimum
            let hasEnded = buckets.contains { $0 > 0 }
            return ExitCounts.Reason(
                code: code, count: pair.count,
                times: ExitCounts.Times(
                    cycles: pair.cycles,
                    range: hasEnded ? shortest...max(shortest, counters.pointee.maximum) : nil, buckets: buckets))
        }
        return ExitCounts(source: .vmm, vocabulary: .kvm, reasons: reasons)
    }
}

/// The counters' memory could not be had.
public struct TallyMemoryError: Error, Equatable, CustomStringConvertible {
    /// Bytes asked for.
    public let bytes: Int
    /// What mmap(2) answered.
    public let errno: Int32

    /// What was asked for, why there is none, and the remedy.
    public var description: String {
        "cannot reserve \(bytes) bytes of address space for exit counters (errno \(errno)): use fewer vCPUs or raise the limit (ulimit -v)"
    }
}

/// Address space for counters, all zero and touched a page at a time; also where transparent huge pages are on for all
/// memory, as Debian has them: there each vCPU's counters would take 2 MiB.
func reserve(_ size: Int) throws(TallyMemoryError) -> UnsafeMutableRawPointer {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
    guard let base = mmap(nil, size, PROT_READ | PROT_WRITE, flags, -1, 0), base != MAP_FAILED else {
        throw TallyMemoryError(bytes: size, errno: errno)
    }
    madvise(base, size, MADV_NOHUGEPAGE)
    return base
}

/// The writing end of a ``Tally``: what the exit loop calls, twice an exit.
public struct TallyWriter {
    @usableFromInline let memory: Tally.Memory

    /// TSC cycles.
    @inlinable @inline(__always)
    public func clock() -> UInt64 { vmtally_rdtsc() }

    /// Counts an exit, before it is handled, and returns its slot for ``end(_:cycles:)``.
    @inlinable @inline(__always)
    public func begin(_ code: UInt32) -> Int {
        let slot = code < UInt32(Tally.directSlots) ? Int(code) : memory.claim(code)
        memory.slots[slot].count.add(1)
        memory.totals.pointee.count.add(1)
        let ended = memory.pending.pointee.load(ordering: .relaxed)
        memory.pending.pointee.store(0, ordering: .relaxed)
        memory.buckets[ended].add(1)
        return slot
    }

    /// Accounts the cycles that handling took.
    ///
    /// The histogram gets the exit when the next one begins: a store whose address hangs on the RDTSC just read would
    /// hold up the KVM_RUN that comes now, by 16 cycles on Zen 5. One whose value does costs nothing.
    @inlinable @inline(__always)
    public func end(_ slot: Int, cycles: UInt64) {
        let counters = memory.slots + slot
        counters.pointee.cycles.add(cycles)
        counters.pointee.invertedShortest.raise(to: ~cycles)
        counters.pointee.longest.raise(to: cycles)
        memory.totals.pointee.cycles.add(cycles)
        let bucket = Tally.Memory.bucket(CycleHistogram.bucket(of: cycles), of: slot)
        memory.pending.pointee.store(bucket, ordering: .relaxed)
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

    /// The mapping: totals, pending bucket, slots, claimed codes, then one histogram a slot.
    ///
    /// One pointer, so that the exit loop keeps it in a register; the rest is constant offsets from it.
    @usableFromInline struct Memory: @unchecked Sendable {
        @usableFromInline let base: UnsafeMutableRawPointer

        @usableFromInline static let pendingOffset = MemoryLayout<Counters>.stride
        /// Totals and pending bucket share a cache line, and no slot lies across two.
        @usableFromInline static let slotsOffset = 64
        private static let claimsOffset = slotsOffset + slotCount * MemoryLayout<Counters>.stride
        private static let codesOffset = claimsOffset + MemoryLayout<Atomic<Int>>.stride
        /// The histograms start on a page of their own, so that counting touches none.
        @usableFromInline static let histogramsOffset = 4096 * 3
        @usableFromInline static let bucketsOffset = histogramsOffset - MemoryLayout<Atomic<UInt64>>.stride
        private static let size =
            histogramsOffset + slotCount * CycleHistogram.bucketCount * MemoryLayout<Atomic<UInt64>>.stride

        @inlinable @inline(__always)
        var totals: UnsafeMutablePointer<Counters> { base.assumingMemoryBound(to: Counters.self) }

        /// Index in `buckets` of the last exit that ended, if its bucket has not got it yet; else 0.
        @inlinable @inline(__always)
        var pending: UnsafeMutablePointer<Atomic<Int>> {
            (base + Self.pendingOffset).assumingMemoryBound(to: Atomic<Int>.self)
        }

        @inlinable @inline(__always)
        var slots: UnsafeMutablePointer<Counters> {
            (base + Self.slotsOffset).assumingMemoryBound(to: Counters.self)
        }

        /// Number of claimed slots in use.
        var claims: UnsafeMutablePointer<Atomic<Int>> {
            (base + Self.claimsOffset).assumingMemoryBound(to: Atomic<Int>.self)
        }

        /// The code of each claimed slot.
        var codes: UnsafeMutablePointer<Atomic<UInt32>> {
            (base + Self.codesOffset).assumingMemoryBound(to: Atomic<UInt32>.self)
        }

        /// All histograms, after one counter at 0 that nobody reads: it takes what is pending when nothing is.
        @inlinable @inline(__always)
        var buckets: UnsafeMutablePointer<Atomic<UInt64>> {
            (base + Self.bucketsOffset).assumingMemoryBound(to: Atomic<UInt64>.self)
        }

        /// The index in `buckets` of a slot's bucket.
        @inlinable @inline(__always)
        static func bucket(_ bucket: Int, of slot: Int) -> Int {
            slot &* CycleHistogram.bucketCount &+ bucket &+ 1
        }

        init() throws(TallyMemoryError) {
            precondition(Self.codesOffset + claimedSlots * MemoryLayout<Atomic<UInt32>>.stride <= Self.bucketsOffset)
            base = try reserve(Self.size)
        }

        func unmap() {
            munmap(base, Self.size)
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
