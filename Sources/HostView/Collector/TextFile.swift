// SPDX-License-Identifier: Apache-2.0
import Glibc
import Linux

/// Small files that another process or the kernel wrote: bounded, and never trusted.
enum TextFile {
    /// The first bytes of a file, with U+FFFD for what is not UTF-8; nil when it cannot be read.
    static func read(_ path: String, limit: Int = 1 << 16) throws(CollectorError) -> String {
        String(decoding: try bytes(path, limit: limit), as: UTF8.self)
    }

    static func bytes(_ path: String, limit: Int = 1 << 16) throws(CollectorError) -> [UInt8] {
        let file = try open(path)
        var bytes = [UInt8](repeating: 0, count: limit)
        var filled = 0
        while filled < limit {
            let count = bytes[filled...].withUnsafeMutableBytes { Glibc.read(file.rawValue, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw failed(path) }
            guard count > 0 else { break }
            filled += count
        }
        return Array(bytes.prefix(filled))
    }

    private static func open(_ path: String) throws(CollectorError) -> FileDescriptor {
        do throws(SystemError) {
            return try FileDescriptor(opening: path, O_RDONLY | O_NONBLOCK)
        } catch {
            throw CollectorError(cause: "\(error)", remedy: "")
        }
    }

    private static func failed(_ path: String) -> CollectorError {
        CollectorError(cause: "\(path): \(String(cString: strerror(errno)))", remedy: "")
    }

    /// Names in a folder, without those that begin with a dot; empty when it cannot be read.
    static func list(_ path: String) -> [String] {
        guard let folder = opendir(path) else { return [] }
        defer { closedir(folder) }
        var names: [String] = []
        while let entry = readdir(folder) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names
    }

    /// Where a symbolic link leads; nil when it is none, or not ours to read.
    static func link(_ path: String) -> String? {
        var buffer = [CChar](repeating: 0, count: 4096)
        let length = readlink(path, &buffer, buffer.count)
        return length > 0
            ? String(decoding: buffer.prefix(length).map(UInt8.init(bitPattern:)), as: UTF8.self) : nil
    }
}
