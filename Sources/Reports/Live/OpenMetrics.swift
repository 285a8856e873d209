// SPDX-License-Identifier: Apache-2.0
import ExitStats

/// Exits of VMs as a scrape of Prometheus: the text format, or OpenMetrics 1.0 where it is asked for.
public struct OpenMetrics: Sendable {
    /// Upper bounds of the durations' buckets, ns: the same on every host, so that a fleet's can be added up.
    public static let bounds: [UInt64] = [
        500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 10_000_000, 100_000_000,
        1_000_000_000,
    ]

    public static let textType = "text/plain; version=0.0.4; charset=utf-8"
    public static let openMetricsType = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    private let isOpenMetrics: Bool
    private let hertz: Double
    private var bytes: [UInt8] = []

    /// The whole scrape.
    ///
    /// - Parameters:
    ///   - kHz: of the TSC.
    ///   - lost: events that are not in the counts.
    public static func scrape(
        _ machines: [LiveMachine], collector: String, version: String, kHz: UInt64, lost: UInt64, isOpenMetrics: Bool
    ) -> [UInt8] {
        var text = OpenMetrics(isOpenMetrics: isOpenMetrics, hertz: Double(max(kHz, 1)) * 1000)
        text.bytes.reserveCapacity(4096 + machines.count * 6144)
        text.write(machines, collector: collector, version: version, lost: lost)
        return text.bytes
    }

    private init(isOpenMetrics: Bool, hertz: Double) {
        self.isOpenMetrics = isOpenMetrics
        self.hertz = hertz
    }

    private mutating func write(_ machines: [LiveMachine], collector: String, version: String, lost: UInt64) {
        info(
            "vmtally_build", "The exporter and what counts for it.", "version=\"\(version)\",collector=\"\(collector)\""
        )
        counter("vmtally_lost_events", "Events that are in no count here: above 0 nothing is whole.")
        sample("vmtally_lost_events_total", "", "\(lost)")

        // A VM's labels are the same in all its lines.
        let labels = machines.map { machine in
            "vm=\"\(Self.escaped(machine.name))\",pid=\"\(machine.process)\""
                + (machine.pod.map { ",pod=\"\(Self.escaped($0))\"" } ?? "")
        }
        let pairs = Array(zip(machines, labels))
        counter("vmtally_vm_exits", "VM exits by reason; level 2: out of a nested guest.")
        for (machine, label) in pairs {
            reasons("vmtally_vm_exits_total", label + ",level=\"1\"", machine.hardware)
            reasons("vmtally_vm_exits_total", label + ",level=\"2\"", machine.nested)
        }
        counter("vmtally_vm_exit_seconds", "Time in the kernel by reason, without userspace and halts.")
        for (machine, label) in pairs {
            times("vmtally_vm_exit_seconds_total", label + ",level=\"1\"", machine.hardware)
            times("vmtally_vm_exit_seconds_total", label + ",level=\"2\"", machine.nested)
        }
        counter("vmtally_userspace_exits", "Returns of KVM_RUN by reason.")
        for (machine, label) in pairs { reasons("vmtally_userspace_exits_total", label, machine.userspace) }
        counter("vmtally_userspace_exit_seconds", "Time between two KVM_RUN by reason.")
        for (machine, label) in pairs { times("vmtally_userspace_exit_seconds_total", label, machine.userspace) }
        counter("vmtally_vcpu_seconds", "Time of the vCPUs by state.")
        for (machine, label) in pairs {
            guard let times = machine.times else { continue }
            for (state, cycles) in [
                ("guest", times.guest), ("kernel", times.kernel), ("userspace", times.userspace),
                ("halted", times.halted),
            ] {
                sample("vmtally_vcpu_seconds_total", label + ",state=\"\(state)\"", seconds(cycles))
            }
        }
        counter("vmtally_vcpu_vm_exits", "VM exits by vCPU.")
        for (machine, label) in pairs {
            for vcpu in machine.vcpus {
                guard let hardware = vcpu.hardware else { continue }
                sample("vmtally_vcpu_vm_exits_total", label + vcpu.label, "\(hardware.total)")
            }
        }
        counter("vmtally_vcpu_userspace_exits", "Returns of KVM_RUN by vCPU.")
        for (machine, label) in pairs {
            for vcpu in machine.vcpus {
                guard let userspace = vcpu.userspace else { continue }
                sample("vmtally_vcpu_userspace_exits_total", label + vcpu.label, "\(userspace.total)")
            }
        }
        header(
            "vmtally_vm_exit_duration_seconds", "Time in the kernel a VM exit, without userspace and halts.",
            "histogram")
        for (machine, label) in pairs {
            histogram("vmtally_vm_exit_duration_seconds", label, machine.kernelDurations, machine.hardware)
        }
        header("vmtally_userspace_exit_duration_seconds", "Time between two KVM_RUN.", "histogram")
        for (machine, label) in pairs {
            histogram("vmtally_userspace_exit_duration_seconds", label, machine.userspaceDurations, machine.userspace)
        }
        if isOpenMetrics { add("# EOF\n") }
    }

