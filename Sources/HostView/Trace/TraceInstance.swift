// SPDX-License-Identifier: Apache-2.0
import Glibc
import Linux

/// Why the kernel's tracing cannot be used.
public struct TraceError: Error, CustomStringConvertible, Sendable {
    public let cause: String
    public let remedy: String

    public var description: String { "\(cause): \(remedy)" }
}

/// A buffer of tracefs of our own: what is set in it disturbs nobody else's tracing (Documentation/trace/ftrace.rst,
/// "Instances"). It goes away with this object.
public final class TraceInstance {
    private static let root = "/sys/kernel/tracing"
    private static let prefix = "vmtally-"

    public let path: String

    /// - Parameter name: tells apart the instances of one process.
    public init(_ name: String) throws(TraceError) {
        guard access(Self.root + "/instances", F_OK) == 0 else {
            throw TraceError(
                cause: "no tracefs at \(Self.root)",
                remedy: geteuid() == 0 ? "mount -t tracefs none \(Self.root)" : "run as root")
        }
        Self.removeAbandoned()
        path = "\(Self.root)/instances/\(Self.prefix)\(getpid())-\(name)"
        guard mkdir(path, 0o700) == 0 else {
            throw TraceError(
                cause: "\(path): \(String(cString: strerror(errno)))", remedy: "tracing needs root")
        }
    }

    deinit {
        // Busy as long as a process that is followed has its tracing wound up.
        for _ in 0..<20 {
            if rmdir(path) == 0 || errno != EBUSY { break }
            usleep(10_000)
        }
    }

    /// Those of processes that were killed.
    private static func removeAbandoned() {
        guard let folder = opendir(root + "/instances") else { return }
        defer { closedir(folder) }
        while let entry = readdir(folder) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard name.hasPrefix(prefix) else { continue }
            let owner = name.dropFirst(prefix.count).prefix { $0.isNumber }
            if let process = pid_t(owner), kill(process, 0) != 0, errno == ESRCH {
                rmdir("\(root)/instances/\(name)")
            }
        }
    }

    /// Writes a line to one of the instance's files. Adds to what is there: a trigger leaves the others alone.
    public func write(_ text: String, to file: String) throws(TraceError) {
        let descriptor = try open(file, O_WRONLY | O_APPEND)
        guard Glibc.write(descriptor.rawValue, text, text.utf8.count) == text.utf8.count else {
            throw failed("\(file): \(text)")
        }
    }

    public func read(_ file: String) throws(TraceError) -> String {
        let descriptor = try open(file, O_RDONLY)
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = Glibc.read(descriptor.rawValue, &chunk, chunk.count)
            guard count >= 0 else { throw failed(file) }
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += chunk.prefix(count)
        }
    }

    private func open(_ file: String, _ flags: Int32) throws(TraceError) -> FileDescriptor {
        do throws(SystemError) {
            return try FileDescriptor(opening: "\(path)/\(file)", flags)
        } catch {
            throw failed(file, errno: error.errno)
        }
    }

    private func failed(_ what: String, errno: Int32 = Glibc.errno) -> TraceError {
        TraceError(
            cause: "tracefs, \(what): \(String(cString: strerror(errno)))",
            remedy: "the kernel needs CONFIG_HIST_TRIGGERS and Linux 5.14 or later")
    }

    /// Counts by key in the kernel (Documentation/trace/histogram.rst).
    ///
    /// - Parameters:
    ///   - event: of KVM, such as `kvm_exit`.
    ///   - keys: as a histogram trigger has them.
    ///   - size: entries; more are dropped.
    public func count(_ event: String, by keys: String, size: Int) throws(TraceError) {
        try write("hist:keys=\(keys):size=\(size):clock=mono", to: "events/kvm/\(event)/trigger")
    }

    /// The histograms of an event, in no order.
    public func histograms(_ event: String) throws(TraceError) -> [TraceHistogram] {
        try TraceHistogram.parse(read("events/kvm/\(event)/hist"))
    }
}

/// Counts by key, as `events/*/hist` prints them.
public struct TraceHistogram: Equatable, Sendable {
    public struct Entry: Equatable, Sendable {
        /// A number for each key; of a bucket its lower bound.
        public let keys: [UInt64]
        public let count: UInt64
    }

    /// Names of the keys, without modifiers.
    public let keys: [String]
    public let entries: [Entry]
    /// Events that found no room.
    public let dropped: UInt64

    public static func parse(_ text: String) -> [TraceHistogram] {
        var histograms: [TraceHistogram] = []
        var keys: [String] = []
        var entries: [Entry] = []
        for line in text.split(separator: "\n") {
            if line.hasPrefix("# trigger info: hist:") {
                let field = line.split(separator: ":").first { $0.hasPrefix("keys=") }
                keys = (field?.dropFirst(5).split(separator: ",") ?? []).map { key in
                    String(key.prefix { $0 != "." })
                }
                entries = []
            } else if line.hasPrefix("{") {
                // `{ exit_reason: 96, common_timestamp: ~ 2550000000-2559999999 } hitcount: 1`
                let parts = line.split(separator: "}")
                guard parts.count == 2, let count = Self.numbers(parts[1]).last else { continue }
                let values = parts[0].split(separator: ",").compactMap { field -> UInt64? in
                    field.split(separator: ":").last.flatMap { Self.numbers($0).first }
                }
                entries.append(Entry(keys: values, count: count))
            } else if let words = line.dropPrefix("Dropped:") ?? line.dropPrefix("    Dropped:") {
                histograms.append(
                    TraceHistogram(keys: keys, entries: entries, dropped: Self.numbers(words).first ?? 0))
            }
        }
        return histograms
    }

    /// Decimal numbers, and hexadecimal ones after 0x.
    private static func numbers(_ text: Substring) -> [UInt64] {
        text.split { !($0.isLetter || $0.isNumber) }.compactMap { word in
            word.hasPrefix("0x") ? UInt64(word.dropFirst(2), radix: 16) : UInt64(word)
        }
    }
}

extension Substring {
    fileprivate func dropPrefix(_ prefix: String) -> Substring? {
        hasPrefix(prefix) ? dropFirst(prefix.count) : nil
    }
}
