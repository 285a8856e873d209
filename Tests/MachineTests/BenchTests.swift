// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM
import ProbeImage
import TestSupport
import Testing
@testable import Bench
@testable import Machine

/// `vmtally bench`: what its figures are made of, and that nothing a guest or a host does ends it.
@Suite(.ownThread, .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"), .serialized)
struct BenchTests {
    private static func run(
        _ kinds: [BenchKind], elf: UnsafeRawBufferPointer = ProbeImage.bench, seconds: Double = 0.2,
        patience: Int = 3_600_000
    ) throws -> BenchResult {
        var options = BenchOptions()
        options.kinds = kinds
        options.seconds = seconds
        options.patience = patience
        return try Bench(options, elf: elf).run { _ in true }
    }

    private static func kind(_ name: String) throws -> BenchKind {
        try #require(BenchKind.catalogue.first { $0.name == name })
    }

    /// Those that hang or take long on some hosts, where `vmtally bench` waits for them; the lab runs all.
    private static let slow = [
        "hypercall", "pause-1000", "pio-rep-out-256", "pio-rep-out-4096", "touch-2m", "timer-immediate",
        "timer-delayed",
    ]

    @Test("every count is exact, whatever the kind", .timeLimit(.minutes(60)))
    func exactness() throws {
        let kinds = BenchKind.catalogue.filter { !Self.slow.contains($0.name) && $0.group != .interrupts }
        let result = try Self.run(kinds, seconds: 3)
        #expect(result.rows.map(\.kind.name) == kinds.map(\.name))
        for row in result.rows {
            switch row.outcome {
            case .measured(let measurement):
                #expect(measurement.isExact, "\(row.kind.name): \(measurement.userspace)")
                #expect(measurement.samples > 0 && UInt64(measurement.samples) < measurement.iterations)
                #expect(measurement.distribution.reduce(0) { $0 + $1.count } == measurement.samples)
                #expect(measurement.interval.contains(measurement.p50))
                let ascending = [
                    measurement.minimum, measurement.p50, measurement.p90, measurement.p99, measurement.p999,
                    measurement.maximum,
                ]
                #expect(ascending == ascending.sorted(), "\(row.kind.name)")
            case .unavailable(let reason): #expect(!reason.isEmpty)
            }
        }
        // These no host lacks.
        for name in ["pio-out", "pio-in", "mmio-write", "mmio-read", "touch-mmio", "cpuid", "tally-snapshot"] {
            let outcome = try #require(result.rows.first { $0.kind.name == name }).outcome
            guard case .measured(let measurement) = outcome else {
                Issue.record("\(name): \(outcome)")
                continue
            }
            #expect(name == "cpuid" || measurement.userspaceCycles > 0, "\(name)")
        }
    }

    @Test("with interrupt controllers: another VM, the same counts", .timeLimit(.minutes(60)))
    func interruptControllers() throws {
        let names = ["cpuid", "rdmsr", "pio-in", "mmio-write", "cr8-read", "rdmsr-userspace"]
        let kinds = try names.map { try Self.kind($0).withInterruptControllers }
        #expect(kinds.map(\.vm) == ["controllers", "controllers", "controllers", "controllers", "xapic", "filter"])
        for row in try Self.run(kinds).rows {
            guard case .measured(let measurement) = row.outcome else {
                Issue.record("\(row.kind.name): \(row.outcome)")
                continue
            }
            #expect(measurement.isExact, "\(row.kind.name): \(measurement.userspace)")
        }
    }

    @Test("an interrupt between vCPUs costs no userspace exit", .timeLimit(.minutes(60)))
    func interrupts() throws {
        let result = try Self.run(["self-ipi-xapic", "ipi-ack-x2apic", "hlt-timer"].map(Self.kind))
        for case (let name, .measured(let measurement)) in result.rows.map({ ($0.kind.name, $0.outcome) }) {
            #expect(measurement.isExact && measurement.userspace.isEmpty, "\(name): \(measurement.userspace)")
        }
    }

    /// RDPMC may raise #GP, XSETBV fail to be emulated, and the last one waits for an hour.
    @Test("what this host cannot do is said, and the rest runs", .timeLimit(.minutes(60)))
    func unavailable() throws {
        let stuck = BenchKind("stuck", .interrupts, "", .haltTimer, .microseconds(3_600_000_000), in: .x2APIC)
        let kinds = try [Self.kind("rdpmc"), stuck, Self.kind("xsetbv"), Self.kind("pio-out"), Self.kind("cr8-read")]
        let result = try Self.run(kinds, patience: 2000)
        let outcomes = Dictionary(uniqueKeysWithValues: result.rows.map { ($0.kind.name, $0.outcome) })
        guard case .unavailable(let reason)? = outcomes["stuck"] else {
            Issue.record("the kind that cannot end was measured")
            return
        }
        #expect(reason == "a block did not end in 2000 ms" || reason == "the guest's processor does not have it")
        for name in ["pio-out", "cr8-read"] {
            guard case .measured(let measurement)? = outcomes[name] else {
                Issue.record("\(name): \(String(describing: outcomes[name]))")
                continue
            }
            #expect(measurement.isExact)
        }
    }

    @Test("a wrong count is marked", arguments: [[:], [KVM_EXIT_IO: 2], [KVM_EXIT_IO: 1, KVM_EXIT_DEBUG: 1]])
    func wrongCounts(expected: [Int32: UInt64]) throws {
        let kind = BenchKind("out", .ports, "", .out8, 0x2000, userspace: expected)
        let result = try Self.run([kind])
        #expect(!result.isExact)
        guard case .measured(let measurement)? = result.rows.first?.outcome else {
            Issue.record("not measured")
            return
        }
        let ports = try #require(measurement.userspace.first { $0.code == UInt32(KVM_EXIT_IO) })
        #expect(ports.counted == measurement.iterations)
        #expect(ports.expected == measurement.iterations * (expected[KVM_EXIT_IO] ?? 0))
    }

    /// Guests that are no bench guest: what they do ends the run with a reason, in time.
    @Test(
        "a guest that does not do as it is asked", .timeLimit(.minutes(60)),
        arguments: [
            // ud2 without an IDT: triple fault
            TinyGuest([0x0F, 0x0B]),
            // cli; hlt
            TinyGuest([0xFA, 0xF4]),
            // 1: jmp 1b
            TinyGuest([0xEB, 0xFE]),
            // mov edx, 0xE04; mov eax, 999; out dx, eax: a vCPU that there is none of
            TinyGuest(Assembly.edx(0xE04) + Assembly.eax(999) + [0xEF, 0xFA, 0xF4]),
            // mov edx, 0xE08; mov eax, 2; out dx, eax; hlt: the end of nothing
            TinyGuest(Assembly.edx(0xE08) + Assembly.eax(2) + [0xEF, 0xFA, 0xF4]),
            // mov edx, 0xE04; xor eax, eax; 1: out dx, eax; jmp 1b: ready, and never a mark
            TinyGuest(Assembly.edx(0xE04) + Assembly.eax(0) + [0xEF, 0xEB, 0xFD]),
        ])
    func strangeGuests(guest: TinyGuest) throws {
        let elf = guest.elf
        elf.withUnsafeBytes { bytes in
            _ = #expect(throws: MachineError.self) { try Self.run([Self.kind("pio-out")], elf: bytes, patience: 200) }
        }
    }

    @Test func theCatalogueIsWellFormed() {
        let names = BenchKind.catalogue.map(\.name)
        #expect(Set(names).count == names.count)
        for kind in BenchKind.catalogue {
            #expect(kind.name.allSatisfy { $0.isASCII && ($0.isLowercase || $0.isNumber || $0 == "-") }, "\(kind.name)")
            #expect(!kind.summary.isEmpty && kind.limit >= 8 && kind.limit <= BenchLayout.sampleLimit, "\(kind.name)")
            #expect(!kind.usesPeer || kind.environment.cpus == 2, "\(kind.name)")
        }
        #expect(Set(BenchKind.catalogue.map(\.group)) == Set(BenchKind.Group.allCases))
        // All operations of the guest are in use; the one that is not is what measures the readings.
        let used = Set(BenchKind.catalogue.map(\.operation.rawValue))
        let all = (UInt32(0)..<1000).prefix { BenchOperation(rawValue: $0) != nil }
        #expect(used.union([BenchOperation.empty.rawValue]) == Set(all))
    }

    @Test func aRecordAddsUp() throws {
        let kind = BenchKind("out", .ports, "", .out8, 0x2000, userspace: [KVM_EXIT_IO: 1])
        var request = BenchRequest()
        request.iterations = 100
        request.warmUp = 10
        var record = BenchRecord()
        let writer = try Tally()
        // 110 exits of 50 cycles, and the end mark's store.
        for _ in 0..<110 { writer.writer.end(writer.writer.begin(UInt32(KVM_EXIT_IO)), cycles: 50) }
        writer.writer.end(writer.writer.begin(UInt32(KVM_EXIT_MMIO)), cycles: 9_999)
        // 1,000 to 1,098 and one far outside.
        let samples = (0..<99).map { UInt32(1_000 + $0) } + [1_000_000]
        for _ in 0..<2 {
            record.add(
                BenchHost.Block(
                    tally: writer.snapshot(), kernel: KernelCounters(), hardware: nil, nanoseconds: 0, samples: samples),
                request)
        }
        let measurement = try #require(record.measurement(kind, overhead: 100))
        #expect(measurement.samples == 200 && measurement.iterations == 220 && measurement.blocks == 2)
        #expect(measurement.minimum == 900 && measurement.p50 == 949 && measurement.p90 == 989)
        #expect(measurement.maximum == 999_900 && measurement.outliers == 2)
        #expect(measurement.userspaceCycles == 50 && measurement.restCycles == 899)
        #expect(measurement.isExact && measurement.userspace.map(\.counted) == [220])
        #expect(measurement.exits == nil && measurement.kernelCycles == nil)
        // One exit less than the guest made.
        request.warmUp = 11
        record.add(
            BenchHost.Block(
                tally: writer.snapshot(), kernel: KernelCounters(), hardware: nil, nanoseconds: 0, samples: samples),
            request)
        #expect(try #require(record.measurement(kind, overhead: 100)).isExact == false)
    }

    /// Ten iterations of 1,000 cycles each in the kernel, between halves of two marks' exits.
    @Test(
        "the kernel's share is the kind's own",
        arguments: [
            (BenchKind("own", .ports, "", .out8, 0x2000, hardware: .portIO), 1_000),
            (BenchKind("any", .ports, "", .out8, 0x2000), 1_700),
            (BenchKind("mmio", .memory, "", .store32, hardware: .unbackedMemory), 5_000),
            (BenchKind("distance", .interrupts, "", .haltTimer, in: .x2APIC), nil),
            (BenchKind("absent", .instructions, "", .cpuid, hardware: .init(vmx: 10, svm: 0x72)), nil),
        ] as [(BenchKind, UInt64?)])
    func kernelShare(kind: BenchKind, expected: UInt64?) throws {
        var exits = [UInt64](repeating: 0, count: 86)
        var cycles = exits
        (exits[30], cycles[30]) = (10, 10_000)  // I/O
        (exits[49], cycles[49]) = (1, 5_000)  // the marks, where they are stores
        (exits[1], cycles[1]) = (2, 7_000)  // interrupts of the host
        let counters = HostLeafSupportTests.counters([
            "exit_acct_exits": [13], "exit_acct_cycles": [22_000], "exit_acct_reason_exits": exits,
            "exit_acct_reason_cycles": cycles, "exit_acct_codes": (0..<86).map { $0 },
        ])
        var request = BenchRequest()
        request.iterations = 8
        request.warmUp = 2
        var record = BenchRecord()
        record.add(
            BenchHost.Block(
                tally: .none(of: .vmm, .kvm), kernel: counters, hardware: HostLeafSupport.kernel(.vmx).exits(counters),
                nanoseconds: 0, samples: [UInt32](repeating: 3_000, count: 8)),
            request)
        #expect(try #require(record.measurement(kind, overhead: 0)).kernelCycles == expected)
    }
}
