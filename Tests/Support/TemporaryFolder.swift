// SPDX-License-Identifier: Apache-2.0
import Glibc

/// A folder that goes away with its contents. Without Foundation, which programs of the lab do not carry.
package final class TemporaryFolder {
    package let path: String

    package init() throws(TemporaryFolderError) {
        let root = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        var name = Array((root + "/vmtally-test-XXXXXX").utf8CString)
        guard mkdtemp(&name) != nil, chmod(name, 0o755) == 0 else { throw TemporaryFolderError(errno: errno) }
        path = String(decoding: name.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    deinit {
        Self.delete(path)
    }

    /// A file, a link, or a folder and what is in it.
    private static func delete(_ path: String) {
        guard remove(path) != 0, let directory = opendir(path) else { return }
        var names: [String] = []
        while let entry = readdir(directory) {
            names.append(
                withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) })
        }
        closedir(directory)
        for name in names where name != "." && name != ".." {
            delete(path + "/" + name)
        }
        remove(path)
    }

    /// Writes a file; its path.
    package func file(_ name: String, _ bytes: some Sequence<UInt8>) throws(TemporaryFolderError) -> String {
        let path = path + "/" + name
        guard let file = fopen(path, "we") else { throw TemporaryFolderError(errno: errno) }
        let bytes = Array(bytes)
        let written = fwrite(bytes, 1, bytes.count, file)
        guard fclose(file) == 0, written == bytes.count else { throw TemporaryFolderError(errno: errno) }
        return path
    }

    /// What is in a file; nil when there is none.
    package func text(_ name: String) -> String? {
        guard let file = fopen(path + "/" + name, "re") else { return nil }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = fread(&chunk, 1, chunk.count, file), count > 0 {
            bytes += chunk.prefix(count)
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

package struct TemporaryFolderError: Error {
    package let errno: Int32
}