    private mutating func reasons(_ name: String, _ label: String, _ counts: ExitCounts?) {
        guard let counts else { return }
        guard counts.vocabulary != nil else { return sample(name, label + ",reason=\"all\"", "\(counts.total)") }
        for reason in counts.reasons {
            sample(name, "\(label),reason=\"\(counts.name(of: reason))\"", "\(reason.count)")
        }
    }

    private mutating func times(_ name: String, _ label: String, _ counts: ExitCounts?) {
        guard let counts else { return }
        for reason in counts.reasons {
            guard let times = reason.times else { continue }
            sample(name, "\(label),reason=\"\(counts.name(of: reason))\"", seconds(times.cycles))
        }
    }

    /// - Parameter durations: exits up to each bound and above the one before; the last are above all.
    private mutating func histogram(_ name: String, _ label: String, _ durations: [UInt64], _ counts: ExitCounts?) {
        guard durations.count == Self.bounds.count + 1, let cycles = counts?.cycles else { return }
        var sum: UInt64 = 0
        for (index, count) in durations.enumerated() {
            sum &+= count
            let bound = index < Self.bounds.count ? Self.seconds[index] : "+Inf"
            sample(name + "_bucket", "\(label),le=\"\(bound)\"", "\(sum)")
        }
        sample(name + "_count", label, "\(sum)")
        sample(name + "_sum", label, seconds(cycles))
    }

    private static let seconds = bounds.map { "\(Double($0) / 1e9)" }

    private func seconds(_ cycles: UInt64) -> String { "\(Double(cycles) / hertz)" }

    private mutating func counter(_ family: String, _ help: String) {
        header(isOpenMetrics ? family : family + "_total", help, "counter")
    }

    private mutating func info(_ family: String, _ help: String, _ labels: String) {
        header(isOpenMetrics ? family : family + "_info", help, isOpenMetrics ? "info" : "gauge")
        sample(family + "_info", labels, "1")
    }

    private mutating func header(_ name: String, _ help: String, _ type: String) {
        add("# HELP \(name) \(help)\n# TYPE \(name) \(type)\n")
    }

    private mutating func sample(_ name: String, _ labels: String, _ value: String) {
        add(name)
        if !labels.isEmpty {
            add("{")
            add(labels)
            add("}")
        }
        add(" ")
        add(value)
        add("\n")
    }

    private mutating func add(_ text: String) {
        bytes.append(contentsOf: text.utf8)
    }

    /// A label's value: backslash, quote and newline escaped (OpenMetrics 1.0, "ABNF").
    static func escaped(_ text: String) -> String {
        guard text.contains(where: { "\\\"\n".contains($0) }) else { return text }
        return text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing("\n", with: "\\n")
    }
}

extension LiveMachine.VCPU {
    fileprivate var label: String { ",vcpu=\"\(vcpu.map { "\($0)" } ?? "thread \(thread)")\"" }
}
