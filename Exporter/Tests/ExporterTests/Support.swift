// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Foundation
import Glibc
import HostView
import LiveView
import NIOCore
import NIOPosix
import Reports
import Testing
import ThisHost

@testable import vmtally_export

/// Files of the checkout.
let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()

/// What the made-up VMs of these tests have.
final class MadeUpMetrics: MetricsSource {
    private let machines: [LiveMachine]
    private(set) var readings = 0

    init(machines count: Int) {
        let reasons: [UInt32] = [0, 1, 7, 10, 12, 28, 30, 31, 32, 48, 52, 54]
        var times = ExitCounts.Times(cycles: 2_500_000_000, halted: 1_000_000_000)
        times.durations = [7] + [UInt64](repeating: 0, count: 12) + [1]
        let hardware = ExitCounts(
            source: .bpf, vocabulary: .vmx,
            reasons: reasons.map { ExitCounts.Reason(code: $0, count: 8, times: times) })
        let userspace = ExitCounts(
            source: .bpf, vocabulary: .kvm, reasons: [ExitCounts.Reason(code: 2, count: 8, times: times)])
        machines = (0..<count).map {
            LiveMachine(
                name: "instance-\($0)", program: "qemu", process: Int32(100 + $0),
                vcpus: [
                    LiveMachine.VCPU(vcpu: 0, thread: 1, hardware: hardware, userspace: userspace, guestCycles: 5)
                ], hardware: hardware, nested: hardware, userspace: userspace, guestCycles: 5)
        }
    }

    func document(at now: NIODeadline) throws -> MetricsDocument {
        readings += 1
        return MetricsDocument(
            version: "0", host: HostIdentity(tscKHz: 1_000_000), collector: "bpf",
            lost: LiveDocument.Losses(skipped: 0, withoutRoom: 0, missed: 0), nanoseconds: 0, machines: machines,
            toNanoseconds: { $0 }, histograms: .vm)
    }
}

/// A server on a port of its own, and its loop's thread.
final class RunningServer: Sendable {
    let port: Int
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let server: NIOLoopBound<MetricsServer>
    private let loop: any EventLoop

    init(machines: Int = 1, _ limits: ServerLimits = ServerLimits()) throws {
        let loop = group.next()
        self.loop = loop
        server = try loop.submit {
            NIOLoopBound(MetricsServer(MadeUpMetrics(machines: machines), on: loop, limits: limits), eventLoop: loop)
        }.wait()
        let channel = try loop.flatSubmit { [server] in
            server.value.listen(ListenAddress(host: "127.0.0.1", port: 0))
        }.wait()
        port = try #require(channel.localAddress?.port)
    }

    deinit {
        group.shutdownGracefully { _ in }
    }

    var connections: Int {
        get throws { try loop.submit { [server] in server.value.connectionCount }.wait() }
    }
}

/// A scraper's end of a connection.
final class Client {
    let descriptor: Int32

    init(port: Int) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(result == 0, "connect: \(String(cString: strerror(errno)))")
        // A test that would hang fails instead.
        var patience = timeval(tv_sec: 120, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    /// - Returns: false once the other end has closed.
    @discardableResult
    func send(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        return Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
    }

    /// Whether the other end closes, whatever it says before.
    func isClosed() -> Bool {
        var bytes = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = recv(descriptor, &bytes, bytes.count, 0)
            if count == 0 { return true }
            if count < 0 { return errno == ECONNRESET }
        }
    }

    /// One response.
    func response() throws -> (status: Int, headers: String, body: String) {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        var head: String?
        var length = 0
        while true {
            if head == nil, let end = bytes.firstRange(of: Array("\r\n\r\n".utf8)) {
                let text = String(decoding: bytes[..<end.lowerBound], as: UTF8.self)
                head = text
                bytes.removeFirst(end.upperBound)
                let field = text.lowercased().split(separator: "\r\n").first { $0.hasPrefix("content-length:") }
                length = field.flatMap { Int($0.split(separator: " ")[1]) } ?? 0
            }
            if let head, bytes.count >= length {
                let status = head.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
                return (status, head, String(decoding: bytes, as: UTF8.self))
            }
            let count = recv(descriptor, &chunk, chunk.count, 0)
            try #require(count > 0, "closed after \(bytes.count) bytes: \(head ?? "")")
            bytes += chunk.prefix(count)
        }
    }

