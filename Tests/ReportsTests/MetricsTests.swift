// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Testing
import ThisHost

@testable import Reports

@Suite("metrics")
struct MetricsTests {
    private static func document(
        _ machines: [LiveMachine], _ format: MetricsDocument.Format = .openMetrics,
        histograms: MetricsDocument.Histograms = .vm
    ) -> [String] {
        let document = MetricsDocument(
            version: "1.2", host: HostIdentity(tscKHz: 1_000_000), collector: "bpf",
            lost: LiveDocument.Losses(skipped: 3, withoutRoom: 0, missed: 0), nanoseconds: 1_000_000,
            machines: machines,
            // One cycle is a ns.
            toNanoseconds: { $0 }, histograms: histograms)
        var bytes: [UInt8] = []
        document.write(format) { bytes += $0 }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    }

    private static func machine(
        _ number: Int = 0, name: String = "web", reasons: [UInt32] = [10, 12], vcpus: Int = 1
    ) -> LiveMachine {
        var times = ExitCounts.Times(cycles: 2_500_000_000, range: 400...2_000_000_000, halted: 1_000_000_000)
        times.durations = [7] + [UInt64](repeating: 0, count: 12) + [1]
        let hardware = ExitCounts(
            source: .bpf, vocabulary: .vmx,
            reasons: reasons.map { ExitCounts.Reason(code: $0, count: 8, times: times) })
        let userspace = ExitCounts(
            source: .bpf, vocabulary: .kvm, reasons: [ExitCounts.Reason(code: 2, count: 8, times: times)])
        return LiveMachine(
            name: name, program: "qemu", process: Int32(100 + number),
            vcpus: (0..<vcpus).map {
                LiveMachine.VCPU(
                    vcpu: Int32($0), thread: Int32(200 + $0), hardware: hardware, userspace: userspace, guestCycles: 5)
            }, hardware: hardware, userspace: userspace, guestCycles: 5)
    }

    @Test("a VM's counters, totals and histograms")
    func openMetrics() {
        let lines = Self.document([Self.machine()])
        for line in [
            "# TYPE vmtally_build info", "vmtally_build_info{version=\"1.2\"} 1",
            "vmtally_lost_events_total{cause=\"skipped\"} 3", "vmtally_vms 1",
            "# UNIT vmtally_reading_seconds seconds", "vmtally_reading_seconds 0.001000000",
            "vmtally_vm_info{vm=\"web\",pid=\"100\",program=\"qemu\"} 1",
            "# TYPE vmtally_vm_exits counter",
            "vmtally_vm_exits_total{vm=\"web\",pid=\"100\",reason=\"EXIT_REASON_CPUID\"} 8",
            "vmtally_vm_exit_kernel_seconds_total{vm=\"web\",pid=\"100\",reason=\"EXIT_REASON_HLT\"} 2.500000000",
            "vmtally_userspace_exits_total{vm=\"web\",pid=\"100\",reason=\"KVM_EXIT_IO\"} 8",
            "vmtally_vm_halted_seconds_total{vm=\"web\",pid=\"100\"} 2.000000000",
            "vmtally_vm_guest_seconds_total{vm=\"web\",pid=\"100\"} 0.000000005",
            "vmtally_vcpu_vm_exits_total{vm=\"web\",pid=\"100\",vcpu=\"0\"} 16",
            "vmtally_vm_exit_duration_seconds_bucket{vm=\"web\",pid=\"100\",le=\"5e-07\"} 14",
            "vmtally_vm_exit_duration_seconds_bucket{vm=\"web\",pid=\"100\",le=\"0.1\"} 14",
            "vmtally_vm_exit_duration_seconds_bucket{vm=\"web\",pid=\"100\",le=\"+Inf\"} 16",
            "vmtally_vm_exit_duration_seconds_sum{vm=\"web\",pid=\"100\"} 5.000000000",
            "vmtally_vm_exit_duration_seconds_count{vm=\"web\",pid=\"100\"} 16",
        ] {
            #expect(lines.contains(line), "\(line) is not in:\n\(lines.joined(separator: "\n"))")
        }
        #expect(lines.last == "# EOF")
        #expect(!lines.contains { $0.contains("nested") })
    }

    @Test("the older format names a counter with its suffix, and knows no info")
    func text() {
        let lines = Self.document([Self.machine()], .text)
        #expect(lines.contains("# TYPE vmtally_vm_exits_total counter"))
        #expect(lines.contains("# TYPE vmtally_build_info gauge"))
        #expect(!lines.contains { $0 == "# EOF" || $0.hasPrefix("# UNIT") })
        #expect(
            lines.filter { !$0.hasPrefix("#") } == Self.document([Self.machine()]).filter { !$0.hasPrefix("#") })
    }

    @Test(
        "histograms: none, or by reason", arguments: [(MetricsDocument.Histograms.none, 0), (.vm, 32), (.reason, 48)])
    func histograms(choice: MetricsDocument.Histograms, count: Int) {
        let lines = Self.document([Self.machine()], histograms: choice)
        #expect(lines.filter { $0.contains("duration_seconds") && !$0.hasPrefix("#") }.count == count)
        let ofReason =
            #"vmtally_vm_exit_duration_seconds_bucket{vm="web",pid="100",reason="EXIT_REASON_HLT",le="5e-07"} 7"#
        #expect(lines.contains(ofReason) == (choice == .reason))
    }

    @Test("no name gets out of its quotes, and a process's second VM is told apart")
    func names() {
        var second = Self.machine(name: "a\"b\\c\n} 1")
        second.number = 2
        let lines = Self.document([Self.machine(), second])
        #expect(lines.contains(#"vmtally_vm_vcpus{vm="a\"b\\c\n} 1",pid="100",machine="2"} 1"#))
    }

    @Test("a total without reasons is of all; codes without a counter of their own are others")
    func totals() {
        var machine = LiveMachine(name: "a", program: "b", process: 1)
        machine.hardware = ExitCounts(source: .statistics, total: 17)
        machine.userspace = ExitCounts(
            source: .bpf, vocabulary: .kvm, reasons: [ExitCounts.Reason(code: nil, count: 5)])
        let lines = Self.document([machine])
        #expect(lines.contains("vmtally_vm_exits_total{vm=\"a\",pid=\"1\",reason=\"all\"} 17"))
        #expect(lines.contains("vmtally_userspace_exits_total{vm=\"a\",pid=\"1\",reason=\"other\"} 5"))
        // What nobody timed is absent.
        #expect(!lines.contains { $0.contains("seconds") && $0.contains("pid=") })
    }

    @Test("1,000 VMs: no series twice, families in one piece, less than 20 MiB")
    func fleet() {
        let machines = (0..<1000).map {
            Self.machine($0, name: "instance-\($0)", reasons: [0, 1, 7, 10, 12, 28, 30, 31, 32, 48, 52, 54], vcpus: 2)
        }
        let lines = Self.document(machines)
        #expect(lines.reduce(0) { $0 + $1.utf8.count + 1 } < 20 << 20)
        let samples = lines.filter { !$0.hasPrefix("#") }
        let series = samples.map { $0.prefix { $0 != " " } }
        #expect(Set(series).count == series.count)
        let families = lines.filter { $0.hasPrefix("# TYPE") }
        #expect(Set(families).count == families.count)
        // The arithmetic of docs/fleet.md.
        #expect(samples.count { $0.contains("\"instance-7\"") } == 12 * 2 + 2 + 2 + 32 + 2 * 2 + 2)
    }
}
