// SPDX-License-Identifier: Apache-2.0
import Foundation
import Glibc
import NIOCore
import Reports
import Testing

@testable import vmtally_export

@Suite("Prometheus", .serialized)
struct PrometheusTests {
    private static let promtool = "/usr/bin/promtool"
    private static let missing = Tools.missingHost("/usr/bin/prometheus")
    private static let rules = root.path + "/Exporter/prometheus/vmtally.rules.yml"

    @Test(
        "promtool has nothing to say about the metrics",
        .enabled(if: Tools.missing(promtool) == nil, "\(Tools.missing(promtool) ?? "")"))
    func metrics() throws {
        let source = MadeUpMetrics(machines: 3)
        var text = ""
        try source.document(at: .now()).write(.text) { text += String(decoding: $0, as: UTF8.self) }
        let checked = try Tools.run(Self.promtool, ["check", "metrics"], input: text)
        #expect(checked.status == 0 && checked.output.isEmpty, "\(checked.output)")
        // It would have.
        let wrong = try Tools.run(Self.promtool, ["check", "metrics"], input: text + "vmtally_x{le=\"1\"} 1\n")
        #expect(wrong.status != 0)
    }

    @Test(
        "promtool takes the rules", .enabled(if: Tools.missing(promtool) == nil, "\(Tools.missing(promtool) ?? "")"))
    func rules() throws {
        let checked = try Tools.run(Self.promtool, ["check", "rules", Self.rules])
        #expect(checked.status == 0 && checked.output.contains("SUCCESS"), "\(checked.output)")
    }

    private struct Answer: Decodable {
        struct Data: Decodable {
            struct Result: Decodable {
                let metric: [String: String]
                let value: [Value]
            }
            let result: [Result]
        }
        enum Value: Decodable {
            case time(Double)
            case text(String)

            init(from decoder: any Decoder) throws {
                let container = try decoder.singleValueContainer()
                if let time = try? container.decode(Double.self) {
                    self = .time(time)
                } else {
                    self = .text(try container.decode(String.self))
                }
            }
        }
        let status: String
        let data: Data?
        let error: String?
    }

    private static func query(_ port: Int, _ text: String) throws -> [(labels: [String: String], value: Double)] {
        let escaped = try #require(text.addingPercentEncoding(withAllowedCharacters: .alphanumerics))
        let response = try Client.get(port, "/api/v1/query?query=\(escaped)")
        let answer = try JSONDecoder().decode(Answer.self, from: Data(response.body.utf8))
        #expect(answer.status == "success", "\(text): \(answer.error ?? "")")
        return (answer.data?.result ?? []).map { result in
            guard case .text(let number)? = result.value.last else { return (result.metric, .nan) }
            return (result.metric, Double(number) ?? .nan)
        }
    }

    /// Panels' queries, with what Grafana would put in.
    private static func dashboardQueries() throws -> [String] {
        struct Dashboard: Decodable {
            struct Panel: Decodable {
                struct Target: Decodable { let expr: String }
                let targets: [Target]
            }
            let panels: [Panel]
        }
        let file = root.appending(path: "Exporter/grafana/vmtally.json")
        let dashboard = try JSONDecoder().decode(Dashboard.self, from: Data(contentsOf: file))
        return dashboard.panels.flatMap(\.targets).map {
            $0.expr.replacing("$instance", with: ".*").replacing("$vm", with: ".*")
                .replacing("$__rate_interval", with: "30s")
        }
    }

    @Test(
        "it scrapes for a minute and answers a rate by reason; rules and the dashboard find what they ask for",
        .enabled(if: missing == nil, "\(missing ?? "")"))
    func scrapes() throws {
        let folder = try Folder()
        let vm = try Background.storm(folder.url)
        let exporter = try Background(
            try Tools.exporter, ["--listen", "127.0.0.1:0", "--collector", "bpf"], folder.url)
        let port = try exporter.port()
        let configuration = """
            global:
              scrape_interval: 1s
              evaluation_interval: 1s
            rule_files: ["\(Self.rules)"]
            scrape_configs:
              - job_name: vmtally
                static_configs:
                  - targets: ["127.0.0.1:\(port)"]
            """
        let file = folder.url.appending(path: "prometheus.yml")
        try Data(configuration.utf8).write(to: file)
        let own = try Client.freePort()
        let prometheus = try Background(
            "/usr/bin/prometheus",
            [
                "--config.file=\(file.path)", "--storage.tsdb.path=\(folder.url.path)/data",
                "--web.listen-address=127.0.0.1:\(own)",
            ], folder.url)
        // With a connection each time, and without capabilities, as in service.
        #expect(try Client.get(port, "/metrics").status == 200)
        _ = try Background.wait("a minute of scrapes") {
            guard prometheus.text.contains("Server is ready to receive web requests") else { return nil as Bool? }
            let ups = try? Self.query(own, "count_over_time(up{job=\"vmtally\"}[10m])")
            return (ups?.first?.value ?? 0) >= 60 ? true : nil
        }
        // On a busy machine one may take longer than the second that it has.
        #expect(try Self.query(own, "avg_over_time(up{job=\"vmtally\"}[10m])").allSatisfy { $0.value > 0.5 })
        let pid = vm.process.processIdentifier
        let rates = try Self.query(
            own, "sum by (reason) (rate(vmtally_userspace_exits_total{pid=\"\(pid)\"}[30s]))")
        let busiest = try #require(rates.max { $0.value < $1.value })
        #expect(busiest.labels["reason"] == "KVM_EXIT_IO" && busiest.value > 1)
        let recorded = try Self.query(own, "instance_reason:vmtally_userspace_exits:rate5m{reason=\"KVM_EXIT_IO\"}")
        #expect(recorded.count == 1 && (recorded.first?.value ?? 0) > 1)
        let quantile = try Self.query(own, "instance:vmtally_userspace_exit_duration_seconds:p99_5m")
        #expect((quantile.first?.value ?? 0) > 0)
        #expect(try Self.query(own, "sum(vmtally_lost_events_total)").map(\.value) == [0])
        for query in try Self.dashboardQueries() {
            let answer = try Self.query(own, query)
            // VM exits have no tracepoint on kvm_pvm.
            #expect(!answer.isEmpty || query.contains("vmtally_vm_") || query.contains("vm_exit_"), "\(query)")
        }
        // The end that an administrator sends: at once, and without a complaint.
        kill(exporter.process.processIdentifier, SIGTERM)
        exporter.process.waitUntilExit()
        #expect(exporter.process.terminationStatus == 0, "\(exporter.text)")
        withExtendedLifetime(prometheus) {}
    }
}
