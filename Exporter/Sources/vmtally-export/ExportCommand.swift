// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import FlyingFox
import FlyingSocks
import Dispatch
import Foundation
import HostView
import LiveView
import Reports

extension CollectorChoice: ExpressibleByArgument {}

@main
struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vmtally-export",
        abstract: "Exits of this host's VMs for Prometheus (OpenMetrics), at /metrics.",
        discussion: """
            Needs CAP_BPF and CAP_PERFMON to start and nothing to go on: it gives up all capabilities before it \
            listens (docs/fleet.md).
            """,
        version: "0.1.0")

    @Option(help: ArgumentHelp("Where to listen: an IPv4 address and a port.", valueName: "address:port"))
    var listen = "127.0.0.1:9435"

    @Option(help: "Who counts: auto, module, bpf, tracefs or statistics.")
    var collector = CollectorChoice.auto

    func validate() throws {
        guard Self.address(listen) != nil else {
            throw ValidationError("--listen takes an IPv4 address and a port, such as 127.0.0.1:9435.")
        }
    }

    static func address(_ text: String) -> sockaddr_in? {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let port = UInt16(parts[1]) else { return nil }
        return try? .inet(ip4: String(parts[0]), port: port)
    }

    func run() throws {
        guard let address = Self.address(listen) else { return }
        let running = RunningMachine.all()
        let source: Source
        do {
            let (collector, refusals) = try collector.make(
                .everything, vcpus: running.reduce(0) { $0 + $1.vcpus })
            for refusal in refusals { Self.warn("not by \(refusal)") }
            Self.warn("http://\(listen)/metrics, counted by \(collector.name)")
            source = Source(collector, running)
            // Of this thread, and so of those that it starts: there is no other yet.
            try Capabilities.drop()
        } catch {
            Self.warn("\(error)")
            throw ExitCode(1)
        }
        let listen = listen
        Task.detached {
            do {
                try await Self.server(address, source).run()
            } catch {
                Self.warn("\(listen): \(error)")
            }
            Foundation.exit(1)
        }
        dispatchMain()
    }

    private static func server(_ address: sockaddr_in, _ source: Source) async -> HTTPServer {
        let server = HTTPServer(address: address, timeout: 10, logger: .disabled)
        await server.appendRoute("GET /metrics") { request in
            let accepts = request.headers[HTTPHeader("Accept")] ?? ""
            let isOpenMetrics = accepts.contains("application/openmetrics-text")
            do {
                let body = try await source.scrape(isOpenMetrics: isOpenMetrics)
                let type = isOpenMetrics ? OpenMetrics.openMetricsType : OpenMetrics.textType
                return HTTPResponse(statusCode: .ok, headers: [.contentType: type], body: Data(body))
            } catch {
                return HTTPResponse(statusCode: .internalServerError, body: Data("\(error)\n".utf8))
            }
        }
        return server
    }

    private static func warn(_ text: String) {
        FileHandle.standardError.write(Data("vmtally-export: \(text)\n".utf8))
    }
}

/// The collector and what it has told: one reader at a time.
actor Source {
    private var live: LiveMachines
    private let bounds = OpenMetrics.bounds.map(TSCScale.host.cycles)

    init(_ collector: sending any ExitCollector, _ running: [RunningMachine]) {
        live = LiveMachines(collector)
        live.learn(running)
    }

    func scrape(isOpenMetrics: Bool) throws -> [UInt8] {
        let machines = try live.read(CollectorDetail(bounds: bounds))
        let losses = live.collector.losses()
        return OpenMetrics.scrape(
            machines, collector: live.collector.name, version: "0.1.0", kHz: TSCScale.host.kHz,
            lost: losses.skipped &+ losses.withoutRoom, isOpenMetrics: isOpenMetrics)
    }
}
