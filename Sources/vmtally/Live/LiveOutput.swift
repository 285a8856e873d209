// SPDX-License-Identifier: Apache-2.0
import Glibc
import Linux
import Rendering

/// Where `top --batch` and `attach` print as they go, whoever reads it: a reader that has stopped is waited for until a
/// signal would end us, and a second longer.
///
/// To be made before a sandbox closes the way to it.
final class LiveOutput {
    private let file: FileDescriptor
    private let writer: PatientWriter
    private let name: String
    /// What keeps the rest back, errno; EAGAIN: the reader.
    private(set) var error: Int32?

    /// - Parameter path: grows while we run: it is no document that is whole or not there. `-`: standard output.
    init(_ path: String = "-") throws {
        name = path == "-" ? "standard output" : path
        let descriptor =
            path == "-" ? -1 : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0o644)
        guard descriptor >= 0 || path == "-" else {
            guard errno == ENXIO else { throw Failure("\(path): \(String(cString: strerror(errno)))") }
            throw Failure("\(path): nobody reads this FIFO: start its reader first")
        }
        file = FileDescriptor(owning: descriptor)
        writer = PatientWriter(descriptor >= 0 ? descriptor : STDOUT_FILENO)
    }

    /// Writes a line, or several; nothing once that has failed.
    func print(_ text: String) {
        guard error == nil else { return }
        var rest = Array((text + "\n").utf8)[...]
        var deadline = Patience.end
        var isEnding = false
        while !rest.isEmpty {
            switch rest.withUnsafeBytes({ writer.write($0) }) {
            case .written(let count): rest = rest.dropFirst(count)
            case .failed(let error): return self.error = error
            case .full:
                let now = monotonicNanoseconds()
                if !isEnding, Waiter.isToEnd {
                    isEnding = true
                    deadline = min(deadline, now + 1_000_000_000)
                }
                guard now < deadline else { return error = EAGAIN }
                _ = writer.wait(until: min(deadline, now + 50_000_000))
            }
        }
    }

    /// - Throws: what has kept some of it back.
    func check() throws {
        guard let error else { return }
        let cause = error == EAGAIN ? "its reader takes nothing" : String(cString: strerror(error))
        throw Failure("\(name): \(cause)")
    }
}
