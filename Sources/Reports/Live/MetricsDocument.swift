// SPDX-License-Identifier: Apache-2.0
import ExitStats
import ThisHost

/// Exits of this host's VMs for Prometheus: counters by reason for each VM, totals for each vCPU, and histograms of how
/// long exits took. docs/fleet.md has the names.
///
/// vCPU x reason x bucket would be millions of lines: so vCPUs have totals alone.
public struct MetricsDocument: Sendable {
    public enum Format: Sendable {
        /// OpenMetrics 1.0.
        case openMetrics
        /// The text format before it, 0.0.4: what a scraper gets that does not ask for OpenMetrics.
        case text

        public var contentType: String {
            switch self {
            case .openMetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8"
            case .text: "text/plain; version=0.0.4; charset=utf-8"
            }
        }
    }

    /// What has histograms.
    public enum Histograms: String, CaseIterable, Sendable {
        case none
        case vm
        case reason
    }

    /// Upper bounds of the histograms, ns; `le` has them in seconds as Go prints numbers, as other exporters do.
    public static let bounds: [(nanoseconds: UInt64, label: String)] = [
        (500, "5e-07"), (1_000, "1e-06"), (2_000, "2e-06"), (5_000, "5e-06"), (10_000, "1e-05"), (20_000, "2e-05"),
        (50_000, "5e-05"), (100_000, "0.0001"), (200_000, "0.0002"), (500_000, "0.0005"), (1_000_000, "0.001"),
        (10_000_000, "0.01"), (100_000_000, "0.1"),
    ]

    public let version: String
    public let host: HostIdentity
    public let collector: String
    public let lost: LiveDocument.Losses
    /// How long reading took, ns.
    public let nanoseconds: UInt64
    public let machines: [LiveMachine]
    /// Out of TSC cycles.
    private let toNanoseconds: @Sendable (UInt64) -> UInt64
    public let histograms: Histograms

    public init(
        version: String, host: HostIdentity, collector: String, lost: LiveDocument.Losses, nanoseconds: UInt64,
        machines: [LiveMachine], toNanoseconds: @escaping @Sendable (UInt64) -> UInt64, histograms: Histograms
    ) {
        self.version = version
        self.host = host
        self.collector = collector
        self.lost = lost
        self.nanoseconds = nanoseconds
        self.machines = machines
        self.toNanoseconds = toNanoseconds
        self.histograms = histograms
    }

    /// - Parameter sink: gets the document, piece by piece.
    public func write(_ format: Format, to sink: (UnsafeRawBufferPointer) -> Void) {
        withoutActuallyEscaping(sink) { sink in
            var writer = MetricsWriter(format: format, toNanoseconds: toNanoseconds, sink: sink)
            writeHost(&writer)
            writeMachines(&writer)
            writer.finish()
        }
    }

    private func writeHost(_ writer: inout MetricsWriter) {
        writer.family("vmtally_build", .info, help: "The exporter's version.")
        writer.sample("_info", [("version", version)], 1)
        writer.family("vmtally_collector", .info, help: "What counts the exits, and on which host.")
        writer.sample(
            "_info", [("collector", collector), ("backend", host.backend), ("kernel", host.kernel), ("cpu", host.cpu)],
            1)
        writer.family(
            "vmtally_lost_events", .counter,
            help: "Events that the kernel could not count: above 0 no figure is whole.")
        writer.sample("_total", [("cause", "skipped")], lost.skipped)
        writer.sample("_total", [("cause", "without_room")], lost.withoutRoom)
        writer.sample("_total", [("cause", "missed")], lost.missed)
        writer.family("vmtally_vms", .gauge, help: "VMs that run and have had an exit since the exporter started.")
        writer.sample("", [], UInt64(machines.count { !$0.hasEnded }))
        writer.family(
            "vmtally_reading_seconds", .gauge, unit: "seconds", help: "How long reading the counters took.")
        writer.seconds("", [], nanoseconds: nanoseconds)
    }

