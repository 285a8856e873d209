// SPDX-License-Identifier: Apache-2.0
import CLinux
import ExitStats
import Glibc
import KVM
import Linux

extension Machine {
    /// Runs the guest to its end.
    public func run() throws(MachineError) -> RunResult {
        configuration.extension?.attach(
            MachineParts(
                vm: vm, memory: memory, tallies: tallies, host: host, ring: vcpus.first?.loop.vcpu.coalescedRing,
                statistics: statistics))
        let first = statistics.now()
        let start = monotonicNanoseconds()
        recorder?.begin(at: start)
        let end = try runThreads()
        recorder?.tick()
        let wall = monotonicNanoseconds() - start
        let before = statistics.counters(at: first)
        let kernel = statistics.read().difference(since: before)
        return RunResult(
            end: end, wallNanoseconds: wall, vcpus: tallies.map { $0.snapshot() }, places: placeSnapshots(),
            anchors: configuration.places.contains(.rip) ? anchors() : [], kernel: kernel,
            hardware: host.exits(kernel), time: kernel.accounting.map(VCPUTime.init),
            boot: marker.note.map { note in
                let kernel = note.kernel.difference(since: before)
                return BootReading(
                    nanoseconds: note.nanoseconds - start,
                    userspace: note.tallies.sum() ?? .none(of: .vmm, .kvm),
                    kernel: kernel, hardware: host.exits(kernel))
            },
            prefault: prefault, sandbox: sandbox.state,
            leaf: LeafReport(
                mode: liveCPUID.name,
                answered: vcpus.reduce(LeafReport.Answered()) { $0 + $1.loop.rare.interposer.answered },
                last: vcpus.compactMap { $0.loop.rare.interposer.last }.last,
                unmatchedSites: Set(vcpus[0].loop.rare.interposer.searches.map(\.name)).sorted(),
                readings: vcpus.flatMap { $0.loop.rare.interposer.readings },
                meaningless: vcpus.map { $0.loop.rare.interposer.meaningless }.reduce(into: [:]) {
                    $0.merge($1, uniquingKeysWith: +)
                }),
            withheldMessages: devices.messages.withheld, intervals: recorder?.intervals ?? [],
            marks: recorder?.marks ?? [])
    }

    private func placeSnapshots() -> [PlaceAxis: PlaceSnapshot] {
        configuration.places.reduce(into: [:]) { snapshots, axis in
            snapshots[axis] = vcpus.compactMap(\.places).reduce(into: PlaceSnapshot()) { $0.merge($1.snapshot(axis)) }
        }
    }

    /// How the run ended; a reset or halt behind a panic is one.
    private var ending: RunEnd {
        let end = control.end ?? .halted
        return output.hasPanicked && (end == .reset || end == .halted) ? .panicked : end
    }

    private func runThreads() throws(MachineError) -> RunEnd {
        let signals = try lifted { () throws(SystemError) in try EndingSignals(configuration.endingSignals) }
        devices.input?.begin()
        var helpers: [(loop: EventLoop, thread: Thread)] = []
        var threads: [Thread] = []
        defer {
            MachineDevices.stop(helpers)
            devices.input?.restore()
        }
        let counting = configuration.countsExits
        // Devices with a thread of their own open descriptors that both sides must see.
        let ownDescriptors = devices.loops.isEmpty
        let gate = try sandbox.begin()
        do throws(MachineError) {
            try lifted { () throws(SystemError) in
                for (index, loop) in devices.loops.enumerated() {
                    let intruder = index == 0 ? configuration.intruder : nil
                    let thread = try Thread(name: index == 0 ? "devices" : "disk\(index - 1)") { [sandbox, control] in
                        guard sandbox.enter(.devices, .devicesThread, control) else { return }
                        intruder?()
                        loop.run()
                    }
                    helpers.append((loop, thread))
                }
                for vcpu in vcpus {
                    threads.append(
                        try Thread(name: "vcpu\(vcpu.loop.index)") { [sandbox, control] in
                            if ownDescriptors {
                                // An ioctl on a table that nobody shares takes no reference to the file: two locked
                                // instructions an exit less, 1 % of an exit's time. Where it is not allowed it is not
                                // needed.
                                _ = vmtally_unshare_descriptors()
                            }
                            guard sandbox.enter(.vCPU, .vCPUThread, control) else { return }
                            gate.wait()
                            vcpu.run(counting: counting)
                        })
                }
            }
            try sandbox.enterMain()
        } catch {
            control.finish(.timeout)
            gate.open()
            threads.forEach { $0.join() }
            throw error
        }
        gate.open()
        let deadline = deadline(milliseconds: configuration.timeoutMilliseconds)
        control.wait(until: deadline, signals, recorder: recorder) { output.writeWhatWaits() }
        output.endOfRun()
        threads.forEach { $0.join() }
        let end = ending
        // A slow reader gets what is left, unless time is over or the user has had enough.
        while !output.flush(), !end.isCalledOff, monotonicNanoseconds() < deadline, signals.next() == nil {}
        return end
    }
}
