// SPDX-License-Identifier: Apache-2.0
import Foundation
import SeededRandom
import Testing
@testable import Machine

extension SplitMix64 {
    /// Below `limit`, which is not 0.
    mutating func below(_ limit: Int) -> Int {
        Int(truncatingIfNeeded: next() % UInt64(limit))
    }

    /// True once in so many times.
    mutating func once(in times: Int) -> Bool {
        below(times) == 0
    }

    mutating func pick<T>(_ choices: [T]) -> T {
        choices[below(choices.count)]
    }

    /// Of all sizes, those at which arithmetic goes wrong more often than others.
    mutating func number() -> UInt64 {
        once(in: 4) ? next() >> (next() & 63) : pick(Self.interesting)
    }

    private static let interesting: [UInt64] = [
        0, 1, 2, 7, 8, 16, 20, 24, 32, 40, 55, 56, 63, 64, 127, 128, 129, 512, 4095, 4096, 0xFFFF, 0x10_0000, 0xFE_8000,
        0xFF_FFFF, 0x100_0000, 0x7FFF_FFFF, 0x8000_0000, 0xC000_0000, 0xFFFF_FFFF, 0x1_0000_0000, 1 << 47, 1 << 63 - 1,
        1 << 63, .max - 4095, .max - 7, .max,
    ]
}

/// Tries a target with many inputs, each made from its number alone.
///
/// VMTALLY_FUZZ=N has N inputs tried, VMTALLY_SEED=K number K alone. A crash, and an input that takes longer than
/// ``patience``, end the process with a line that tells the number.
struct Fuzzer {
    let target: String
    /// Inputs when nothing else is said: a second or two.
    let usual: UInt64

    private static let patience: UInt32 = 60

    private static func variable(_ name: String) -> UInt64? {
        getenv(name).flatMap { UInt64(String(cString: $0)) }
    }

    /// - Parameter body: returns whether the input was taken for good.
    func run(_ body: (UInt64, inout SplitMix64) throws -> Bool) rethrows {
        let seeds = Self.variable("VMTALLY_SEED").map { $0..<$0 + 1 } ?? 0..<(Self.variable("VMTALLY_FUZZ") ?? usual)
        var taken: UInt64 = 0
        let start = ContinuousClock.now
        try CrashNote.around(target) {
            for seed in seeds {
                if seed & 0xFFF == 0 {
                    alarm(Self.patience)
                }
                CrashNote.set(seed)
                var random = SplitMix64(seed: seed)
                taken += try body(seed, &random) ? 1 : 0
            }
            alarm(0)
        }
        print("fuzz \(target): \(seeds.count) inputs, \(taken) of them taken for good, \(ContinuousClock.now - start)")
        fflush(nil)
        // Neither all refused nor all taken: the inputs reach what they should.
        if seeds.count >= 1000 {
            let count = UInt64(seeds.count)
            #expect(taken > count / 50 && taken < count * 99 / 100, "\(taken) of \(count)")
        }
    }
}

/// Files that began as those of Corpus, changed in one to four places.
struct FileMutator {
    private let originals: [[UInt8]]
    private let scratch: UnsafeMutableRawBufferPointer

    /// - Parameter prefix: of the corpus files' names.
    init(_ prefix: String) throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Corpus")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        originals = try names.filter { $0.hasPrefix(prefix) }.map { name in
            Array(try Data(contentsOf: folder.appending(path: name)))
        }
        try #require(!originals.isEmpty, "no corpus of \(prefix)")
        scratch = .allocate(byteCount: (originals.map(\.count).max() ?? 0) + 64, alignment: 16)
    }

    func release() {
        scratch.deallocate()
    }

    /// Valid until the next one. Number 0 and the next few are the originals.
    func file(_ seed: UInt64, _ random: inout SplitMix64) -> UnsafeRawBufferPointer {
        let original = seed < UInt64(originals.count) ? originals[Int(seed)] : random.pick(originals)
        scratch.copyBytes(from: original)
        var count = original.count
        if seed >= UInt64(originals.count) {
            for _ in 0...(random.next() & 3) {
                change(&count, &random)
            }
        }
        return UnsafeRawBufferPointer(rebasing: scratch[..<count])
    }

    /// The first of the corpus.
    var original: [UInt8] { originals[0] }

    private static let numbers: [String] = [
        "0", "-1", "1", "1.5", "1e308", "9007199254740992", "9007199254740993", "9223372036854775807",
        "9223372036854775808", "18446744073709551615", "18446744073709551616", "4294967296", "true", "null", "[]", "{}",
        "\"\"", "\"\\u001b[2J\"",
    ]

    /// The same for JSON: a number or a word is replaced by another as often as bytes are changed at random.
    func text(_ seed: UInt64, _ random: inout SplitMix64) -> [UInt8] {
        guard seed >= UInt64(originals.count), !random.once(in: 3) else { return Array(file(seed, &random)) }
        var bytes = random.pick(originals)
        for _ in 0...(random.next() & 3) {
            let start = random.below(bytes.count)
            let digits: (UInt8) -> Bool = { (0x30...0x39).contains($0) }
            guard let first = bytes[start...].firstIndex(where: digits) else { continue }
            let end = bytes[first...].firstIndex { !digits($0) } ?? bytes.count
            let value = random.once(in: 2) ? String(random.number()) : random.pick(Self.numbers)
            bytes.replaceSubrange(first..<end, with: value.utf8)
        }
        return bytes
    }

    private func change(_ count: inout Int, _ random: inout SplitMix64) {
        guard count > 0 else { return }
        let place = random.below(count)
        switch random.below(10) {
        case 0...2: scratch[place] ^= 1 << UInt8(random.below(8))
        case 3: scratch[place] = UInt8(truncatingIfNeeded: random.next())
        case 4...7:
            // Numbers lie at multiples of their size.
            let width = 1 << random.below(4)
            let start = place & ~(width - 1)
            let value = random.number()
            for byte in 0..<width where start + byte < count {
                scratch[start + byte] = UInt8(truncatingIfNeeded: value >> UInt64(byte * 8))
            }
        case 8:
            let from = random.below(count)
            let size = min(random.below(64), count - max(from, place))
            scratch.baseAddress.map { _ = memmove($0 + place, $0 + from, size) }
        default: count = random.once(in: 4) ? place : min(scratch.count, count + random.below(64))
        }
    }
}

/// The number of the input in work, told on standard error when a trap or the alarm ends the process.
private enum CrashNote {
    private nonisolated(unsafe) static let seed: UnsafeMutablePointer<UInt64> = .allocate(capacity: 1)
    private nonisolated(unsafe) static var target: StaticText = StaticText("")
    private static let signals = [SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGALRM]

    /// A text that a signal handler can read.
    private struct StaticText {
        let bytes: UnsafeMutableBufferPointer<UInt8>

        init(_ text: String) {
            bytes = .allocate(capacity: text.utf8.count)
            _ = bytes.initialize(from: text.utf8)
        }
    }

    /// Runs `body`; a signal during it tells the target and the seed that was set last.
    static func around(_ name: String, _ body: () throws -> Void) rethrows {
        seed.initialize(to: 0)
        target = StaticText(name)
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { number in
            let target = String(decoding: CrashNote.target.bytes, as: UTF8.self)
            let text = "fuzz \(target): signal \(number) at VMTALLY_SEED=\(CrashNote.seed.pointee)\n"
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