    static func get(_ port: Int, _ path: String, _ headers: String = "") throws -> (
        status: Int, headers: String, body: String
    ) {
        let client = try Client(port: port)
        client.send("GET \(path) HTTP/1.1\r\nHost: localhost\r\n\(headers)\r\n")
        return try client.response()
    }
}

/// A folder that goes with its object.
final class Folder {
    let url = FileManager.default.temporaryDirectory.appending(path: "vmtally-export-\(UUID())")

    init() throws {
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    }

    deinit {
        try? FileManager.default.removeItem(at: url)
    }
}

/// Programs of this machine, and what of them a test needs.
enum Tools {
    static let isCI = ProcessInfo.processInfo.environment["CI"] != nil

    /// nil when it is there. CI must have it.
    static func missing(_ programs: String...) -> String? {
        let absent = programs.first { access($0, X_OK) != 0 }
        return isCI ? nil : absent.map { "\($0) is not there: scripts/require export" }
    }

    /// What a test beside a VM needs besides.
    static func missingHost(_ programs: String...) -> String? {
        guard geteuid() == 0, access("/dev/kvm", R_OK | W_OK) == 0 else { return "needs root and /dev/kvm" }
        return (programs + [root.path + "/build/vmtally"]).lazy.compactMap { missing($0) }.first
    }

    /// The exporter that was built with these tests, beside them.
    static var exporter: String {
        get throws {
            let ours = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
            return URL(filePath: ours).deletingLastPathComponent().appending(path: "vmtally-export").path
        }
    }

    static func run(_ program: String, _ arguments: [String], input: String = "") throws -> (
        status: Int32, output: String
    ) {
        let file = FileManager.default.temporaryDirectory.appending(path: "vmtally-input-\(UUID())")
        try Data(input.utf8).write(to: file)
        defer { try? FileManager.default.removeItem(at: file) }
        let (process, pipe) = (Process(), Pipe())
        process.executableURL = URL(filePath: program)
        process.arguments = arguments
        process.standardInput = try FileHandle(forReadingFrom: file)
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }
}

/// A process that ends with the test, whatever becomes of it.
final class Background {
    let process = Process()
    let output: URL

    init(_ program: String, _ arguments: [String], _ folder: URL) throws {
        output = folder.appending(path: "\(URL(filePath: program).lastPathComponent).log")
        try Data().write(to: output)
        let log = try FileHandle(forWritingTo: output)
        process.executableURL = URL(filePath: program)
        process.arguments = arguments
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = log
        process.standardError = log
        try process.run()
    }

    deinit {
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    var text: String { (try? String(contentsOf: output, encoding: .utf8)) ?? "" }

    /// A guest that makes so many exits.
    static func guest(_ folder: URL, cpuids: Int, outs: Int) throws -> String {
        let guest = folder.appending(path: "storm").path
        let build = try Tools.run(
            "/usr/bin/gcc",
            [
                "-nostdlib", "-static", "-no-pie", "-DCPUIDS=\(cpuids)", "-DOUTS=\(outs)", "-Wl,-Ttext=0x100000",
                "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096",
                root.path + "/Tests/LabTests/Scripts/storm.S", "-o", guest,
            ])
        try #require(build.status == 0, "\(build.output)")
        return guest
    }

    /// A VM that makes exits until it is killed.
    static func storm(_ folder: URL) throws -> Background {
        let guest = try guest(folder, cpuids: 1, outs: 2_000_000_000)
        return try Background(
            root.path + "/build/vmtally",
            ["run", "--guest", guest, "--live-cpuid", "off", "--quiet", "--timeout", "900", "--no-sandbox"], folder)
    }

    /// Of an exporter: where it listens.
    func port() throws -> Int {
        try Self.wait("the exporter") {
            text.firstMatch(of: /127.0.0.1:(\d+)\/metrics, counted by bpf/).flatMap { Int($0.1) }
        }
    }

    /// Waits, minutes at most.
    static func wait<Value>(_ what: String, _ value: () throws -> Value?) throws -> Value {
        for _ in 0..<3000 {
            if let value = try value() { return value }
            usleep(100_000)
        }
        throw ExportFailure("waited in vain for \(what)")
    }
}

extension Client {
    /// A port that nobody listens on.
    static func freePort() throws -> Int {
        let socket = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(socket) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(socket, $0, length) == 0 ? getsockname(socket, $0, &length) : -1
            }
        }
        try #require(result == 0)
        return Int(UInt16(bigEndian: address.sin_port))
    }
}
