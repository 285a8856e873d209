// SPDX-License-Identifier: Apache-2.0
import Linux
import Machine
import Synchronization

/// One VM of the bench, running in a thread of its own.
final class BenchMachine {
    private let machine: Machine
    private let host: BenchHost
    private let thread: Thread
    private let end: EndBox

    private final class EndBox: Sendable {
        let end = Mutex<RunEnd?>(nil)
    }

    var tscKHz: UInt32 { machine.tscKHz }

    init(
        _ environment: BenchEnvironment, _ elf: UnsafeRawBufferPointer, cpus: Int, pins: [Int32],
        support: BreakpointSupport, hostLeaves: HostLeafSupport
    ) throws(MachineError) {
        let cpus = environment.apic == 0 ? 1 : min(environment.cpus, cpus)
        let host = try BenchHost(cpus: cpus, haltPoll: environment.haltPoll, pins: pins)
        var configuration = MachineConfiguration()
        configuration.cpus = cpus
        configuration.memoryMiB = BenchLayout.memoryMiB
        // The module counts those whose guests it answers, the kernel's series all of ours.
        configuration.liveCPUID =
            if case (.off, .module) = (environment.live, hostLeaves) { .host } else { environment.live }
        configuration.irqchip = environment.apic != 0 ? .kernel : .none
        configuration.serial = .capture
        configuration.extension = host
        // The guest programs them.
        configuration.hasPCTimers = true
        if environment.filtersMSRs {
            configuration.userspaceMSRs = [FaultingMSRs.miscFeaturesEnables...FaultingMSRs.miscFeaturesEnables]
        }
        let machine = try Machine(configuration, elf: elf, support: support)
        let end = EndBox()
        let shared = Shared(machine: machine)
        thread = try lifted { () throws(SystemError) in
            try Thread(name: "bench-\(environment.name)") {
                let result: RunEnd
                do throws(MachineError) {
                    result = try shared.machine.run().end
                } catch {
                    result = .failed(GuestFailure(vcpu: 0, cause: "\(error)", state: ""))
                }
                end.end.withLock { $0 = result }
                host.end()
            }
        }
        self.machine = machine
        self.host = host
        self.end = end
    }

    /// The machine goes to its thread; this side only stops it and reads what the guest has said.
    private struct Shared: @unchecked Sendable {
        let machine: Machine
    }

    func run(
        _ request: BenchRequest, milliseconds: Int, prepare: (GuestMemory) -> Void
    ) throws(BenchHost.Stop) -> BenchHost.Block {
        try host.run(request, milliseconds: milliseconds, prepare: prepare)
    }

    /// Ends the run and waits for it.
    ///
    /// - Returns: how it ended, in words.
    @discardableResult
    func stop() -> String {
        let before = end.end.withLock { $0 }
        host.end()
        if before == nil {
            machine.stop()
        }
        thread.join()
        switch before ?? end.end.withLock({ $0 }) {
        case .failed(let failure): return failure.cause
        case .exited: return exception ?? "the guest gave up"
        case let end?: return "the run ended: \(end.reason)"
        case nil: return "the run has not ended"
        }
    }

    /// The exception that the guest reports before it ends itself, by name.
    private var exception: String? {
        let text = String(decoding: machine.output.captured, as: UTF8.self)
        guard let line = text.split(separator: "\n").last(where: { $0.hasPrefix("exception ") }) else { return nil }
        let vector = line.dropFirst("exception ".count).prefix { $0 != "," }
        let names = ["0": "#DE", "1": "#DB", "6": "#UD", "8": "#DF", "13": "#GP", "14": "#PF"]
        return "the guest got \(names[String(vector)] ?? "exception \(vector)")"
    }
}
