// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import HostView
import NIOCore
import Reports

extension CollectorChoice: @retroactive ExpressibleByArgument {}
extension MetricsDocument.Histograms: @retroactive ExpressibleByArgument {}

/// Told on standard error, exit status 1.
struct ExportFailure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}

/// A line on standard error.
func warn(_ text: String) {
    _ = "vmtally export: \(text)\n".withCString { write(STDERR_FILENO, $0, strlen($0)) }
}

/// The signals that end a server.
enum EndingSignal {
    private static let all = [SIGINT, SIGTERM, SIGHUP]

    /// Runs the body on the loop when one comes. To be called before there is another thread.
    static func wait(on loop: any EventLoop, _ body: @escaping @Sendable () -> Void) {
        var signals = sigset_t()
        sigemptyset(&signals)
        for signal in all { sigaddset(&signals, signal) }
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        let waiting = Unmanaged.passRetained(Waiting(signals: signals, loop: loop, body: body))
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { pointer in
                guard let pointer else { return nil }
                let waiting = Unmanaged<Waiting>.fromOpaque(pointer).takeRetainedValue()
                var (signals, signal) = (waiting.signals, Int32(0))
                sigwait(&signals, &signal)
                waiting.loop.execute(waiting.body)
                return nil
            }, waiting.toOpaque())
        pthread_detach(thread)
    }

    private final class Waiting: Sendable {
        let signals: sigset_t
        let loop: any EventLoop
        let body: @Sendable () -> Void

        init(signals: sigset_t, loop: any EventLoop, body: @escaping @Sendable () -> Void) {
            self.signals = signals
            self.loop = loop
            self.body = body
        }
    }
}

/// Ends a loop that runs on its thread for as long as it has work.
func stop(_ loop: any EventLoop) {
    loop.shutdownGracefully { _ in }
}
