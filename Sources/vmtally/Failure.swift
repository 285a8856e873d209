import ArgumentParser
import Glibc

/// A run that failed: told on standard error, exit status 1.
struct Failure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}

/// Writes a line to standard error.
func warn(_ text: String) {
    var rest = Substring(text + "\n").utf8
    while !rest.isEmpty {
        let written = Array(rest).withUnsafeBytes { Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
        guard written > 0 else { return }
        rest = rest.dropFirst(written)
    }
}

/// Writes a text to a file, or to standard output for `-`.
func write(_ text: String, to path: String) throws {
    let descriptor = path == "-" ? dup(STDOUT_FILENO) : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw Failure("\(path): \(String(cString: strerror(errno)))") }
    defer { close(descriptor) }
    var bytes = Array(text.utf8)[...]
    while !bytes.isEmpty {
        let written = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
        guard written > 0 || errno == EINTR else { throw Failure("\(path): \(String(cString: strerror(errno)))") }
        bytes = bytes.dropFirst(max(0, written))
    }
}
