// SPDX-License-Identifier: Apache-2.0
import Machine

/// What the libraries' errors mean to someone at a command line: which option to turn to.
enum Advice {
    static func explained(_ error: any Error) -> any Error {
        guard let error = error as? MachineError, case .refused(let refusal) = error,
            let option = option(refusal.subject)
        else { return error }
        return Failure("\(refusal) (\(option))")
    }

    private static func option(_ subject: Refusal.Subject) -> String? {
        switch subject {
        case .memory: "--memory"
        case .vcpus: "--cpus"
        case .interruptControllers: "--irqchip, --acpi"
        case .commandLine: "--append"
        case .liveCPUID: "--live-cpuid"
        case .placesOfCode: "--by rip"
        case .cpuid: "--cpuid"
        case .network: "--net tap=NAME"
        case .devices: "--disk, --net, --rng, --console"
        case .bench: nil
        }
    }
}
