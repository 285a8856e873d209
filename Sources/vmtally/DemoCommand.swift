// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import KVM
import Linux
import Machine
import Outcomes
import ProbeImage
import Rendering
import Reports
import ThisHost

struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        _superCommandName: "vmtally",
        abstract: "Run the built-in guest and show its tally from both sides.",
        discussion: """
            The guest reads CPUID leaf 0x4FFFFFFF in ring 0 and ring 3, makes known numbers of exits and checks the \
            differences. Without /dev/kvm the same demo runs in an emulated host, where the lab is at hand.
            """
    )

    @Option(help: "Number of vCPUs.")
    var cpus = 1

    @Option(help: "How CPUID leaf 0x4FFFFFFF is answered: auto, fault, sites, host or off.")
    var liveCpuid = LiveCPUIDMode.auto

    @Flag(help: "Also show what the guest wrote to its serial port.")
    var serial = false

    @OptionGroup var documents: DocumentOptions

    @OptionGroup(title: "Sandbox")
    var sandbox: SandboxOptions

    func run() throws {
        do throws(KVMError) {
            _ = try System()
        } catch {
            warn("\(error)")
            try EmulatedHost.runAgain()
        }
        var configuration = MachineConfiguration()
        configuration.cpus = cpus
        configuration.liveCPUID = liveCpuid
        configuration.serial = .capture
        configuration.timeoutMilliseconds = 60_000
        configuration.endingSignals = EndingSignal.all
        configuration.sandbox = try sandbox.configuration()
        let isConfined = configuration.sandbox.scope == .process
        // What comes before the guest begins ends its run.
        var signals = try EndingSignals(EndingSignal.all)
        let files = try documents.open(isConfined ? .full : .none)
        let width = Terminal.columns(STDOUT_FILENO)
        let machine = try Machine(configuration, elf: ProbeImage.elf)
        // After the run no file can be opened any more.
        let host = HostIdentity(tscKHz: machine.tscKHz)
        let result = try machine.run()
        if case .interrupted = result.end { signals.stayBlocked() }
        let run = RunReport(result, of: machine)
        let table = RunTable(run, emulator: host.emulator, width: width)
        let document = RunDocument(run, host: host, version: VMTally.version)
        // However it ended: they say so.
        try files.write(json: document.json(), csv: table.csv)
        if case .failed(let failure) = result.end {
            throw Failure("\(failure)")
        }
        if case .interrupted(let signal) = result.end { throw ExitCode(128 + signal) }
        guard let probe = ProbeReport(serial: machine.output.captured) else {
            throw Failure("the guest ended (\(result.end.reason)) without its report")
        }
        let report = DemoReport(run, probe: probe)
        if !documents.takeStandardOutput {
            if serial {
                print(String(decoding: machine.output.captured, as: UTF8.self))
            }
            print("host: \(host.cpu), Linux \(host.kernel), \(host.backend)")
            print("live CPUID: \(machine.liveCPUID.name)" + (machine.liveCPUID.shortfall.map { " (\($0))" } ?? ""))
            print("")
            print(report.lines(width: width).joined(separator: "\n"))
            print("")
            print(table.lines().joined(separator: "\n"))
        }
        guard report.isRight else {
            throw Failure("the two views of the tally differ: please report this with the output of vmtally host")
        }
    }
}
