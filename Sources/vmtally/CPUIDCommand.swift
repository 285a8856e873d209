// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import KVM
import Rendering
import Reports
import ThisHost

/// `vmtally cpuid`
struct CPUIDCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cpuid",
        abstract: "The CPUID that KVM can give a guest, raw and decoded.",
        discussion: """
            Names each KVM_FEATURE_* and KVM_HINTS_* bit, and says what a missing one costs the guest. --raw prints \
            the lines of `cpuid -1 -r`.
            """
    )

    @OptionGroup var documents: DocumentOptions

    @Flag(help: "Print registers only, as `cpuid -1 -r` does.")
    var raw = false

    @Option(help: ArgumentHelp("Only this leaf, such as 0x40000001.", valueName: "number"), transform: parseLeaf)
    var leaf: UInt32?

    @Option(name: .customLong("of"), help: "Whose table: supported, emulated or vcpu.")
    var source = CPUIDReport.Source.supported

    @Option(help: ArgumentHelp("KVM's device.", valueName: "path"), completion: .file())
    var device = "/dev/kvm"

    func validate() throws {
        if documents.takeStandardOutput && raw {
            throw ValidationError("--raw and a document cannot both have standard output: give one of them a file.")
        }
    }

    func run() throws {
        let table: CPUIDTable
        do throws(KVMError) {
            table = try Self.table(source, device)
        } catch {
            // Only KVM knows what it gives a guest; what can be said without it, and why, is `vmtally host`'s to say.
            let facts = HostFacts()
            let report = HostReport(
                facts: facts, path: device, file: HostFacts.DeviceFile(path: device),
                kvm: .failure(HostReport.Problem(error)))
            if !documents.takeStandardOutput && !raw {
                try write("Host CPU: \(facts.cpu ?? "unknown"), \(facts.vendor ?? "vendor unknown")\n", to: "-")
            }
            let remedy = report.device.remedy.map { ". \($0)" } ?? ""
            throw Failure("\(report.device.problem ?? "")\(remedy) The rest of what is known: `vmtally host`.")
        }
        let whole = CPUIDReport(source: source, leaves: table.entries.map(CPUIDReport.Leaf.init))
        var report = leaf.map(whole.only) ?? whole
        report.tool = VMTally.tool
        if let leaf, report.leaves.isEmpty {
            throw Failure(
                "Leaf 0x\(String(leaf, radix: 16)) is not in the \(source.rawValue) table. "
                    + "`vmtally cpuid --of \(source.rawValue) --raw` lists the leaves that are.")
        }
        try documents.open().write(json: report.json(), csv: report.csv)
        if !documents.takeStandardOutput {
            try write(raw ? report.raw() : report.text(width: Terminal.proseColumns), to: "-")
        }
    }

    private static func table(_ source: CPUIDReport.Source, _ path: String) throws(KVMError) -> CPUIDTable {
        let system = try System(path: path)
        switch source {
        case .supported: return try system.supportedCPUID()
        case .emulated: return try system.emulatedCPUID()
        case .vcpu:
            let machine = try system.createVM()
            let vcpu = try machine.createVCPU(id: 0)
            try vcpu.setCPUID(try system.supportedCPUID())
            return try vcpu.cpuid()
        }
    }
}

extension CPUIDReport.Source: Choice {}

extension CPUIDReport.Leaf {
    fileprivate init(_ entry: kvm_cpuid_entry2) {
        self.init(
            leaf: entry.function,
            subleaf: entry.flags & UInt32(KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0 ? entry.index : nil,
            eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx)
    }
}

private func parseLeaf(_ text: String) throws -> UInt32 {
    guard let value = number(text) else {
        throw ValidationError("'\(text)' is not a CPUID leaf: give a number such as 0x40000001.")
    }
    return value
}