    private func writeMachines(_ writer: inout MetricsWriter) {
        let labels = Self.labels(machines)
        writer.family("vmtally_vm", .info, help: "A VM: its program, and its pod's uid where it has one.")
        for (machine, labels) in zip(machines, labels) {
            writer.sample(
                "_info", labels, [("program", machine.program)] + (machine.pod.map { [("pod", $0)] } ?? []), 1)
        }
        writer.family("vmtally_vm_vcpus", .gauge, help: "vCPUs of a VM that have run.")
        for (machine, labels) in zip(machines, labels) {
            writer.sample("", labels, [], UInt64(machine.vcpuCount))
        }
        writeReasons(&writer, labels, Self.hardware) { $0.hardware }
        if machines.contains(where: { ($0.nested?.total ?? 0) > 0 }) {
            writeReasons(&writer, labels, Self.nested) { $0.nested }
        }
        writeReasons(&writer, labels, Self.userspace) { $0.userspace }
        writeTimes(&writer, labels)
        writeVCPUs(&writer, labels)
        if histograms != .none {
            writeHistogram(
                &writer, labels, "vmtally_vm_exit_duration_seconds",
                help: "From VM exit to the next entry, less the time halted and in userspace."
            ) { $0.hardware }
            writeHistogram(
                &writer, labels, "vmtally_userspace_exit_duration_seconds",
                help: "From a return of KVM_RUN to the start of the next."
            ) { $0.userspace }
        }
    }

    private struct Exits {
        let count: (name: String, help: String)
        let time: (name: String, help: String)
    }

    private static let hardware = Exits(
        count: ("vmtally_vm_exits", "VM exits: the processor left the guest."),
        time: (
            "vmtally_vm_exit_kernel_seconds",
            "From VM exit to the next entry, less the time halted and in userspace."
        ))
    private static let nested = Exits(
        count: ("vmtally_nested_vm_exits", "VM exits out of nested guests, which vmtally_vm_exits does not hold."),
        time: ("vmtally_nested_vm_exit_kernel_seconds", "Likewise of nested guests."))
    private static let userspace = Exits(
        count: ("vmtally_userspace_exits", "Userspace exits: KVM_RUN returned to the VMM."),
        time: ("vmtally_userspace_exit_seconds", "From a return of KVM_RUN to the start of the next."))

    private func writeReasons(
        _ writer: inout MetricsWriter, _ labels: [[UInt8]], _ exits: Exits, _ counts: (LiveMachine) -> ExitCounts?
    ) {
        writer.family(exits.count.name, .counter, help: exits.count.help)
        for (machine, labels) in zip(machines, labels) {
            guard let counts = counts(machine) else { continue }
            if counts.vocabulary == nil { writer.sample("_total", labels, [("reason", "all")], counts.total) }
            for reason in counts.reasons { writer.sample("_total", labels, reason, of: counts, reason.count) }
        }
        writer.family(exits.time.name, .counter, unit: "seconds", help: exits.time.help)
        for (machine, labels) in zip(machines, labels) {
            guard let counts = counts(machine) else { continue }
            for reason in counts.reasons {
                guard let times = reason.times else { continue }
                writer.seconds("_total", labels, reason, of: counts, cycles: times.cycles)
            }
        }
    }

    private func writeTimes(_ writer: inout MetricsWriter, _ labels: [[UInt8]]) {
        writer.family(
            "vmtally_vm_guest_seconds", .counter, unit: "seconds", help: "Time of all vCPUs in the guest.")
        for (machine, labels) in zip(machines, labels) {
            if let cycles = machine.guestCycles { writer.seconds("_total", labels, [], cycles: cycles) }
        }
        writer.family(
            "vmtally_vm_halted_seconds", .counter, unit: "seconds",
            help: "Time of all vCPUs halted, polling included; in no exit's time.")
        for (machine, labels) in zip(machines, labels) {
            if let times = machine.times { writer.seconds("_total", labels, [], cycles: times.halted) }
        }
    }

    private func writeVCPUs(_ writer: inout MetricsWriter, _ labels: [[UInt8]]) {
        let families: [(name: String, help: String, counts: (LiveMachine.VCPU) -> ExitCounts?)] = [
            ("vmtally_vcpu_vm_exits", "VM exits of a vCPU, of all reasons.", { $0.hardware }),
            ("vmtally_vcpu_userspace_exits", "Userspace exits of a vCPU, of all reasons.", { $0.userspace }),
        ]
        for family in families {
            writer.family(family.name, .counter, help: family.help)
            for (machine, labels) in zip(machines, labels) {
                for vcpu in machine.vcpus {
                    guard let counts = family.counts(vcpu) else { continue }
                    let name = vcpu.vcpu.map { ("vcpu", "\($0)") } ?? ("thread", "\(vcpu.thread)")
                    writer.sample("_total", labels, [name], counts.total)
                }
            }
        }
    }

