// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import Machine

/// `--serial`.
enum SerialOption: ExpressibleByArgument, Equatable {
    case stdio
    case none
    case file(String)

    init?(argument: String) {
        switch argument {
        case "stdio": self = .stdio
        case "none": self = .none
        case _ where argument.hasPrefix("file=") && argument.count > 5: self = .file(String(argument.dropFirst(5)))
        default: return nil
        }
    }

    func open() throws -> SerialFile {
        switch self {
        case .stdio: return SerialFile(target: .descriptor(STDOUT_FILENO))
        case .none: return SerialFile(target: .none)
        case .file(let path):
            // Not waiting for a FIFO's reader.
            let isNew = access(path, F_OK) != 0
            let descriptor = Glibc.open(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0o644)
            guard descriptor >= 0 else {
                throw Failure(
                    errno == ENXIO
                        ? "\(path): nobody reads this FIFO: start its reader first"
                        : "\(path): \(String(cString: strerror(errno)))")
            }
            return SerialFile(target: .descriptor(descriptor), new: isNew ? path : nil)
        }
    }
}

/// Where the guest's serial port goes.
struct SerialFile: ~Copyable {
    let target: SerialOutput.Target
    /// A file that was made for it, and goes when the run does not start.
    private var new: String?

    init(target: SerialOutput.Target, new: String? = nil) {
        self.target = target
        self.new = new
    }

    deinit {
        if let new { unlink(new) }
    }

    /// Drops what a file held before: only once nothing can keep the run from starting.
    mutating func truncate() {
        new = nil
        if case .descriptor(let descriptor) = target, descriptor > STDERR_FILENO {
            // Devices and pipes have nothing to cut.
            ftruncate(descriptor, 0)
        }
    }
}
