import Glibc
import Testing

@testable import Machine

/// Random numbers that a seed gives again (SplitMix64).
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
        return value ^ value >> 31
    }
}

/// Files that began as an ELF: whatever is in them, the loader says no or loads them.
struct ELFMutationTests {
    /// A file in a million, by its number: VMTALLY_SEED=N runs that one alone. A crash leaves the number behind.
    static let seeds: Range<UInt64> = {
        if let text = getenv("VMTALLY_SEED").map({ String(cString: $0) }), let seed = UInt64(text) {
            return seed..<seed + 1
        }
        return 0..<1_000_000
    }()

    private static let interesting: [UInt64] = [
        0, 1, 2, 7, 8, 55, 56, 63, 64, 127, 128, 129, 4095, 4096, 0xFFFF, 0x10_0000, 0xFE_8000, 0xFF_FFFF, 0x100_0000,
        0x7FFF_FFFF, 0x8000_0000, 0xC000_0000, 0xFFFF_FFFF, 0x1_0000_0000, 1 << 47, 1 << 63 - 1, 1 << 63, .max - 4095,
        .max - 7, .max,
    ]

    /// Two segments, a zero-filled one, sites.
    private static let original: [UInt8] = {
        var builder = ELFBuilder()
        builder.entry = 0x10_0000
        builder.segments = [
            .init(address: 0x10_0000, bytes: [0xF4, 0x0F, 0xA2], memorySize: 64),
            .init(address: 0x10_1000, bytes: [1, 2, 3, 4, 5, 6, 7, 8]),
            .init(address: 0x10_2000, bytes: [], memorySize: 4096),
        ]
        builder.sites = little(UInt64(0x10_0001)) + little(UInt64(0x10_0001))
        return builder.bytes
    }()

    /// Changes a file in one to four places; returns its new length.
    private static func mutate(_ file: UnsafeMutableRawBufferPointer, _ random: inout SplitMix64) -> Int {
        var count = original.count
        for _ in 0...(random.next() & 3) {
            let kind = random.next() % 10
            // Seven of ten hit the headers, where the numbers are.
            let limit = kind < 7 ? 64 + 3 * 56 : original.count
            let place = Int(random.next() % UInt64(limit))
            switch kind {
            case 0...1, 7: file[place] ^= 1 << UInt8(random.next() & 7)
            case 2...3, 8: file[place] = UInt8(truncatingIfNeeded: random.next())
            case 4...6:
                let width = 1 << Int(random.next() & 3)
                let value = interesting[Int(random.next() % UInt64(interesting.count))]
                for byte in 0..<width where place & ~7 + byte < limit {
                    file[place & ~7 + byte] = UInt8(truncatingIfNeeded: value >> UInt64(byte * 8))
                }
            default: count = min(count, place)
            }
        }
        return count
    }

    private static func makesSense(_ image: ELF64, fileSize: Int) -> Bool {
        image.segments.contains { $0.memory.contains(image.entry) }
            && image.segments.allSatisfy { $0.file.upperBound <= fileSize && $0.file.count <= $0.memorySize }
            && image.sites.count <= ELF64.maximumSites
    }

    @Test func aMillionMutatedFilesAreLoadedOrRefused() throws {
        let memory = try GuestMemory(mebibytes: 16)
        let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.original.count, alignment: 16)
        defer { scratch.deallocate() }
        let reserved = memory.lowSize - LongMode.size - BareMetal.stackSize..<memory.lowSize
        var loaded = 0
        CrashNote.around {
            for seed in Self.seeds {
                CrashNote.set(seed)
                var random = SplitMix64(seed: seed)
                scratch.copyBytes(from: Self.original)
                let file = UnsafeRawBufferPointer(rebasing: scratch[..<Self.mutate(scratch, &random)])
                guard let image = try? ELF64(file) else { continue }
                if !Self.makesSense(image, fileSize: file.count) {
                    Issue.record("VMTALLY_SEED=\(seed): \(image)")
                }
                // Page tables and the rest do not depend on the file.
                if (try? BareMetal.load(image.segments, of: file, into: memory, reserved: reserved)) != nil {
                    loaded += 1
                }
            }
        }
        // Neither all refused nor all taken: the mutations reach what they should.
        if Self.seeds.count > 1 {
            #expect(loaded > Self.seeds.count / 20 && loaded < Self.seeds.count * 19 / 20)
        }
    }
}

/// The number of the file in work, told on standard error when a trap ends the process.
private enum CrashNote {
    private nonisolated(unsafe) static let seed: UnsafeMutablePointer<UInt64> = .allocate(capacity: 1)
    private static let signals = [SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGABRT]

    /// Runs `body`; a signal during it tells the seed that was set last.
    static func around(_ body: () throws -> Void) rethrows {
        seed.initialize(to: 0)
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { number in
            let text = "A mutated file crashed the loader: VMTALLY_SEED=\(CrashNote.seed.pointee)\n"
            _ = Array(text.utf8).withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
            signal(number, SIG_DFL)
            raise(number)
        }
        action.sa_flags = Int32(SA_NODEFER)
        let before = signals.map { number in
            var before = sigaction()
            sigaction(number, &action, &before)
            return before
        }
        defer {
            for (number, action) in zip(signals, before) {
                var action = action
                sigaction(number, &action, nil)
            }
        }
        try body()
    }

    static func set(_ value: UInt64) {
        seed.pointee = value
    }
}