    private func writeHistogram(
        _ writer: inout MetricsWriter, _ labels: [[UInt8]], _ name: String, help: String,
        _ counts: (LiveMachine) -> ExitCounts?
    ) {
        writer.family(name, .histogram, unit: "seconds", help: help)
        for (machine, labels) in zip(machines, labels) {
            guard let counts = counts(machine) else { continue }
            if histograms == .reason {
                for reason in counts.reasons {
                    guard let times = reason.times, times.durations.count == Self.bounds.count + 1 else { continue }
                    writer.histogram(labels, reason, of: counts, times.durations, cycles: times.cycles)
                }
            } else if let cycles = counts.cycles {
                let durations = counts.durations
                guard durations.count == Self.bounds.count + 1 else { continue }
                writer.histogram(labels, nil, of: counts, durations, cycles: cycles)
            }
        }
    }

    /// `vm="web",pid="17"`; of a process's second VM and those after it `,machine="2"`.
    private static func labels(_ machines: [LiveMachine]) -> [[UInt8]] {
        machines.map { machine in
            var labels: [UInt8] = []
            MetricsWriter.append([("vm", machine.name), ("pid", "\(machine.process)")], to: &labels)
            if machine.number > 1 { MetricsWriter.append([("machine", "\(machine.number)")], to: &labels) }
            return labels
        }
    }
}

/// Lines of one of the two formats, a family after the other.
private struct MetricsWriter {
    enum Kind: String {
        case counter, gauge, histogram, info
    }

    typealias Labels = [(name: String, value: String)]

    let format: MetricsDocument.Format
    let toNanoseconds: (UInt64) -> UInt64
    let sink: (UnsafeRawBufferPointer) -> Void
    private var buffer: [UInt8] = []
    private var name: [UInt8] = []
    /// `reason="..."`, by vocabulary and code.
    private var reasons: [UInt64: [UInt8]] = [:]
    private static let size = 1 << 16

    init(
        format: MetricsDocument.Format, toNanoseconds: @escaping (UInt64) -> UInt64,
        sink: @escaping (UnsafeRawBufferPointer) -> Void
    ) {
        self.format = format
        self.toNanoseconds = toNanoseconds
        self.sink = sink
        buffer.reserveCapacity(Self.size + 4096)
    }

    mutating func family(_ name: String, _ kind: Kind, unit: String? = nil, help: String) {
        self.name = Array(name.utf8)
        switch format {
        case .openMetrics:
            append("# TYPE \(name) \(kind.rawValue)\n")
            if let unit { append("# UNIT \(name) \(unit)\n") }
            append("# HELP \(name) \(help)\n")
        case .text:
            // There a counter is called as its samples are, and an info is a gauge.
            let full = name + (kind == .counter ? "_total" : kind == .info ? "_info" : "")
            append("# HELP \(full) \(help)\n# TYPE \(full) \(kind == .info ? "gauge" : kind.rawValue)\n")
        }
    }

    mutating func finish() {
        if format == .openMetrics { append("# EOF\n") }
        flush()
    }

    mutating func sample(_ suffix: StaticString, _ labels: Labels, _ value: UInt64) {
        sample(suffix, [], labels, value)
    }

    mutating func sample(_ suffix: StaticString, _ machine: [UInt8], _ labels: Labels, _ value: UInt64) {
        begin(suffix, machine)
        Self.append(labels, to: &buffer)
        end(value)
    }

    mutating func sample(
        _ suffix: StaticString, _ machine: [UInt8], _ reason: ExitCounts.Reason, of counts: ExitCounts, _ value: UInt64
    ) {
        begin(suffix, machine)
        append(reason, of: counts)
        end(value)
    }

    mutating func seconds(_ suffix: StaticString, _ labels: Labels, nanoseconds: UInt64) {
        begin(suffix, [])
        Self.append(labels, to: &buffer)
        end(nanoseconds: nanoseconds)
    }

    mutating func seconds(_ suffix: StaticString, _ machine: [UInt8], _ labels: Labels, cycles: UInt64) {
        begin(suffix, machine)
        Self.append(labels, to: &buffer)
        end(nanoseconds: toNanoseconds(cycles))
    }

