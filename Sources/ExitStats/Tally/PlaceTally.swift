// SPDX-License-Identifier: Apache-2.0
import Synchronization

#if canImport(Glibc)
import Glibc
#endif

/// What exits are told apart by, beside their reason.
public enum PlaceAxis: String, CaseIterable, Codable, Sendable {
    /// The I/O port of a KVM_EXIT_IO.
    case port
    /// The MSR of a KVM_EXIT_X86_RDMSR or KVM_EXIT_X86_WRMSR.
    case msr
    /// The guest physical address of a KVM_EXIT_MMIO.
    case address
    /// The guest's RIP, of every exit.
    case rip
}

/// Where an exit came from: one row of a table of places.
public struct ExitPlace: Hashable, Sendable {
    /// A port, an MSR's index, a guest physical address, or RIP as KVM gives it at the exit: of the instruction, or of
    /// the next one where KVM has finished it (HLT, writes to MMIO, an OUT that KVM's emulator ran).
    public let value: UInt64
    /// The exit reason's code, its direction and size, as one number: never 0.
    @usableFromInline let tag: UInt64

    @inlinable @inline(__always)
    init(_ value: UInt64, code: UInt32, details: UInt64) {
        self.value = value
        tag = UInt64(code) &+ 1 | details &<< 33
    }

    init(value: UInt64, tag: UInt64) {
        self.value = value
        self.tag = tag
    }

    /// A place of code, or an MSR: its reason says all.
    @inlinable @inline(__always)
    public init(_ value: UInt64, code: UInt32) {
        self.init(value, code: code, details: 0)
    }

    /// An access of `size` bytes, up to 255, to a port or an address.
    @inlinable @inline(__always)
    public init(_ value: UInt64, code: UInt32, isWrite: Bool, size: UInt8) {
        self.init(value, code: code, details: UInt64(size) &<< 1 | (isWrite ? 1 : 0))
    }

    /// KVM_EXIT_*.
    public var code: UInt32 { UInt32(truncatingIfNeeded: (tag & 0x1_FFFF_FFFF) &- 1) }
    /// Of an access to a port or an address.
    public var isWrite: Bool { tag >> 33 & 1 != 0 }
    /// Bytes of such an access; 0 for other places.
    public var size: UInt8 { UInt8(truncatingIfNeeded: tag >> 34) }
}

/// Counts and times the exits of one vCPU by where they came from.
///
/// A hash table of fixed size with open addressing, reserved up front: one thread writes through ``writer``, any thread
/// reads. A place that finds no slot within a few steps is counted under ``PlaceSnapshot/withoutRoom``, so that the
/// counts always add up to all exits that have a place, whatever a guest does.
public final class PlaceTally: Sendable {
    @usableFromInline static let slotBits: UInt64 = 14
    /// Places that one vCPU has room for.
    public static let slotCount = 1 << 14
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
    public var writer: PlaceTallyWriter { PlaceTallyWriter(memory: memory) }

    /// Copies the table. An exit that is under way is in the counts, not in the cycles.
    public func snapshot() -> PlaceSnapshot {
        let counts = (0..<Self.slotCount).compactMap { index -> PlaceSnapshot.Count? in
            let slot = memory.slots + index
            let tag = slot.pointee.tag.load(ordering: .acquiring)
            guard tag != 0 else { return nil }
            return PlaceSnapshot.Count(
                place: ExitPlace(value: slot.pointee.value.load(ordering: .relaxed), tag: tag),
                pair: slot.pointee.pair())
        }
        return PlaceSnapshot(counts, withoutRoom: memory.slots[Self.slotCount].pair())
    }
}

/// The writing end of a ``PlaceTally``, called twice an exit.
public struct PlaceTallyWriter {
    @usableFromInline let memory: PlaceTally.Memory

    /// Counts an exit and returns its slot.
    @inlinable @inline(__always)
    public func begin(_ place: ExitPlace) -> Slot {
        let first = PlaceTally.Memory.firstSlot(place)
        let slot = memory.slots[first].holds(place) ? first : memory.find(place, from: first)
        memory.slots[slot].count.add(1)
        return Slot(counters: memory.slots + slot)
    }

    /// Where ``begin(_:)`` has counted an exit, or nowhere.
    public struct Slot {
        @usableFromInline let counters: UnsafeMutablePointer<PlaceTally.Slot>?

