import ArgumentParser
import ExitStats
import Glibc
import KVM
import Machine
import ProbeImage
import Reports

struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Run the built-in guest and show the tally from both sides."
    )

    @Option(help: "Number of vCPUs.")
    var cpus = 1

    @Option(help: "How CPUID leaf 0x4FFFFFFF is answered: auto, fault, sites, host or off.")
    var liveCpuid = LiveCPUIDMode.auto

    func run() throws {
        var configuration = MachineConfiguration()
        configuration.cpus = cpus
        configuration.liveCPUID = liveCpuid
        configuration.serial = .capture
        configuration.timeoutMilliseconds = 60_000
        configuration.endingSignals = [SIGINT, SIGTERM]
        let machine = try Machine(configuration, elf: ProbeImage.elf)
        let result = try machine.run()
        let serial = String(decoding: machine.output.captured, as: UTF8.self)
        print(serial)
        print(RunTable(result, tscKHz: machine.tscKHz).lines().joined(separator: "\n"))
        if case .failed(let failure) = result.end {
            throw Failure("\(failure)")
        }
        print(result.end)
    }
}
