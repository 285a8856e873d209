// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
@testable import KVM
@testable import Linux

/// A statistics file as a kernel might give it, made up in memory.
struct StatsFile {
    var flags: UInt32 = 0
    var nameSize: UInt32 = 16
    var count: UInt32?
    var id = "kvm-1/vcpu-0"
    var descriptors: [Descriptor] = []

    struct Descriptor {
        var name: String
        var flags: UInt32 = 0
        var exponent: Int16 = 0
        var count: UInt16 = 1
        var offset: UInt32 = 0
        var bucketSize: UInt32 = 0
    }

    func headerBytes() -> [UInt8] {
        [flags, nameSize, count ?? UInt32(descriptors.count), 24, 24 &+ nameSize, 4096].flatMap(Self.bytes)
    }

    func descriptorBytes() -> [UInt8] {
        var bytes: [UInt8] = []
        for descriptor in descriptors {
            bytes += Self.bytes(descriptor.flags)
            bytes += Self.bytes(descriptor.exponent)
            bytes += Self.bytes(descriptor.count)
            bytes += Self.bytes(descriptor.offset)
            bytes += Self.bytes(descriptor.bucketSize)
            bytes += Self.padded(descriptor.name, to: Int(nameSize))
        }
        return bytes
    }

    func idBytes() -> [UInt8] { Self.padded(id, to: Int(nameSize)) }

    static func bytes<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian, Array.init)
    }

    static func padded(_ name: String, to size: Int) -> [UInt8] {
        // A name size that no file can have must not become so much memory here.
        let size = min(size, 8192)
        return Array((Array(name.utf8) + Array(repeating: 0, count: size)).prefix(size))
    }

    func layout() throws(KVMError) -> BinaryStatsLayout {
        try BinaryStatsLayout(
            header: BinaryStatsLayout.Header(headerBytes()), id: idBytes(), descriptors: descriptorBytes())
    }
}

