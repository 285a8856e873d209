import ArgumentParser
import Glibc
import Linux

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
    try OutputFile(path: path).replaceContents(with: text)
}

/// A file to be written later: whether it can be is known from the start.
struct OutputFile: ~Copyable {
    private let path: String
    private let file: FileDescriptor

    /// Creates the file, and leaves alone what an existing one holds; `-` is standard output.
    init(path: String) throws {
        self.path = path
        file =
            if path == "-" {
                try FileDescriptor(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3), of: path)
            } else {
                try FileDescriptor(opening: path, O_WRONLY | O_CREAT)
            }
    }

    func replaceContents(with text: String) throws {
        if path != "-" {
            // Devices and pipes have nothing to cut.
            ftruncate(file.rawValue, 0)
        }
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            let written = bytes.withUnsafeBytes { Glibc.write(file.rawValue, $0.baseAddress, $0.count) }
            guard written > 0 || errno == EINTR else { throw Failure("\(path): \(String(cString: strerror(errno)))") }
            bytes = bytes.dropFirst(max(0, written))
        }
    }
}

/// Occupies those of the descriptors 0 to 2 that are closed, so that no file of ours gets their numbers and the guest's
/// output or our messages with them. What is written there still fails.
func occupyStandardDescriptors() {
    while true {
        let descriptor = open("/dev/null", O_RDONLY)
        guard (0...2).contains(descriptor) else {
            _ = FileDescriptor(owning: descriptor)
            return
        }
    }
}
