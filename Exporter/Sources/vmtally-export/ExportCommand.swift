// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import HostView
import LiveView
import NIOCore
import NIOPosix
import Reports

/// `vmtally export`, a program of its own.
@main
struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vmtally export",
        abstract: "Serves the exits of this host's VMs to Prometheus, as OpenMetrics.",
        discussion: """
            Counters by reason and histograms of how long exits took for each VM, totals for each vCPU, at /metrics, \
            until a signal ends it (docs/fleet.md). Once it counts it gives up all capabilities; then it listens.
            """,
        version: Release.version)

    @Option(
        help: ArgumentHelp(
            "Where to listen: an IP address and a port. Other hosts can reach any but a loopback address.",
            valueName: "addr:port"))
    var listen = ListenAddress.usual

    @Option(help: "Histograms: of each vm, of each VM and reason, or none.")
    var histograms = MetricsDocument.Histograms.vm

    @Option(help: "Who counts: auto, module, bpf, tracefs or statistics.")
    var collector = CollectorChoice.auto

    @Option(
        help: ArgumentHelp(
            "Room for so many vCPUs in the kernel, 200 KB each; twice as many as run now, and 128 at least, otherwise.",
            valueName: "n"))
    var vcpus: Int?

    func validate() throws {
        guard vcpus.map({ (1...65_536).contains($0) }) ?? true else {
            throw ValidationError("--vcpus takes a number from 1 to 65536.")
        }
    }

    static func main() {
        // Swift finds its arguments by way of /proc.
        guard !CommandLine.arguments.isEmpty else {
            exit(withError: ExportFailure("the command line is read by way of /proc: mount -t proc none /proc"))
        }
        main(nil)
    }

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        let running = RunningMachine.all()
        // Room for VMs to come is made once.
        let vcpus = vcpus ?? max(128, 2 * running.reduce(0) { $0 + $1.vcpus })
        let (collector, refusals) = try collector.make(.everything, vcpus: vcpus)
        for refusal in refusals { warn("not by \(refusal)") }
        // Before the capabilities go: CAP_SYS_PTRACE is the right to see other users' VMs.
        var live = LiveMachines(collector)
        live.learn(running)
        try Capabilities.drop()
        let source = HostMetrics(live, histograms: histograms)
        if !listen.isLoopback {
            warn(
                "\(listen) may be reached from other hosts: whoever reaches it reads the names and exits of all VMs")
        }
        var failure: (any Error)?
        MultiThreadedEventLoopGroup.withCurrentThreadAsEventLoop { loop in
            let server = MetricsServer(source, on: loop)
            Self.tidy(source, loop.assumeIsolated())
            EndingSignal.wait(on: loop) { stop(loop) }
            server.listen(listen).assumeIsolated().whenComplete { result in
                switch result {
                case .success(let channel):
                    let address = channel.localAddress.flatMap { address in
                        address.ipAddress.flatMap { ip in address.port.map { ListenAddress(host: ip, port: $0) } }
                    }
                    print("vmtally export: http://\(address ?? listen)/metrics, counted by \(collector.name)")
                    fflush(nil)
                case .failure(let error):
                    failure = ExportFailure(Self.told(error, listen))
                    stop(loop)
                }
            }
        }
        if let failure { throw failure }
    }

    private static func told(_ error: any Error, _ address: ListenAddress) -> String {
        guard let error = error as? IOError else { return "\(address): \(error)" }
        let remedy =
            switch error.errnoCode {
            case EACCES: ": choose a port from 1024 on: whoever listens has no rights left"
            case EADDRINUSE: ": another program listens there: choose another port"
            case EADDRNOTAVAIL: ": choose an address that this host has"
            default: ""
            }
        return "\(address): \(String(cString: strerror(error.errnoCode)))\(remedy)"
    }

    private static func tidy(_ source: HostMetrics, _ loop: NIOIsolatedEventLoop) {
        loop.scheduleTask(in: .seconds(10)) {
            do { try source.tidy(at: .now()) } catch { warn("\(error)") }
            tidy(source, loop)
        }
    }
}
