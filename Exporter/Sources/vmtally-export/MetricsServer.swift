// SPDX-License-Identifier: Apache-2.0
import NIOCore
import NIOHTTP1
import NIOPosix
import Reports

/// What scrapers, and who pretends to be one, may take of this process.
struct ServerLimits: Sendable {
    var connections = 64
    /// Responses on their way at once. Each may hold a document of its own, 8 MB with 1,000 VMs.
    var responses = 4
    /// Until a new connection's request is whole.
    var request = TimeAmount.seconds(10)
    /// Until the next request of a connection.
    var idle = TimeAmount.seconds(120)
    /// Until a response has been taken.
    var response = TimeAmount.seconds(30)
    var headerBytes = 16_384
    var headerFields = 64
}

/// Serves /metrics. All of it runs on one event loop.
final class MetricsServer {
    let limits: ServerLimits
    private let source: any MetricsSource
    private let eventLoop: any EventLoop
    private var connections: [ObjectIdentifier: Connection] = [:]
    private var documents: [MetricsDocument.Format: Cached] = [:]

    private struct Cached {
        let body: ByteBuffer
        let until: NIODeadline
    }

    init(_ source: any MetricsSource, on eventLoop: any EventLoop, limits: ServerLimits = ServerLimits()) {
        self.source = source
        self.eventLoop = eventLoop
        self.limits = limits
    }

    func listen(_ address: ListenAddress) -> EventLoopFuture<any Channel> {
        let server = NIOLoopBound(self, eventLoop: eventLoop)
        var decoder = NIOHTTPDecoderLimitConfiguration()
        decoder.maxHeaderFieldSize = limits.headerBytes
        decoder.maxHeaderListSize = limits.headerBytes
        decoder.maxHeaderFieldCount = limits.headerFields
        return ServerBootstrap(group: eventLoop)
            .serverChannelOption(.backlog, value: 256)
            .serverChannelOption(.maxMessagesPerRead, value: 16)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { [decoder] channel in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.configureHTTPServerPipeline(
                        withEncoderConfiguration: .init(), withDecoderLimitConfiguration: decoder)
                    try pipeline.addHandler(Connection(server.value))
                }
            }
            .bind(host: address.host, port: address.port)
    }

    var connectionCount: Int { connections.count }

    func add(_ connection: Connection) {
        connections[ObjectIdentifier(connection)] = connection
        if connections.count > limits.connections {
            // A scraper asks at once: whoever has been silent longest is none.
            close(oldest: connections.values.filter { $0 !== connection }, preferring: { !$0.isResponding })
        }
    }

    func remove(_ connection: Connection) {
        connections[ObjectIdentifier(connection)] = nil
    }

    func willRespond() {
        let responding = connections.values.filter(\.isResponding)
        if responding.count >= limits.responses { close(oldest: responding, preferring: { _ in true }) }
    }

    private func close(oldest connections: [Connection], preferring isPreferred: (Connection) -> Bool) {
        let preferred = connections.filter(isPreferred)
        (preferred.isEmpty ? connections : preferred).min { $0.since < $1.since }?.close()
    }

    /// Scrapes in quick succession get the same document: so that, whoever asks how often, reading the counters takes no
    /// more than a fifth of a processor.
    func document(_ format: MetricsDocument.Format) throws -> ByteBuffer {
        let start = NIODeadline.now()
        let last = documents[format]
        if let last, start < last.until { return last.body }
        documents[format] = nil
        let document = try source.document(at: start)
        // Of nearly the last one's size: growing would copy, and take twice as much for a moment.
        var body = ByteBufferAllocator().buffer(capacity: last.map { $0.body.readableBytes * 9 / 8 } ?? 1 << 16)
        document.write(format) { body.writeBytes($0) }
        let end = NIODeadline.now()
        documents[format] = Cached(body: body, until: end + (end - start) * 4)
        return body
    }
}

/// One connection: a request after the other.
final class Connection: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let server: MetricsServer
    private var context: ChannelHandlerContext?
    private var request: HTTPRequestHead?
    private var deadline: Scheduled<Void>?
    private(set) var isResponding = false
    /// When it became what it is: waited for, or responded to.
    private(set) var since = NIODeadline.now()

    init(_ server: MetricsServer) {
        self.server = server
    }

    func channelActive(context: ChannelHandlerContext) {
        self.context = context
        server.add(self)
        wait(context, server.limits.request)
    }

    func channelInactive(context: ChannelHandlerContext) {
        deadline?.cancel()
        self.context = nil
        server.remove(self)
    }

    func close() {
        // Not seen any more from now on, however long closing takes.
        server.remove(self)
        context?.close(promise: nil)
    }

    /// Closes the connection unless something has happened by then.
    private func wait(_ context: ChannelHandlerContext, _ time: TimeAmount) {
        since = .now()
        deadline?.cancel()
        deadline = context.eventLoop.assumeIsolated().scheduleTask(in: time) { self.close() }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head):
            request = head
        case .body:
            // Nothing that we serve takes one.
            guard request != nil else { return }
            request = nil
            respond(context, .payloadTooLarge, text: "no body is wanted here\n", keepAlive: false)
        case .end:
            guard let request else { return }
            self.request = nil
            respond(context, to: request)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }

    private func respond(_ context: ChannelHandlerContext, to request: HTTPRequestHead) {
        let keepAlive = request.isKeepAlive
        guard request.method == .GET || request.method == .HEAD else {
            return respond(context, .methodNotAllowed, text: "GET /metrics\n", keepAlive: false)
        }
        switch request.uri.prefix(while: { $0 != "?" }) {
        case "/metrics":
            let accepts = request.headers[canonicalForm: "accept"]
            let isOpen = accepts.contains { $0.lowercased().hasPrefix("application/openmetrics-text") }
            let format: MetricsDocument.Format = isOpen ? .openMetrics : .text
            server.willRespond()
            do {
                let body = try server.document(format)
                respond(
                    context, .ok, type: format.contentType, body: body, hasBody: request.method == .GET,
                    keepAlive: keepAlive)
            } catch {
                respond(context, .internalServerError, text: "\(error)\n", keepAlive: keepAlive)
            }
        case "/":
            respond(context, .ok, text: "vmtally: exits of this host's VMs are at /metrics\n", keepAlive: keepAlive)
        default:
            respond(context, .notFound, text: "there is /metrics\n", keepAlive: keepAlive)
        }
    }

    private func respond(
        _ context: ChannelHandlerContext, _ status: HTTPResponseStatus, text: String, keepAlive: Bool
    ) {
        respond(
            context, status, type: "text/plain; charset=utf-8", body: ByteBuffer(string: text), hasBody: true,
            keepAlive: keepAlive)
    }

    private func respond(
        _ context: ChannelHandlerContext, _ status: HTTPResponseStatus, type: String, body: ByteBuffer, hasBody: Bool,
        keepAlive: Bool
    ) {
        isResponding = true
        wait(context, server.limits.response)
        var headers = HTTPHeaders([("Content-Type", type), ("Content-Length", "\(body.readableBytes)")])
        if !keepAlive { headers.add(name: "Connection", value: "close") }
        context.write(wrapOutboundOut(.head(.init(version: .http1_1, status: status, headers: headers))), promise: nil)
        if hasBody { context.write(wrapOutboundOut(.body(.byteBuffer(body))), promise: nil) }
        context.writeAndFlush(wrapOutboundOut(.end(nil))).assumeIsolated().whenComplete { result in
            self.isResponding = false
            if case .success = result, keepAlive {
                self.wait(context, self.server.limits.idle)
            } else {
                context.close(promise: nil)
            }
        }
    }
}
