// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering

extension CPUIDReport {
    /// One JSON object, keys sorted, in a form that does not change without a new `schema`.
    public func json() throws -> String {
        try encodeAsJSON(self)
    }

    /// The lines that `cpuid -1 -r` prints, so that its users and their scripts can compare.
    public func raw() -> String {
        "CPU:\n" + leaves.map { "   \($0.rawLine)\n" }.joined()
    }

    /// The same, with only one leaf and what is decoded from it.
    public func only(leaf: UInt32) -> CPUIDReport {
        var report = self
        report.leaves = leaves.filter { $0.leaf == leaf }
        report.features = features.filter { $0.leaf == leaf }
        if leaf != 0 { (report.vendor, report.highestLeaf) = (nil, nil) }
        if leaf != 0x8000_0000 { report.highestExtendedLeaf = nil }
        if leaf != 0x8000_0008 { (report.physicalAddressBits, report.linearAddressBits) = (nil, nil) }
        if leaf & ~1 != 0x4000_0000 { report.kvm = nil }
        if !TallyLeaf.range.contains(leaf) { report.tally = nil }
        return report
    }

    /// A line for each leaf, registers in hexadecimal.
    public var csv: CSV {
        var csv = CSV(header: ["leaf", "subleaf", "eax", "ebx", "ecx", "edx"])
        for leaf in leaves {
            csv.add([hex(leaf.leaf), cell(leaf.subleaf)] + [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx].map(hex))
        }
        return csv
    }

    /// For people.
    ///
    /// - Parameter width: columns of the terminal.
    public func text(width: Int = .max) -> String {
        let leafLines = leaves.map { "  \($0.rawLine)\($0.title.map { "  \($0)" } ?? "")" }
        let sections = [
            overview(), kvm.map(text) ?? [], tally.map(text) ?? [], featureLines(), ["Leaves"] + leafLines,
        ]
        return ([[source.title]] + sections.filter { !$0.isEmpty })
            .map { folded($0, width: width).joined(separator: "\n") + "\n" }.joined(separator: "\n")
    }

    private func overview() -> [String] {
        var lines: [String] = []
        func row(_ label: String, _ value: String?) {
            if let value { lines.append("  \(padded(label, 24))\(value)") }
        }
        row("Vendor", vendor)
        row("Highest leaf", highestLeaf.map(hex))
        row("Highest extended leaf", highestExtendedLeaf.map(hex))
        if let physicalAddressBits, let linearAddressBits {
            row("Address bits", "\(physicalAddressBits) physical, \(linearAddressBits) linear")
        }
        if let kvm {
            row("Signature 0x40000000", "\(kvm.signature), leaves to \(hex(kvm.highestLeaf))")
        } else if source != .emulated, highestLeaf != nil, leaves.contains(where: { $0.leaf != 0 }) {
            row("Signature 0x40000000", "none: a guest cannot know that it runs on KVM, and uses no KVM feature")
        }
        return lines
    }

    private func text(_ kvm: KVM) -> [String] {
        ["KVM features, leaf 0x40000001 EAX"] + kvm.features.map(line)
            + kvm.unknownFeatures.map { "  yes  bit \($0): newer than this version of vmtally" }
            + ["", "KVM hints, leaf 0x40000001 EDX (a VMM sets them, KVM does not)"] + kvm.hints.map(line)
    }

    private func featureLines() -> [String] {
        // From a table of extras nothing is missing.
        let isExtra = source == .emulated
        let groups = isExtra ? features.filter { $0.bits.contains(where: \.present) } : features
        guard !groups.isEmpty else { return [] }
        return ["Features that bear on virtualization"]
            + groups.flatMap { group in
                let present = group.bits.filter(\.present).map(\.name)
                let absent = group.bits.filter { !$0.present }.map(\.name)
                let place = padded("\(hex(group.leaf)).\(group.subleaf) \(group.register)", 20)
                let has = "  \(place)has  \(present.isEmpty ? "none" : present.joined(separator: " "))"
                guard !absent.isEmpty, !isExtra else { return [has] }
                return [has, "  \(padded("", 20))not  \(absent.joined(separator: " "))"]
            }
    }

    private func line(_ bit: Bit) -> String {
        let name = padded(bit.name, 36)
        return bit.present
            ? "  yes  \(name)\(bit.meaning)" : "  -    \(name)not there; costs: \(bit.cost ?? bit.meaning)"
    }

    private func text(_ tally: Tally) -> [String] {
        guard tally.signed else { return ["vmtally: leaf 0x4fffff00 does not carry the signature VMTallyExits"] }
        func yes(_ value: Bool?) -> String { value == true ? "yes" : "no" }
        return [
            "vmtally's leaves, ABI version \(tally.version.map(String.init) ?? "unknown")",
            "  live \(yes(tally.live)), per reason \(yes(tally.perReason)), per vCPU \(yes(tally.perVCPU))",
            "  TSC \(tally.tscKhz.map { $0 == 0 ? "unknown" : "\($0) kHz" } ?? "unknown"), "
                + "reasons \(tally.vocabulary ?? "unknown")",
            "  exits \(tally.exits.map(String.init) ?? "unknown"), cycles \(tally.cycles.map(String.init) ?? "unknown")",
        ]
    }
}

extension CPUIDReport.Leaf {
    var rawLine: String {
        let subleaf = String(subleaf ?? 0, radix: 16)
        let registers = [("eax", eax), ("ebx", ebx), ("ecx", ecx), ("edx", edx)]
        return "\(hex(leaf)) 0x\(subleaf.count < 2 ? "0" : "")\(subleaf): "
            + registers.map { "\($0)=\(hex($1))" }.joined(separator: " ")
    }
}

/// Eight digits, as `0x4fffff01`.
private func hex(_ value: UInt32) -> String {
    let digits = String(value, radix: 16)
    return "0x" + String(repeating: "0", count: 8 - digits.count) + digits
}
