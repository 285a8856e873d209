// SPDX-License-Identifier: Apache-2.0
import Synchronization

#if canImport(Glibc)
import Glibc
#endif

/// Counts and times the exits of one vCPU by the guest's RIP and reason.
///
/// A hash table of fixed size with open addressing, reserved up front: one thread writes through ``writer``, any thread
/// reads. A place that finds no slot within a few steps is counted under ``RIPSnapshot/other``, so that the counts
/// always add up to all exits.
public final class RIPTally: Sendable {
    @usableFromInline static let slotBits: UInt64 = 14
    @usableFromInline static let slotCount = 1 << Int(slotBits)
    /// Slots that a place looks at before it is counted with the others.
    @usableFromInline static let probeLimit = 32

    @usableFromInline let memory: Memory

    /// Reserves the table of one vCPU: 512 KiB of address space, touched as places turn up.
    ///
    /// - Throws: ``TallyMemoryError`` when the address space is exhausted.
    public init() throws(TallyMemoryError) {
        memory = try Memory()
    }

    deinit {
        memory.unmap()
    }

    /// The writing end. Only the vCPU's own thread may use it, and not after the tally is gone.
    public var writer: RIPTallyWriter { RIPTallyWriter(memory: memory) }

    /// Copies the table. An exit that is under way is in the counts, not in the cycles.
    public func snapshot() -> RIPSnapshot {
        let places = (0..<Self.slotCount).compactMap { index -> RIPSnapshot.Place? in
            let slot = memory.slots + index
            let tag = slot.pointee.tag.load(ordering: .acquiring)
            guard tag != 0 else { return nil }
            return RIPSnapshot.Place(
                rip: slot.pointee.rip.load(ordering: .relaxed), code: UInt32(truncatingIfNeeded: tag &- 1),
                pair: slot.pointee.pair())
        }
        return RIPSnapshot(places: places, other: memory.slots[Self.slotCount].pair())
    }
}

/// The writing end of a ``RIPTally``, called twice an exit.
public struct RIPTallyWriter {
    @usableFromInline let memory: RIPTally.Memory

    /// Counts an exit and returns its slot for ``end(_:cycles:)``.
    @inlinable @inline(__always)
    public func begin(_ rip: UInt64, _ code: UInt32) -> Int {
        let first = RIPTally.Memory.firstSlot(rip, code)
        let slot = memory.slots[first].holds(rip, code) ? first : memory.find(rip, code, from: first)
        memory.slots[slot].count.add(1)
        return slot
    }

    /// Accounts the cycles that handling took.
    @inlinable @inline(__always)
    public func end(_ slot: Int, cycles: UInt64) {
        memory.slots[slot].cycles.add(cycles)
    }
}

extension RIPTally {
    /// One place and reason. All zero: free.
    @usableFromInline struct Slot: ~Copyable {
        @usableFromInline let rip: Atomic<UInt64>
        /// The reason's code plus 1.
        @usableFromInline let tag: Atomic<UInt64>
        @usableFromInline let count: Atomic<UInt64>
        @usableFromInline let cycles: Atomic<UInt64>

        @inlinable @inline(__always)
        func holds(_ rip: UInt64, _ code: UInt32) -> Bool {
            self.rip.load(ordering: .relaxed) == rip && tag.load(ordering: .relaxed) == UInt64(code) + 1
        }

        func pair() -> TallyPair {
            TallyPair(count: count.load(ordering: .relaxed), cycles: cycles.load(ordering: .relaxed))
        }
    }

    /// The mapping: the slots, then one for what found none.
    @usableFromInline struct Memory: @unchecked Sendable {
        @usableFromInline let slots: UnsafeMutablePointer<Slot>

        private static let size = (slotCount + 1) * MemoryLayout<Slot>.stride

        init() throws(TallyMemoryError) {
            slots = try reserve(Self.size).assumingMemoryBound(to: Slot.self)
        }

        func unmap() {
            munmap(slots, Self.size)
        }

        /// Where the search for a place begins: the upper bits of a product with the golden ratio.
        @inlinable @inline(__always)
        static func firstSlot(_ rip: UInt64, _ code: UInt32) -> Int {
            let product = (rip ^ UInt64(code) << 48) &* 0x9E37_79B9_7F4A_7C15
            return Int(truncatingIfNeeded: product >> (64 - slotBits))
        }

        /// The slot of a place, claimed at its first exit; the last one when all within reach are taken.
        @usableFromInline @inline(never)
        func find(_ rip: UInt64, _ code: UInt32, from first: Int) -> Int {
            for step in 0..<probeLimit {
                let index = (first + step) & (slotCount - 1)
                let slot = slots + index
                if slot.pointee.holds(rip, code) {
                    return index
                }
                if slot.pointee.tag.load(ordering: .relaxed) == 0 {
                    slot.pointee.rip.store(rip, ordering: .relaxed)
                    slot.pointee.tag.store(UInt64(code) + 1, ordering: .releasing)
                    return index
                }
            }
            return slotCount
        }
    }
}

/// Exits by the guest's RIP and reason at one moment.
public struct RIPSnapshot: Equatable, Sendable {
    public struct Place: Equatable, Sendable {
        /// RIP as KVM gives it at the exit: of the instruction, or of the next one where KVM has finished it (HLT,
        /// writes to MMIO, an OUT that KVM's emulator ran).
        public let rip: UInt64
        /// The exit reason's code, KVM_EXIT_*.
        public let code: UInt32
        public fileprivate(set) var pair: TallyPair

        public init(rip: UInt64, code: UInt32, pair: TallyPair) {
            self.rip = rip
            self.code = code
            self.pair = pair
        }
    }

    /// Of the places' codes.
    public static let vocabulary = TallyFeatures.Vocabulary.kvm

    /// The kernel's name of a place's reason.
    public static func name(of place: Place) -> String { ReasonVocabulary.vocabulary(vocabulary).name(place.code) }

    /// Most exits first; among equals by RIP and code.
    public private(set) var places: [Place]
    /// Exits whose place found no room in the table.
    public private(set) var other: TallyPair

    public init(places: [Place] = [], other: TallyPair = TallyPair()) {
        self.places = places.sorted {
            ($1.pair.count, $0.rip, $0.code) < ($0.pair.count, $1.rip, $1.code)
        }
        self.other = other
    }

    /// All exits.
    public var total: TallyPair { Self.sum(places).adding(other) }

    /// The first so many places, and the sum of all exits that are not theirs.
    public func top(_ count: Int) -> (places: ArraySlice<Place>, rest: TallyPair) {
        (places.prefix(count), Self.sum(places.dropFirst(count)).adding(other))
    }

    /// Adds another vCPU's, or another run's, places.
    public mutating func merge(_ others: RIPSnapshot) {
        let all = (places + others.places).sorted { ($0.rip, $0.code) < ($1.rip, $1.code) }
        let merged = all.reduce(into: [] as [Place]) { merged, place in
            if let last = merged.last, last.rip == place.rip, last.code == place.code {
                merged[merged.count - 1].pair = last.pair.adding(place.pair)
            } else {
                merged.append(place)
            }
        }
        self = RIPSnapshot(places: merged, other: other.adding(others.other))
    }

    private static func sum(_ places: some Sequence<Place>) -> TallyPair {
        places.reduce(TallyPair()) { $0.adding($1.pair) }
    }
}

extension TallyPair {
    fileprivate func adding(_ other: TallyPair) -> TallyPair {
        TallyPair(count: count &+ other.count, cycles: cycles &+ other.cycles)
    }
}
