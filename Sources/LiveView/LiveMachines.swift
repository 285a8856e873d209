// SPDX-License-Identifier: Apache-2.0
import Glibc
import HostView
import Reports

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
            userspace: exits.userspace, guestCycles: exits.guestCycles, resets: exits.resets)
    }
}

/// The VMs whose exits a collector tells, with their names.
public struct LiveMachines {
    public let collector: any ExitCollector
    private var ledger = ExitLedger()
    private var facts: [Int32: RunningMachine] = [:]
    /// A process's VMs, in the order in which they were seen.
    private var order: [Int32: [UInt64]] = [:]
    /// VMs of other users are not told.
    private let isAllowed: (RunningMachine) -> Bool

    public init(_ collector: any ExitCollector) {
        self.collector = collector
        let user = getuid()
        let seesAll = geteuid() == 0 || Capabilities.effective.contains(.sysPtrace)
        isAllowed = { seesAll || $0.user == user }
    }

    /// VMs that are known before they have had an exit: one that ends soon is not to be read of any more.
    public mutating func learn(_ machines: [RunningMachine]) {
        for machine in machines { facts[machine.process] = machine }
    }

    /// By process. One that has ended is told once.
    public mutating func read(_ detail: CollectorDetail) throws(CollectorError) -> [LiveMachine] {
        let machines = ledger.add(try collector.read(detail))
        var seen: [Int32: RunningMachine] = [:]
        let live = machines.map { exits in
            let thread = (exits.vcpus.first ?? exits.ended)?.threadName ?? ""
            let known = facts[exits.process] ?? RunningMachine(known: exits.process, threadName: thread)
            seen[exits.process] = known
            var machine = LiveMachine(exits, known)
            machine.number = number(exits)
            return (machine, known)
        }
        // A number that is not in use any more may be another's next.
        facts = facts.filter { kill($0.key, 0) == 0 || errno != ESRCH }.merging(seen) { $1 }
        order = order.filter { facts[$0.key] != nil }
        return live.filter { isAllowed($0.1) }.map { $0.0 }
    }

    /// Bounded: a process can make and end VMs all day.
    private mutating func number(_ exits: MachineExits) -> Int {
        let known = order[exits.process, default: []]
        if let index = known.firstIndex(of: exits.machine) { return index + 1 }
        guard known.count < 4096 else { return 4097 }
        order[exits.process, default: []].append(exits.machine)
        return known.count + 1
    }

    public var losses: LiveDocument.Losses {
        let losses = collector.losses()
        return LiveDocument.Losses(skipped: losses.skipped, withoutRoom: losses.withoutRoom, missed: losses.missed)
    }
}