    mutating func seconds(
        _ suffix: StaticString, _ machine: [UInt8], _ reason: ExitCounts.Reason, of counts: ExitCounts, cycles: UInt64
    ) {
        begin(suffix, machine)
        append(reason, of: counts)
        end(nanoseconds: toNanoseconds(cycles))
    }

    /// - Parameter durations: one more than the bounds.
    mutating func histogram(
        _ machine: [UInt8], _ reason: ExitCounts.Reason?, of counts: ExitCounts, _ durations: [UInt64], cycles: UInt64
    ) {
        var sum: UInt64 = 0
        for (index, count) in durations.enumerated() {
            sum &+= count
            begin("_bucket", machine)
            if let reason { append(reason, of: counts) }
            let bounds = MetricsDocument.bounds
            Self.append([("le", index < bounds.count ? bounds[index].label : "+Inf")], to: &buffer)
            end(sum)
        }
        begin("_sum", machine)
        if let reason { append(reason, of: counts) }
        end(nanoseconds: toNanoseconds(cycles))
        begin("_count", machine)
        if let reason { append(reason, of: counts) }
        end(sum)
    }

    private mutating func begin(_ suffix: StaticString, _ machine: [UInt8]) {
        buffer.append(contentsOf: name)
        suffix.withUTF8Buffer { buffer.append(contentsOf: $0) }
        buffer.append(UInt8(ascii: "{"))
        buffer.append(contentsOf: machine)
    }

    private mutating func append(_ reason: ExitCounts.Reason, of counts: ExitCounts) {
        let key = UInt64(counts.vocabulary?.rawValue ?? 0) << 33 | (reason.code.map { UInt64($0) } ?? 1 << 32)
        if reasons[key] == nil {
            var bytes: [UInt8] = []
            Self.append("reason", counts.name(of: reason), to: &bytes)
            reasons[key] = bytes
        }
        Self.separate(&buffer)
        buffer.append(contentsOf: reasons[key] ?? [])
    }

    private mutating func end(_ value: UInt64) {
        close()
        number(value)
        endLine()
    }

    /// In seconds, to the last ns.
    private mutating func end(nanoseconds: UInt64) {
        close()
        number(nanoseconds / 1_000_000_000)
        buffer.append(UInt8(ascii: "."))
        number(nanoseconds % 1_000_000_000, digits: 9)
        endLine()
    }

    private mutating func close() {
        if buffer.last == UInt8(ascii: "{") {
            buffer.removeLast()
        } else {
            buffer.append(UInt8(ascii: "}"))
        }
        buffer.append(UInt8(ascii: " "))
    }

    private mutating func endLine() {
        buffer.append(UInt8(ascii: "\n"))
        if buffer.count >= Self.size { flush() }
    }

    private mutating func flush() {
        buffer.withUnsafeBytes { sink($0) }
        buffer.removeAll(keepingCapacity: true)
    }

    private mutating func append(_ text: String) {
        buffer.append(contentsOf: text.utf8)
    }

    private mutating func number(_ value: UInt64, digits: Int = 1) {
        let start = buffer.count
        var (rest, written) = (value, 0)
        while rest > 0 || written < digits {
            buffer.append(UInt8(ascii: "0") + UInt8(rest % 10))
            rest /= 10
            written += 1
        }
        buffer[start...].reverse()
    }

    static func append(_ labels: Labels, to bytes: inout [UInt8]) {
        for label in labels {
            separate(&bytes)
            append(label.name, label.value, to: &bytes)
        }
    }

    /// A comma before all labels but the first.
    private static func separate(_ bytes: inout [UInt8]) {
        if let last = bytes.last, last != UInt8(ascii: "{") { bytes.append(UInt8(ascii: ",")) }
    }

    /// `name="value"`, with what the formats want escaped.
    private static func append(_ name: String, _ value: String, to bytes: inout [UInt8]) {
        bytes.append(contentsOf: name.utf8)
        bytes.append(contentsOf: "=\"".utf8)
        for byte in value.utf8 {
            switch byte {
            case UInt8(ascii: "\\"), UInt8(ascii: "\""): bytes.append(contentsOf: [UInt8(ascii: "\\"), byte])
            case UInt8(ascii: "\n"): bytes.append(contentsOf: "\\n".utf8)
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }
}
