// SPDX-License-Identifier: Apache-2.0
import Glibc

/// A file's bytes, as long as this lives.
///
/// A copy, not a mapping of the file: one that is cut short while we read it must not be able to kill us.
public struct FileImage: ~Copyable {
    /// No kernel, initrd or guest is that large; a sparse file easily is.
    public static let maximumSize = 4 << 30

    public let bytes: UnsafeRawBufferPointer
    private let mapping: UnsafeMutableRawBufferPointer

    /// - Parameter limit: more bytes are refused.
    /// - Throws: when the file cannot be read.
    public init(path: String, limit: Int = maximumSize) throws(SystemError) {
        mapping = try Self.copy(path, limit)
        bytes = UnsafeRawBufferPointer(mapping)
    }

    deinit {
        if !mapping.isEmpty {
            munmap(mapping.baseAddress, mapping.count)
        }
    }

    private static func copy(_ path: String, _ limit: Int) throws(SystemError) -> UnsafeMutableRawBufferPointer {
        func failure(_ errno: Int32) -> SystemError { SystemError(path, errno: errno) }
        // Not waiting for the other end of a FIFO.
        let file = try FileDescriptor(opening: path, O_RDONLY | O_NONBLOCK)
        var status = stat()
        guard fstat(file.rawValue, &status) == 0 else { throw failure(errno) }
        switch status.st_mode & S_IFMT {
        case S_IFREG: break
        case S_IFIFO: return try drain(file, path, limit)
        case S_IFDIR: throw failure(EISDIR)
        default: throw SystemError("\(path) is a device or a socket, not a file", errno: EINVAL)
        }
        let size = Int(status.st_size)
        guard size <= limit else { throw failure(EFBIG) }
        guard size > 0 else { return UnsafeMutableRawBufferPointer(start: nil, count: 0) }
        guard let start = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            start != MAP_FAILED
        else { throw failure(errno) }
        var filled = 0
        while filled < size {
            let count = read(file.rawValue, start + filled, size - filled)
            guard count != 0 else { break }
            guard count > 0 || errno == EINTR else {
                let error = errno
                munmap(start, size)
                throw failure(error)
            }
            filled += max(0, count)
        }
        return UnsafeMutableRawBufferPointer(start: start, count: size)
    }

    /// What comes out of a pipe, to its end: `<(xz -dc recording.json.xz)`. Its writer has ten seconds for each piece; one
    /// that nobody writes to is refused: a reader waits for nobody.
    private static func drain(
        _ file: borrowing FileDescriptor, _ path: String, _ limit: Int
    ) throws(SystemError) -> UnsafeMutableRawBufferPointer {
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = piece.withUnsafeMutableBytes { read(file.rawValue, $0.baseAddress, $0.count) }
            if count > 0 {
                guard bytes.count + count <= limit else { throw SystemError(path, errno: EFBIG) }
                bytes += piece.prefix(count)
            } else if count == 0 {
                break
            } else if errno == EAGAIN {
                var writer = pollfd(fd: file.rawValue, events: Int16(POLLIN), revents: 0)
                guard poll(&writer, 1, 10_000) != 0 else { throw SystemError(path, errno: ETIMEDOUT) }
            } else if errno != EINTR {
                throw SystemError(path, errno: errno)
            }
        }
        guard !bytes.isEmpty else {
            throw SystemError("\(path) is a FIFO that nothing came out of: start its writer first", errno: ENODATA)
        }
        guard
            let start = mmap(nil, bytes.count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            start != MAP_FAILED
        else { throw SystemError(path, errno: errno) }
        let copy = UnsafeMutableRawBufferPointer(start: start, count: bytes.count)
        copy.copyBytes(from: bytes)
        return copy
    }
}