@Suite struct BinaryStatsLayoutTests {
    @Test func readsWhatTheKernelDescribes() throws {
        var file = StatsFile()
        file.descriptors = [
            StatsFile.Descriptor(name: "exits", offset: 8),
            StatsFile.Descriptor(name: "wait_hist", flags: 4 | 2 << 4, exponent: -9, count: 3, offset: 16),
            StatsFile.Descriptor(name: "pages_4k", flags: 1 | 1 << 4 | 1 << 8, exponent: 12, offset: 0),
            StatsFile.Descriptor(name: "a_linear", flags: 3 | 3 << 4, count: 2, offset: 40, bucketSize: 1000),
            StatsFile.Descriptor(name: "sixteen_letters_", flags: 2 | 4 << 4, count: 0, offset: 0),
            StatsFile.Descriptor(name: "new", flags: 9 | 8 << 4 | 7 << 8, offset: 0),
        ]
        let layout = try file.layout()
        #expect(layout.id == "kvm-1/vcpu-0")
        #expect(layout.dataByteCount == 56)
        let data = (1...7).flatMap { StatsFile.bytes(UInt64($0) << 32 | 5) }
        let counters = try layout.counters(in: data)
        let values = (1...7).map { UInt64($0) << 32 | 5 }
        typealias Counter = BinaryStats.Counter
        #expect(
            counters == [
                Counter(
                    name: "exits", values: [values[1]], kind: .cumulative, unit: .none, base: .ten, exponent: 0,
                    bucketSize: 0),
                Counter(
                    name: "wait_hist", values: Array(values[2...4]), kind: .logHistogram, unit: .seconds, base: .ten,
                    exponent: -9, bucketSize: 0),
                Counter(
                    name: "pages_4k", values: [values[0]], kind: .instant, unit: .bytes, base: .two, exponent: 12,
                    bucketSize: 0),
                Counter(
                    name: "a_linear", values: Array(values[5...6]), kind: .linearHistogram, unit: .cycles, base: .ten,
                    exponent: 0, bucketSize: 1000),
                Counter(
                    name: "sixteen_letters_", values: [], kind: .peak, unit: .boolean, base: .ten, exponent: 0,
                    bucketSize: 0),
                Counter(
                    name: "new", values: [values[0]], kind: .unknown(9), unit: .unknown(8), base: .unknown(7),
                    exponent: 0, bucketSize: 0),
            ])
        #expect(counters[0].value == values[1])
        #expect(counters[1].value == nil)
    }

    typealias Damage = (what: String, change: @Sendable (inout StatsFile) -> Void)
    static let damages: [Damage] = [
        ("no names", { $0.nameSize = 0 }),
        ("names as long as memory", { $0.nameSize = .max }),
        ("names of a page and one", { $0.nameSize = 4097 }),
        ("too many counters", { $0.count = 65537 }),
        ("as many counters as fit in 32 bits", { $0.count = .max }),
        ("more counters than descriptors", { $0.count = 2 }),
        ("data far away", { $0.descriptors[0].offset = .max }),
        ("data just too far away", { $0.descriptors[0].offset = (16 << 20) - 7 }),
    ]

    @Test(arguments: damages.indices) func refusesNonsense(_ number: Int) {
        var file = StatsFile()
        file.descriptors = [StatsFile.Descriptor(name: "exits")]
        Self.damages[number].change(&file)
        let changed = file
        let error = #expect(throws: KVMError.self) { _ = try changed.layout() }
        #expect(error?.errno == EPROTO)
        #expect(error?.description.contains("report") == true)
    }

    @Test func refusesShortInput() throws {
        #expect(throws: KVMError.self) { _ = try BinaryStatsLayout.Header(Array(repeating: 1, count: 23)) }
        var file = StatsFile()
        file.descriptors = [StatsFile.Descriptor(name: "exits")]
        let layout = try file.layout()
        #expect(throws: KVMError.self) { _ = try layout.counters(in: Array(repeating: 0, count: 7)) }
        let header = try BinaryStatsLayout.Header(file.headerBytes())
        #expect(throws: KVMError.self) {
            _ = try BinaryStatsLayout(header: header, id: [], descriptors: file.descriptorBytes().dropLast())
        }
        #expect(try BinaryStatsLayout(header: header, id: [], descriptors: file.descriptorBytes()).id == "")
    }

    /// Whatever the bytes, the result is counters as described or an error, never a trap, and never much memory.
    @Test func survivesAnyBytes() throws {
        var random = SystemRandomNumberGenerator()
        var accepted = 0
        for _ in 0..<5_000 {
            var file = StatsFile()
            file.nameSize = .random(in: 1...64, using: &random)
            file.descriptors = (0..<Int.random(in: 0...8, using: &random)).map { _ in
                StatsFile.Descriptor(
                    name: "n", flags: .random(in: 0...0xFFFF, using: &random),
                    exponent: .random(in: .min ... .max, using: &random),
                    count: .random(in: 0...40, using: &random), offset: .random(in: 0...4000, using: &random))
            }
            var header = file.headerBytes()
            var descriptors = file.descriptorBytes()
            for _ in 0..<Int.random(in: 0...3, using: &random) {
                // A whole field at a time gets further than single bits.
                let value: UInt8 = [0, 1, 0x7F, 0x80, 0xFF, .random(in: 0...255)].randomElement(using: &random) ?? 0
                if Bool.random(using: &random), let index = descriptors.indices.randomElement(using: &random) {
                    descriptors[index] = value
                } else if let index = header.indices.randomElement(using: &random) {
                    header[index] = value
                }
            }
            if Int.random(in: 0...9, using: &random) == 0 { descriptors.removeLast(min(descriptors.count, 5)) }
            do throws(KVMError) {
                let parsed = try BinaryStatsLayout.Header(header)
                guard parsed.descriptorsByteCount <= descriptors.count + 4096 else { continue }
                let layout = try BinaryStatsLayout(header: parsed, id: header, descriptors: descriptors)
                #expect(layout.dataByteCount <= BinaryStatsLayout.maximumDataByteCount)
                let counters = try layout.counters(in: Array(repeating: 0xAB, count: layout.dataByteCount))
                #expect(counters.count == parsed.count)
                #expect(counters.allSatisfy { $0.values.allSatisfy { $0 == 0xABAB_ABAB_ABAB_ABAB } })
                accepted += 1
            } catch {
                #expect(error.errno == EPROTO)
            }
        }
        #expect(accepted > 500, "the fuzzing must reach the decoder")
    }

    /// A descriptor that is no statistics file: too short, unreadable, or nonsense.
    @Test(arguments: [("/dev/null", EPROTO), ("/dev/zero", EPROTO), ("/", EISDIR)])
    func refusesPeerFiles(path: String, errno: Int32) {
        let error = #expect(throws: KVMError.self) {
            _ = try BinaryStats(fd: FileDescriptor(owning: open(path, O_RDONLY)))
        }
        #expect(error?.errno == errno)
    }
}

@Suite(
    .enabled(if: noKVM == nil, "no /dev/kvm: \(noKVM ?? "")"),
    .enabled(if: has(.binaryStatsFD), "this kernel has no KVM_CAP_BINARY_STATS_FD (Linux 5.14)"))
struct BinaryStatsTests {
    @Test func aVCPUCountsItsExits() throws {
        // mov cx, 500; again: out 80h, al; loop again; hlt
        let guest = try Guest(code: [0xB9, 0xF4, 0x01, 0xE6, 0x80, 0xE2, 0xFC, 0xF4])
        let statistics = try guest.vcpu.statistics()
        #expect(statistics.id.hasPrefix("kvm-") && statistics.id.hasSuffix("/vcpu-0"))
        let before = try statistics.read()
        for _ in 0..<500 { try #require(try guest.exit() == UInt32(KVM_EXIT_IO)) }
        try guest.runToHalt()
        let after = try statistics.read()
        #expect(after.map(\.name) == before.map(\.name))
        #expect(after.count == statistics.count)
        let exits = try [before, after].map { counters in
            try #require(counters.first { $0.name == "exits" }?.value)
        }
        #expect(exits[1] - exits[0] >= 501)
        #expect(after.first { $0.name == "halt_wait_hist" }?.kind == .logHistogram)
        #expect(after.first { $0.name == "halt_wait_ns" }.map { ($0.unit == .seconds) && $0.exponent == -9 } == true)
    }

    @Test func aMachineHasItsOwn() throws {
        let guest = try Guest(code: [0xF4])
        try guest.runToHalt()
        let statistics = try guest.vm.statistics()
        #expect(statistics.id.hasPrefix("kvm-") && !statistics.id.contains("/"))
        #expect(try statistics.read().contains { $0.name == "pages_4k" })
    }
}
