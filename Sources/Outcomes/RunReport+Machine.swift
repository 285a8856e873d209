// SPDX-License-Identifier: Apache-2.0
import ExitStats
import KVM
import Machine
import Reports

extension RunReport {
    /// What came of a machine's run.
    package init(_ result: RunResult, of machine: Machine) {
        self.init(
            end: End(reason: result.end.reason, exitStatus: result.end.exitStatus),
            wallNanoseconds: result.wallNanoseconds, memoryMiB: machine.configuration.memoryMiB,
            tscKHz: machine.tscKHz, vcpus: result.vcpus,
            kernel: Kernel(values: result.kernel.values, missing: result.kernel.missing),
            hardware: result.hardware, time: result.time,
            leaf: Leaf(
                mode: result.leaf.mode, answered: result.leaf.answered.total, last: result.leaf.last,
                readings: result.leaf.readings, meaningless: result.leaf.meaningless.values.reduce(0, &+)),
            prefault: result.prefault.map { prefault in
                switch prefault {
                case .mapped: .mapped
                case .populated(let reason): .populated(reason)
                }
            },
            sandbox: result.sandbox.map { Sandbox(landlock: $0.landlock, jail: $0.jail) })
        intervals = result.intervals.map(Interval.init)
        marks = result.marks.map(Mark.init)
    }
}

extension RunReport.Interval {
    package init(_ interval: RunInterval) {
        self.init(
            start: interval.start, end: interval.end, userspace: interval.userspace, vmExits: interval.vmExits)
    }
}

extension RunReport.Mark {
    package init(_ mark: RunMark) {
        self.init(nanoseconds: mark.nanoseconds, name: mark.name, userspaceExits: mark.userspaceExits)
    }
}
