// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import HostView
import Reports

extension CollectorChoice: ExpressibleByArgument {}

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

extension LiveMachine {
    /// A VM's exits and what /proc tells of its process.
    init(_ exits: MachineExits, _ facts: RunningMachine) {
        self.init(
            name: facts.name, program: facts.program, process: exits.process, machine: exits.machine,
            pod: facts.pod,
            vcpus: exits.vcpus.map {
                VCPU(
                    vcpu: $0.identity.vcpu, thread: $0.identity.thread, hardware: $0.hardware, userspace: $0.userspace,
                    guestCycles: $0.guestCycles)
            },
            hasEnded: exits.hasEnded, vcpuCount: exits.vcpuCount, hardware: exits.hardware, nested: exits.nested,
            userspace: exits.userspace,
            guestCycles: exits.guestCycles)
    }
}

/// The VMs whose exits a collector tells, with their names.
struct LiveMachines {
    let collector: any ExitCollector
    private var ledger = ExitLedger()
    private var facts: [Int32: RunningMachine] = [:]
    /// VMs of other users are not told.
    private let isAllowed: (RunningMachine) -> Bool

    init(_ collector: any ExitCollector) {
        self.collector = collector
        let user = getuid()
        let seesAll = geteuid() == 0 || Capabilities.effective.contains(.sysPtrace)
        isAllowed = { seesAll || $0.user == user }
    }

    /// VMs that are known before they have had an exit: one that ends soon is not to be read of any more.
    mutating func learn(_ machines: [RunningMachine]) {
        for machine in machines { facts[machine.process] = machine }
    }

    /// By process. One that has ended is told once.
    mutating func read(_ detail: CollectorDetail) throws -> [LiveMachine] {
        let machines = ledger.add(try collector.read(detail))
        var seen: [Int32: RunningMachine] = [:]
        let live = machines.map { exits in
            let thread = (exits.vcpus.first ?? exits.ended)?.threadName ?? ""
            let known = facts[exits.process] ?? RunningMachine(known: exits.process, threadName: thread)
            seen[exits.process] = known
            return (LiveMachine(exits, known), known)
        }
        // A number that is not in use any more may be another's next.
        facts = facts.filter { kill($0.key, 0) == 0 || errno != ESRCH }.merging(seen) { $1 }
        return live.filter { isAllowed($0.1) }.map { $0.0 }
    }

    var losses: LiveDocument.Losses {
        let losses = collector.losses()
        return LiveDocument.Losses(skipped: losses.skipped, withoutRoom: losses.withoutRoom)
    }
}