        @inlinable @inline(__always)
        init(counters: UnsafeMutablePointer<PlaceTally.Slot>?) {
            self.counters = counters
        }

        /// Of an exit that has no place.
        @inlinable @inline(__always)
        public static var none: Slot { Slot(counters: nil) }

        /// Accounts the cycles that handling took.
        @inlinable @inline(__always)
        public func end(cycles: UInt64) {
            if let counters {
                counters.pointee.cycles.add(cycles)
            }
        }
    }
}

extension PlaceTally {
    /// One place. All zero: free.
    @usableFromInline struct Slot: ~Copyable {
        @usableFromInline let value: Atomic<UInt64>
        @usableFromInline let tag: Atomic<UInt64>
        @usableFromInline let count: Atomic<UInt64>
        @usableFromInline let cycles: Atomic<UInt64>

        @inlinable @inline(__always)
        func holds(_ place: ExitPlace) -> Bool {
            value.load(ordering: .relaxed) == place.value && tag.load(ordering: .relaxed) == place.tag
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
        static func firstSlot(_ place: ExitPlace) -> Int {
            let product = (place.value ^ place.tag &<< 48 ^ place.tag &>> 1) &* 0x9E37_79B9_7F4A_7C15
            return Int(truncatingIfNeeded: product &>> (64 - slotBits))
        }

        /// The slot of a place, claimed at its first exit; the last one when all within reach are taken.
        @usableFromInline @inline(never)
        func find(_ place: ExitPlace, from first: Int) -> Int {
            for step in 0..<probeLimit {
                let index = (first + step) & (slotCount - 1)
                let slot = slots + index
                if slot.pointee.holds(place) {
                    return index
                }
                if slot.pointee.tag.load(ordering: .relaxed) == 0 {
                    slot.pointee.value.store(place.value, ordering: .relaxed)
                    slot.pointee.tag.store(place.tag, ordering: .releasing)
                    return index
                }
            }
            return slotCount
        }
    }
}

/// Exits by their places at one moment.
public struct PlaceSnapshot: Equatable, Sendable {
    /// One place's exits.
    public struct Count: Equatable, Sendable {
        /// Where they came from.
        public let place: ExitPlace
        /// How many, and their cycles.
        public fileprivate(set) var pair: TallyPair

        /// The exits of a place.
        public init(place: ExitPlace, pair: TallyPair) {
            self.place = place
            self.pair = pair
        }
    }

    /// Of the places' codes.
    public static let vocabulary = TallyFeatures.Vocabulary.kvm

    /// The kernel's name of a place's reason.
    public static func reason(of place: ExitPlace) -> String {
        ReasonVocabulary.vocabulary(vocabulary).name(place.code)
    }

    /// Most exits first; among equals by value and reason.
    public private(set) var counts: [Count]
    /// Exits whose place found no room in the table.
    public private(set) var withoutRoom: TallyPair

    /// Puts them in order.
    public init(_ counts: [Count] = [], withoutRoom: TallyPair = TallyPair()) {
        self.counts = counts.sorted {
            ($1.pair.count, $0.place.value, $0.place.tag) < ($0.pair.count, $1.place.value, $1.place.tag)
        }
        self.withoutRoom = withoutRoom
    }

    /// All exits that have a place.
    public var total: TallyPair { Self.sum(counts).adding(withoutRoom) }

    /// The first so many places, and the sum of all exits that are not theirs.
    public func top(_ count: Int) -> (counts: ArraySlice<Count>, rest: TallyPair) {
        (counts.prefix(count), Self.sum(counts.dropFirst(count)).adding(withoutRoom))
    }

    /// Adds another vCPU's, or another run's, places.
    public mutating func merge(_ others: PlaceSnapshot) {
        let sums = (counts + others.counts).reduce(into: [ExitPlace: TallyPair]()) { sums, count in
            sums[count.place] = sums[count.place, default: TallyPair()].adding(count.pair)
        }
        self = PlaceSnapshot(
            sums.map { Count(place: $0.key, pair: $0.value) }, withoutRoom: withoutRoom.adding(others.withoutRoom))
    }

    private static func sum(_ counts: some Sequence<Count>) -> TallyPair {
        counts.reduce(TallyPair()) { $0.adding($1.pair) }
    }
}

extension TallyPair {
    fileprivate func adding(_ other: TallyPair) -> TallyPair {
        TallyPair(count: count &+ other.count, cycles: cycles &+ other.cycles)
    }
}
