// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import KVM
import Machine
import Outcomes
import Rendering
import Reports
import ThisHost

/// `vmtally host`
struct HostCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "host",
        abstract: "What this host offers to virtual machines, what is missing, and how to get it.",
        discussion: """
            Prints the processor, the kernel, KVM's backend and module parameters, every KVM_CHECK_EXTENSION by name, \
            and the ways in which a guest's CPUID can be answered live. Ends with status 1 when KVM cannot be used, \
            after printing what is known all the same.
            """
    )

    @OptionGroup var documents: DocumentOptions

    @Option(help: ArgumentHelp("KVM's device.", valueName: "path"), completion: .file())
    var device = "/dev/kvm"

    func validate() throws {
        guard !device.isEmpty else { throw ValidationError("--device takes the path of a device.") }
    }

    func run() throws {
        let (kvm, probe) = Self.ask(device)
        var report = HostReport(
            facts: HostFacts(), path: device, file: HostFacts.DeviceFile(path: device), kvm: kvm, probe: probe,
            exitModule: Self.exitModule())
        report.tool = VMTally.tool
        try documents.open().write(json: report.json(), csv: report.csv)
        if !documents.takeStandardOutput {
            try write(report.text(width: Terminal.proseColumns), to: "-")
        }
        if case .failure(let problem) = kvm {
            throw Failure(problem.what + (report.device.remedy.map { ". \($0)" } ?? ""))
        }
    }

    private static func ask(_ path: String) -> (Result<HostReport.KVM, HostReport.Problem>, LiveCPUIDProbe) {
        do throws(KVMError) {
            let system = try System(path: path)
            let kvm = HostReport.KVM(
                apiVersion: System.apiVersion,
                capabilities: capabilities(system),
                cpuidFaulting: faulting(system))
            return (.success(kvm), probe(system))
        } catch {
            return (.failure(HostReport.Problem(error)), LiveCPUIDProbe())
        }
    }

    /// All that have a name, and those newer than the names that this kernel has: numbers ascend.
    private static func capabilities(_ system: borrowing System) -> [(number: Int32, name: String, value: Int32)] {
        var found: [(number: Int32, name: String, value: Int32)] = []
        for capability in Capability.all {
            found.append((capability.rawValue, capability.name, system.check(capability)))
        }
        let end = (found.last?.number ?? 0) + 1
        for capability in (end..<end + 64).map(Capability.init(rawValue:)) {
            let value = system.check(capability)
            if value != 0 { found.append((capability.rawValue, capability.name, value)) }
        }
        return found
    }

    private static func exitModule() -> HostReport.ExitModule {
        guard let list = try? ExitModule().list() else { return HostReport.ExitModule(loaded: ExitModule.isLoaded) }
        return HostReport.ExitModule(
            loaded: true, rules: list.rules,
            vms: list.vms.map { vm in .init(pid: vm.pid, name: vm.name, vcpus: vm.vcpus, exits: vm.exits) })
    }

    private static func probe(_ system: borrowing System) -> LiveCPUIDProbe {
        do throws(MachineError) {
            let host = (try? system.supportedCPUID()).map { HostLeafSupport(system, supported: $0) }
            return LiveCPUIDProbe(try BreakpointSupport.probe(system), host: host ?? .none)
        } catch {
            let outcome = LiveCPUIDProbe.Outcome.fails("the trial did not run: \(error)")
            return LiveCPUIDProbe(hardwareBreakpoint: outcome, cpuidFaulting: outcome)
        }
    }

    /// Bit 31 of MSR_PLATFORM_INFO among KVM's feature MSRs (kvm/api.rst 4.3); nil on kernels that do not list it.
    private static func faulting(_ system: borrowing System) -> Bool? {
        (try? system.featureMSRs([0xCE]))?.first.map { $0 >> 31 & 1 == 1 }
    }
}

extension HostReport.Problem {
    init(_ error: KVMError) {
        var bare = error
        bare.remedy = nil
        let kind: Kind =
            switch error.errno {
            case ENOENT, ENODEV, ENXIO: .absent
            case EACCES, EPERM: .denied
            default: .other
            }
        self.init(what: bare.description, remedy: error.remedy, kind: kind)
    }
}
