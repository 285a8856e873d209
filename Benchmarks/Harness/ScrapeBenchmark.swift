// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Glibc
import HostView
import LiveView
import MadeUpExits
import Reports
import ThisHost

/// What a scrape of `vmtally export` takes on a host with many VMs: the counters of all their vCPUs are read, and written
/// as OpenMetrics. The VMs are made up, in memory as the BPF programs leave it.
struct ScrapeBenchmark {
    var rounds = 25
    /// As many as `docs/fleet.md` reckons with.
    private static let reasons: [UInt64] = [0, 1, 7, 10, 12, 28, 30, 31, 32, 48, 52, 54]
    private static let returns: [UInt64] = [2, 6]

    func run(progress: (String) -> Void) throws -> [Figure] {
        try [(vms: 10, vcpus: 2), (vms: 1000, vcpus: 1), (vms: 1000, vcpus: 2)].flatMap { size in
            try measure(vms: size.vms, vcpus: size.vcpus, progress)
        }
    }

    private func measure(vms: Int, vcpus: Int, _ progress: (String) -> Void) throws -> [Figure] {
        let rowsEach = Self.reasons.count + Self.returns.count
        let made = MadeUpMaps(slots: vms * vcpus, rows: vms * vcpus * rowsEach, vocabulary: .vmx)
        for slot in 0..<vms * vcpus {
            // Beyond what pid_max allows: nobody's.
            let process = UInt64(5_000_000 + slot / vcpus)
            made.slot(slot, process: process, thread: process + UInt64(slot % vcpus)) {
                $0.vcpu_id = Int32(slot % vcpus)
                $0.kvm = process
                $0.exits = UInt64(1000 * Self.reasons.count)
                $0.userspace_exits = UInt64(1000 * Self.returns.count)
                $0.guest_ns = 1_000_000_000
            }
            for (place, code) in (Self.reasons + Self.returns).enumerated() {
                let isReturn = place >= Self.reasons.count
                made.row(
                    slot * rowsEach + place, of: slot, place: place, kind: isReturn ? 3 : 1, code: code, count: 1000,
                    ns: 1500 * UInt64(place + 1))
            }
        }
        var live = LiveMachines(MadeUpCollector(made))
        let scale = TSCScale.host
        let detail = CollectorDetail(bounds: MetricsDocument.bounds.map { scale.cycles($0.nanoseconds) })
        let host = HostIdentity(tscKHz: UInt32(clamping: scale.kHz))
        var times: [Double] = []
        var grown: [Double] = []
        var bytes = 0
        let before = try Self.resident("VmRSS:", afresh: true)
        for round in 0..<rounds {
            let start = Self.now()
            let machines = try live.read(detail)
            let document = MetricsDocument(
                version: Release.version, host: host, collector: "bpf", lost: live.losses, nanoseconds: 0,
                machines: machines, toNanoseconds: { scale.nanoseconds($0) }, histograms: .vm)
            var body: [UInt8] = []
            body.reserveCapacity(bytes)
            document.write(.openMetrics) { body.append(contentsOf: $0) }
            times.append(Double(Self.now() - start) / 1e6)
            grown.append(max(0, try Self.resident("VmHWM:") - before))
            guard machines.count == vms else { throw BenchmarkError("\(machines.count) VMs of \(vms)") }
            bytes = body.count
            progress("scrape: \(vms) VMs, round \(round + 1) of \(rounds)")
        }
        let name = "\(vms) VMs of \(vcpus) vCPU\(vcpus == 1 ? "" : "s")"
        return [
            Figure("\(name): a scrape", unit: "ms", times, target: vms == 1000 ? 100 : nil),
            Figure("\(name): memory for it", unit: "MiB", grown, target: vms == 1000 ? 20 : nil),
            Figure(
                "\(name): the document", unit: "MiB", [Double(bytes) / 1_048_576], target: vms == 1000 ? 20 : nil),
        ]
    }

    /// MiB of this process; `VmHWM` is the most since the last time it was reset.
    private static func resident(_ field: String, afresh: Bool = false) throws -> Double {
        if afresh, let file = fopen("/proc/self/clear_refs", "we") {
            fputs("5", file)
            fclose(file)
        }
        guard let file = fopen("/proc/self/status", "re") else { throw BenchmarkError("no /proc/self/status") }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        while fgets(&line, Int32(line.count), file) != nil {
            let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
            guard text.hasPrefix(field) else { continue }
            return text.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Double($0) }.map { $0 / 1024 }
                ?? 0
        }
        throw BenchmarkError("no \(field) in /proc/self/status")
    }

    /// ns of this thread's processor time.
    private static func now() -> UInt64 {
        var now = timespec()
        // What others run meanwhile is none of ours.
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
        return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
    }
}
