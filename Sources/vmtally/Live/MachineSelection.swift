// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import HostView

extension CollectorChoice: Choice {}

/// Gives up, once attached, all that watching takes no part in.
func confine(_ collector: any ExitCollector, _ noSandbox: Bool) throws {
    if noSandbox {
        try Capabilities.drop()
    } else {
        try ObserverSandbox.enter(
            collector, advice: "This is a mistake of ours: please report it. --no-sandbox runs without.")
    }
}

/// Which of the host's VMs a word of the command line means.
enum MachineSelection {
    /// - Parameter word: a pid, or a VM's name.
    static func find(_ word: String) throws -> RunningMachine {
        if let process = Int32(word), process > 0 {
            guard let machine = RunningMachine(process: process) else {
                throw Failure("process \(process) has no VM that this user may see")
            }
            return machine
        }
        let all = RunningMachine.all()
        let found = all.filter { $0.name == word.printable() }
        guard let machine = found.first else {
            let names = all.map { "\($0.name) (\($0.process))" }.joined(separator: ", ")
            throw Failure("no VM is called \(word.printable()): \(names.isEmpty ? "none runs" : "there are \(names)")")
        }
        guard found.count == 1 else {
            let processes = found.map { "\($0.process)" }.joined(separator: ", ")
            throw Failure("\(found.count) VMs are called \(machine.name): give one of the pids \(processes)")
        }
        return machine
    }
}
