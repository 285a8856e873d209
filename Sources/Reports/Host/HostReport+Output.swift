// SPDX-License-Identifier: Apache-2.0
import FoundationEssentials
import Rendering

extension HostReport {
    /// One JSON object, keys sorted, in a form that does not change without a new `schema`.
    public func json() throws -> String {
        try encodeAsJSON(self)
    }

    /// A line for each KVM_CHECK_EXTENSION.
    public var csv: CSV {
        var csv = CSV(header: ["number", "capability", "value", "subject"])
        for capability in capabilities ?? [] {
            csv.add(["\(capability.number)", capability.name, "\(capability.value)", "\(capability.subject)"])
        }
        return csv
    }

    /// For people: what matters most first.
    ///
    /// - Parameter width: columns of the terminal.
    public func text(width: Int = .max) -> String {
        var lines: [String] = []
        func row(_ label: String, _ value: String) { lines.append("  \(padded(label, 10))\(value)") }

        lines.append("Host")
        let kind = [cpu.vendor, cpu.virtualization, cpu.virtualMachine ? "itself a virtual machine" : nil]
        row("CPU", ([cpu.name ?? "unknown"] + kind.compactMap(\.self)).joined(separator: ", "))
        row("Kernel", kernel ?? "unknown")
        if device.usable {
            row(device.path, "usable, API version \(device.apiVersion ?? 0)")
        } else {
            row(device.path, "NOT USABLE: \(device.problem ?? "unknown reason")")
            if let file = device.file { row("", file.text) }
        }
        row("Backend", "\(backend.name ?? "unknown"): \(backend.evidence)")
        for note in backend.notes { row("", note) }

        if let exitModule {
            row("Module", exitModule.text)
            for rule in exitModule.rules ?? [] { row("", rule) }
            for vm in exitModule.vms ?? [] {
                row("", "process \(vm.pid) (\(vm.name)): \(vm.vcpus) vCPUs, \(vm.exits) VM exits")
            }
        }

        if let liveCPUID {
            lines += ["", "Ways to answer the guest's CPUID live, best first"]
            for mode in liveCPUID.modes {
                row(mode.mode, "\(padded(mode.possible.rawValue, 10))\(mode.covers)")
                row("", "\(padded("", 10))\(mode.why)")
            }
            row("auto", "resolves to \(liveCPUID.auto)")
        }
        lines += ["", "Missing, and how to get it"]
        if missing.isEmpty { lines.append("  nothing that vmtally needs") }
        for item in missing {
            lines += ["  \(item.what)", "      costs   \(item.cost)", "      remedy  \(item.remedy)"]
        }
        if let capabilities {
            for subject in CapabilityGuide.Subject.allCases where subject != .otherArchitectures {
                lines += ["", "KVM_CHECK_EXTENSION: \(subject.title)"]
                lines += Self.table(capabilities.filter { $0.subject == subject })
            }
            lines += Self.others(capabilities.filter { $0.subject == .otherArchitectures })
        } else {
            lines += ["", "KVM_CHECK_EXTENSION: not asked, because \(device.path) is not usable"]
        }
        lines += parameterLines()
        return folded(lines, width: width).joined(separator: "\n") + "\n"
    }

    private static func table(_ capabilities: [Capability]) -> [String] {
        let width = (capabilities.map(\.name.count).max() ?? 0) + 2
        return capabilities.map { capability in
            let name = padded(capability.name, width)
            guard capability.isPresent else {
                return "  \(padded("-", 9))\(name)not here: \(capability.cost ?? "")"
            }
            let bits = capability.bits.map { " [\($0.joined(separator: " "))]" } ?? ""
            return "  \(padded(value(capability), 9))\(name)\(capability.gives ?? "")\(bits)"
        }
    }

    private static func value(_ capability: Capability) -> String {
        switch CapabilityGuide.guide(capability.name)?.value {
        case .count?: "\(capability.value)"
        case .bits?: "0x" + String(UInt32(bitPattern: capability.value), radix: 16)
        case .flag?, nil: capability.value == 1 ? "yes" : "\(capability.value)"
        }
    }

    /// Names only, since there is nothing to say of them: on x86 they are all absent.
    private static func others(_ capabilities: [Capability]) -> [String] {
        guard !capabilities.isEmpty else { return [] }
        var lines = ["", "KVM_CHECK_EXTENSION: \(CapabilityGuide.Subject.otherArchitectures.title)"]
        lines += capabilities.filter(\.isPresent).map { "  \(padded("\($0.value)", 9))\($0.name)" }
        let absent = capabilities.filter { !$0.isPresent }.map { String($0.name.dropFirst("KVM_CAP_".count)) }
        guard !absent.isEmpty else { return lines }
        lines.append("  not here (each name with KVM_CAP_ before it):")
        var line = "   "
        for name in absent {
            if line.count + name.count > 110 {
                lines.append(line)
                line = "   "
            }
            line += " \(name)"
        }
        return lines + [line]
    }

    private func parameterLines() -> [String] {
        guard let modules else { return ["", "Module parameters: unknown, /sys/module cannot be read"] }
        guard !modules.isEmpty else { return ["", "Module parameters: none, no module of KVM in /sys/module"] }
        var lines = ["", "Module parameters"]
        for module in modules {
            for parameter in module.parameters {
                guard let meaning = parameter.meaning else { continue }
                lines.append("  \(padded("\(module.name).\(parameter.name) = \(parameter.value)", 42))\(meaning)")
            }
        }
        return lines
    }
}

extension HostReport.ExitModule {
    fileprivate var text: String {
        guard loaded else { return "vmtally.ko is not loaded: VM exits of other VMMs' guests are not counted" }
        guard let rules else { return "vmtally.ko is loaded; whom it allows is told to root alone" }
        return rules.isEmpty ? "vmtally.ko is loaded, and no VM allowed" : "vmtally.ko is loaded, and tells"
    }
}
