// SPDX-License-Identifier: Apache-2.0
import BootRecords
import ExitStats
import Glibc
import HostView
import Linux
import Machine

/// One boot in a new machine of ours.
struct BuiltInBoot {
    let setup: BootSetup

    /// - Parameters:
    ///   - name: tells apart the traces of this process.
    ///   - stoppable: gets what calls the boot off.
    func run(
        _ name: String, _ stoppable: (@escaping @Sendable (Int32) -> Void) -> Void
    ) throws -> BootOutcome {
        var configuration = MachineConfiguration()
        configuration.cpus = setup.cpus
        configuration.memoryMiB = setup.memoryMiB
        // Trying out what breakpoints can do here takes exits of its own.
        configuration.liveCPUID = .off
        configuration.serial = .capture
        configuration.devices.console = setup.console.device
        configuration.prefaults = setup.prefaults
        configuration.timeoutMilliseconds = max(1, Int(setup.timeout * 1000))
        configuration.sandbox.scope = .machineThreads
        configuration.bootMarker.text = setup.markerText.map { Array($0.utf8) } ?? []
        configuration.bootMarker.endsRun = !setup.wantsLog
        // A text on the console stops no histogram in the kernel.
        let trace = setup.markerText == nil ? try? BootTrace(name) : nil
        try trace?.followThisThread()
        let kernel = try FileImage(path: setup.kernel)
        let machine: Machine
        if let initrd = setup.initrd {
            let disk = try FileImage(path: initrd)
            machine = try Machine(
                configuration,
                .linux(LinuxImages(kernel: kernel.bytes, initrd: disk.bytes, commandLine: setup.commandLine)))
        } else {
            machine = try Machine(
                configuration, .linux(LinuxImages(kernel: kernel.bytes, commandLine: setup.commandLine)))
        }
        stoppable(machine.interrupt)
        let result = try machine.run()
        let console = String(decoding: machine.output.captured, as: UTF8.self)
        if case .interrupted(let signal) = result.end {
            throw BootInterrupted(signal: signal)
        }
        guard let boot = result.boot else {
            throw BootError(Self.explain(result.end, console, before: setup.markerText))
        }
        var outcome = BootOutcome(
            nanoseconds: boot.nanoseconds,
            userspace: boot.userspace,
            hardware: boot.kernel.values["exits"].map { ExitCounts(source: .statistics, total: $0) })
        outcome.console = console
        if case .populated(let reason)? = result.prefault {
            outcome.remark = "RAM was populated, not mapped: \(reason)"
        }
        outcome.tscKHz = machine.tscKHz
        if let trace {
            try outcome.add(trace)
        }
        if let hardware = boot.hardware {
            outcome.hardware = hardware
        }
        // With one vCPU nothing runs between the marker and the reading of KVM's statistics.
        if setup.cpus == 1, let counted = boot.kernel.values["exits"], let total = outcome.hardware?.total,
            counted != total
        {
            outcome.remark = "KVM's statistics count \(counted) VM exits"
        }
        return outcome
    }

    private static func explain(_ end: RunEnd, _ console: String, before text: String?) -> String {
        let marker =
            text.map { "\($0) on its console" } ?? "a write to port 0xF5: is vmtally-probe in its initramfs?"
        let last = console.split(whereSeparator: \.isNewline).suffix(5).map { "\n  | \($0)" }.joined()
        let how =
            switch end {
            case .failed(let failure): "failed: \(failure)"
            default: "ended (\(end.reason))"
            }
        return "the guest \(how) before its marker, \(marker)\(last)"
    }
}

/// The user has had enough.
struct BootInterrupted: Error {
    let signal: Int32
}

extension BootOutcome {
    /// What the tracepoints have counted, of whatever VMM.
    mutating func add(_ trace: BootTrace) throws(TraceError) {
        let userspace = try trace.userspaceExits()
        let exits = try trace.virtualMachineExits()
        guard let begin = trace.begin ?? (userspace.series + (exits?.series ?? [])).map(\.time).min() else { return }
        let dropped = userspace.droppedFromSeries + (exits?.droppedFromSeries ?? 0)
        if dropped > 0 {
            remark = "no exits over time or by phase: the kernel's histogram lost \(dropped)"
        }
        func relative(_ exits: TracedExits) -> [(reason: String, time: UInt64, count: UInt64)] {
            exits.series.map { (exits.name($0.code), $0.time > begin ? $0.time - begin : 0, $0.count) }
        }
        if dropped == 0 {
            userspaceSeries = relative(userspace)
        }
        guard let exits else { return }
        if dropped == 0 {
            hardwareSeries = relative(exits)
        }
        addresses = try trace.addresses()
        hardware = exits.counts
    }
}
