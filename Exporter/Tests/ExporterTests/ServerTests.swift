// SPDX-License-Identifier: Apache-2.0
import Foundation
import Glibc
import NIOCore
import NIOPosix
import Reports
import Testing

@testable import vmtally_export

@Suite("server", .serialized)
struct ServerTests {
    @Test("a scraper gets what it asks for, one request after the other")
    func scrapes() throws {
        let server = try RunningServer()
        let client = try Client(port: server.port)
        for (accept, type) in [
            ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text"),
            ("*/*", "text/plain"),
        ] {
            client.send("GET /metrics HTTP/1.1\r\nHost: h\r\nAccept: \(accept)\r\n\r\n")
            let response = try client.response()
            #expect(response.status == 200 && response.headers.contains("Content-Type: \(type)"))
            #expect(response.body.contains("vmtally_vm_exits_total{vm=\"instance-0\""))
            #expect(response.body.hasSuffix("# EOF\n") == (type != "text/plain"))
        }
        client.send("HEAD /metrics?a=b HTTP/1.1\r\nHost: h\r\n\r\n")
        // What a HEAD announces does not follow; the next response does.
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        var bytes = [UInt8](repeating: 0, count: 4096)
        var text = ""
        while !text.hasSuffix("/metrics\n") {
            let count = recv(client.descriptor, &bytes, bytes.count, 0)
            try #require(count > 0)
            text += String(decoding: bytes.prefix(count), as: UTF8.self)
        }
        #expect(text.components(separatedBy: "HTTP/1.1 200 OK").count == 3 && !text.contains("vmtally_build"))
        withExtendedLifetime(server) {}
    }

    @Test(
        "what is no scrape is told so",
        arguments: [
            ("GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n", 404), ("POST /metrics HTTP/1.1\r\nHost: h\r\n\r\n", 405),
            ("GET /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", 413),
            ("\u{16}\u{3}\u{1}\u{0}", 400), ("GET /metrics HTTP/1.1\r\nbad header\r\n\r\n", 400),
        ])
    func refused(request: String, status: Int) throws {
        let server = try RunningServer()
        let client = try Client(port: server.port)
        client.send(request)
        #expect(try client.response().status == status)
        if status != 404 { #expect(client.isClosed()) }
        withExtendedLifetime(server) {}
    }

    @Test("headers without end are cut off", arguments: ["a", "a: b\r\n"])
    func endlessHeaders(piece: String) throws {
        let server = try RunningServer()
        let client = try Client(port: server.port)
        client.send("GET /metrics HTTP/1.1\r\n")
        let piece = String(repeating: piece, count: 4096 / piece.utf8.count)
        var pieces = 0
        // The kernel's buffers take a few MB before a peer that has closed is noticed.
        while pieces < 16_384, client.send(piece) { pieces += 1 }
        #expect(pieces < 16_384)
        #expect(client.isClosed())
        #expect(try Client.get(server.port, "/metrics").status == 200)
    }

    @Test("a request that comes byte by byte, and one that never comes, have a moment to end")
    func slow() throws {
        var limits = ServerLimits()
        limits.request = .milliseconds(200)
        let server = try RunningServer(limits)
        let silent = try Client(port: server.port)
        let slow = try Client(port: server.port)
        var bytes = 0
        while bytes < 20_000, slow.send("G") {
            bytes += 1
            usleep(10_000)
        }
        #expect(bytes < 20_000)
        #expect(silent.isClosed())
        withExtendedLifetime(server) {}
    }

    @Test("who takes no response is not waited for")
    func slowReader() throws {
        var limits = ServerLimits()
        limits.response = .milliseconds(300)
        // More than the kernel's buffers take.
        let server = try RunningServer(machines: 5000, limits)
        let reader = try Client(port: server.port)
        reader.send("GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        while try server.connections > 0 { usleep(10_000) }
        #expect(try Client.get(server.port, "/").status == 200)
    }

    @Test("responses under way are few, and the last to ask is served")
    func manySlowReaders() throws {
        let server = try RunningServer(machines: 5000)
        let readers = try (0..<16).map { _ in try Client(port: server.port) }
        for reader in readers { reader.send("GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n") }
        let response = try Client.get(server.port, "/metrics")
        #expect(response.status == 200 && response.body.contains("instance-4999"))
        while try server.connections > ServerLimits().responses + 1 { usleep(10_000) }
        withExtendedLifetime(readers) {}
    }

    @Test("of thousands of connections a few are kept, and a scraper among them is served")
    func manyConnections() throws {
        let server = try RunningServer()
        // Ours as well: a few hundred at a time.
        var open: [Client] = []
        for index in 0..<5000 {
            if open.count == 400 { open.removeFirst(200) }
            open.append(try Client(port: server.port))
            if index % 1000 == 999 { #expect(try Client.get(server.port, "/metrics").status == 200) }
        }
        #expect(try server.connections <= ServerLimits().connections)
        withExtendedLifetime(open) {}
    }

    @Test("scrapes in quick succession get one reading")
    func cached() throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let readings = try loop.submit {
            let source = SlowMetrics()
            let server = MetricsServer(source, on: loop)
            for _ in 0..<10 { _ = try server.document(.text) }
            return source.readings
        }.wait()
        #expect(readings == 1)
    }

    @Test(
        "where to listen",
        arguments: [
            ("127.0.0.1:80", ListenAddress(host: "127.0.0.1", port: 80), true),
            ("[::1]:20479", ListenAddress(host: "::1", port: 20479), true),
            ("0.0.0.0:1", ListenAddress(host: "0.0.0.0", port: 1), false), ("localhost:80", nil, false),
            ("127.0.0.1", nil, false), ("127.0.0.1:65536", nil, false), (":80", nil, false), ("::1:80", nil, false),
            ("", nil, false),
        ] as [(String, ListenAddress?, Bool)])
    func address(text: String, address: ListenAddress?, isLoopback: Bool) {
        #expect(ListenAddress(argument: text) == address)
        if let address {
            #expect(address.description == text)
            #expect(address.isLoopback == isLoopback)
        }
    }
}

/// Takes its time: what it gives is kept for four times as long.
private final class SlowMetrics: MetricsSource {
    private let metrics = MadeUpMetrics(machines: 1)
    var readings: Int { metrics.readings }

    func document(at now: NIODeadline) throws -> MetricsDocument {
        usleep(1_000_000)
        return try metrics.document(at: now)
    }
}
