// SPDX-License-Identifier: Apache-2.0
import Foundation
import NIOCore
import Reports
import Testing

@testable import vmtally_export

/// docs/fleet.md says what there is.
@Suite("docs/fleet.md")
struct DocumentationTests {
    private let text: String
    private let promtool = "/usr/bin/promtool"
    private static let missing = Tools.missing("/usr/bin/promtool")

    init() throws {
        text = try String(contentsOf: root.appending(path: "docs/fleet.md"), encoding: .utf8)
    }

    @Test("the table has every metric, and no other")
    func metrics() throws {
        let table = text.split(separator: "\n").filter { $0.hasPrefix("| `vmtally_") }
        let told = Set(
            table.flatMap { row in
                (row.split(separator: "|").first ?? "").matches(of: /`(vmtally_[a-z_]+)`/).map { String($0.1) }
            })
        var document = ""
        try MadeUpMetrics(machines: 1).document(at: .now()).write(.text) {
            document += String(decoding: $0, as: UTF8.self)
        }
        let types = document.split(separator: "\n").filter { $0.hasPrefix("# TYPE ") }
        let there = Set(types.map { String($0.split(separator: " ")[2]) })
        #expect(told == there)
    }

    @Test("promtool takes its configurations", .enabled(if: missing == nil, "\(missing ?? "")"))
    func configurations() throws {
        // Blocks between lines of three backquotes, without the indentation that they have in a list.
        let blocks = text.components(separatedBy: "```").enumerated().filter { $0.offset % 2 == 1 }.map(\.element)
        let rules = root.appending(path: "Exporter/prometheus/vmtally.rules.yml").path
        var checked = 0
        for block in blocks {
            let lines = block.split(separator: "\n").map(String.init)
            guard let first = lines.first(where: { $0.contains(": ") || $0.hasSuffix(":") }) else { continue }
            let indentation = first.prefix { $0 == " " }.count
            var yaml = lines.map { String($0.dropFirst(min(indentation, $0.prefix { $0 == " " }.count))) }
                .joined(separator: "\n").replacing("/usr/share/vmtally/prometheus/vmtally.rules.yml", with: rules)
            if first.contains("- job_name:") { yaml = "scrape_configs:\n" + yaml }
            guard yaml.hasPrefix("scrape_configs:") || yaml.hasPrefix("remote_write:") else { continue }
            let folder = try Folder()
            let file = folder.url.appending(path: "prometheus.yml")
            try Data((yaml + "\n").utf8).write(to: file)
            let result = try Tools.run(promtool, ["check", "config", file.path])
            #expect(result.status == 0, "\(yaml)\n\(result.output)")
            checked += 1
        }
        #expect(checked == 3)
    }
}
