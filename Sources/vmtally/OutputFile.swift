// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc
import Linux
import Rendering

/// A file to be written when the work is done: whether it can be is known before.
///
/// It is written beside the one that it replaces and takes its name when it is whole, so that a full disk costs the new
/// content, not the old. Devices, FIFOs and standard output (`-`) are written to as they are.
struct OutputFile: ~Copyable {
    private enum Place {
        case stream
        /// `name` nil: without a name yet (O_TMPFILE).
        case beside(name: String?)
        /// An existing file in a folder where none can be made, or one that was made for a confined process.
        case inPlace(isNew: Bool)
    }

    /// What is left to do with files when it is written.
    enum Confinement {
        case none
        /// One that has no name yet can be given one: see `ObserverSandbox`.
        case observer
        /// Nothing but to write to what is open.
        case full
    }

    /// An open file and what it is.
    private struct Opened: ~Copyable {
        let file: FileDescriptor
        let place: Place
        let target: String

        init(_ file: consuming FileDescriptor, _ place: Place, target: String) {
            self.file = file
            self.place = place
            self.target = target
        }
    }

    /// Bytes kept for a new document while the guest runs: more than most have.
    private static let reserve = 1 << 16

    private let path: String
    private let writer: PatientWriter
    private let confinement: Confinement
    /// Without symbolic links.
    private let target: String
    private let place: Place
    /// -1: standard output, which is not ours to close.
    private let file: FileDescriptor
    private var descriptor: Int32 { file.rawValue >= 0 ? file.rawValue : STDOUT_FILENO }

    /// None where no path was given.
    init?(optional path: String?, _ confinement: Confinement = .none) throws {
        guard let path else { return nil }
        try self.init(path: path, confinement)
    }

    /// - Parameter confinement: from inside a sandbox a file is written in its place, and the old content put back when the
    ///   new one does not fit.
    init(path: String, _ confinement: Confinement = .none) throws {
        let opened = try Self.open(path, confinement)
        place = opened.place
        target = opened.target
        file = opened.file
        writer = PatientWriter(file.rawValue >= 0 ? file.rawValue : STDOUT_FILENO)
        self.confinement = confinement
        self.path = path
    }

    private static func open(_ path: String, _ confinement: Confinement) throws -> Opened {
        guard path != "-" else { return Opened(FileDescriptor(owning: -1), .stream, target: path) }
        var status = stat()
        let exists = stat(path, &status) == 0
        if exists, status.st_mode & S_IFMT != S_IFREG {
            let descriptor = Glibc.open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
            guard descriptor >= 0 else {
                guard errno == ENXIO, status.st_mode & S_IFMT == S_IFIFO else { throw Failure(reason(path)) }
                throw Failure("\(path): nobody reads this FIFO: start its reader first")
            }
            return Opened(FileDescriptor(owning: descriptor), .stream, target: path)
        }
        guard !exists || access(path, W_OK) == 0 else { throw Failure(reason(path)) }
        if confinement != .none {
            // To be given its name without capabilities.
            if confinement == .observer, !exists, !isLink(path), isOurs(folderOf: path),
                case let made = nameless(beside: path, mode: 0o644), made >= 0
            {
                return Opened(FileDescriptor(owning: made), .beside(name: nil), target: path)
            }
            let descriptor = Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
            guard descriptor >= 0 else { throw Failure(reason(path)) }
            let file = FileDescriptor(owning: descriptor)
            // A full disk is told of now: what a confined process has made it cannot take away.
            let error = exists ? 0 : -vmtally_reserve(descriptor, Self.reserve)
            guard ![ENOSPC, EDQUOT, EFBIG].contains(error) else {
                unlink(path)
                throw Failure("\(path): \(String(cString: strerror(error)))")
            }
            return Opened(file, .inPlace(isNew: !exists), target: path)
        }
        let target = NamedFiles.target(of: path)
        let mode = exists ? status.st_mode & 0o7777 : 0o644
        let (made, name) = make(beside: target, mode: mode)
        if made >= 0 {
            if exists {
                _ = fchown(made, status.st_uid, status.st_gid)
                _ = fchmod(made, mode)
            }
            return Opened(FileDescriptor(owning: made), .beside(name: name), target: target)
        }
        let error = errno
        let descriptor = exists ? Glibc.open(path, O_RDWR | O_CLOEXEC) : -1
        guard descriptor >= 0 else { throw Failure("\(path): \(String(cString: strerror(error)))") }
        return Opened(FileDescriptor(owning: descriptor), .inPlace(isNew: false), target: target)
    }

    deinit {
        switch place {
        case .beside(let name?): unlink(name)
        case .inPlace(isNew: true) where !Sandbox.isConfined:
            // Nothing came of the run that was to fill it.
            var status = stat()
            if fstat(descriptor, &status) == 0, status.st_size == 0 { unlink(path) }
        default: break
        }
    }

    /// Writes all of it, or leaves what was there before.
    ///
    /// - Throws: ``Failure``; with ``Patience`` at an end, for a reader that takes nothing as well.
    func replaceContents(with text: String) throws {
        switch place {
        case .stream:
            // A reader that has gone is an error of the write, with a message; a command that has run confined ignores
            // the signal already.
            let isOther = path != "-" && !Sandbox.isConfined
            let before = isOther ? signal(SIGPIPE, SIG_IGN) : nil
            defer { if isOther { signal(SIGPIPE, before) } }
            let error = writer.writeAll(text.utf8, until: Patience.end)
            guard error != EAGAIN else { throw Failure("\(path): its reader takes nothing") }
            if let error { throw Failure("\(path): \(String(cString: strerror(error)))") }
        case .beside(let name):
            if let error = writer.writeAll(text.utf8) { throw Failure("\(path): \(String(cString: strerror(error)))") }
            guard fsync(descriptor) == 0 || errno == EINVAL else { throw Failure(reason(path)) }
            if confinement == .observer {
                try link(as: target)
            } else {
                try take(name, text)
            }
        case .inPlace:
            try overwrite(descriptor, text)
        }
    }

    /// The new file takes the old one's name.
    private func take(_ name: String?, _ text: String) throws {
        let new = name ?? Self.name(beside: target)
        if name == nil {
            unlink(new)
            try link(as: new)
        }
        guard rename(new, target) != 0 else { return }
        let error = errno
        unlink(new)
        // A file that something else is mounted on, as containers have them, keeps its name.
        guard error == EBUSY else { throw Failure("\(path): \(String(cString: strerror(error)))") }
        let old = FileDescriptor(owning: Glibc.open(target, O_RDWR | O_CLOEXEC))
        guard old.rawValue >= 0 else { throw Failure(reason(path)) }
        try overwrite(old.rawValue, text)
    }

    /// The nameless file gets a name that nothing has yet.
    private func link(as name: String) throws {
        guard linkat(AT_FDCWD, "/proc/self/fd/\(descriptor)", AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0 else {
            let error = errno
            let other = Self.name(beside: target)
            // Not to be replaced from inside a sandbox: what has been counted is there all the same.
            guard error == EEXIST, confinement == .observer, name != other else { throw Failure(reason(path)) }
            try link(as: other)
            throw Failure("\(path): another file has come there meanwhile; this one is \(other)")
        }
    }

    private static func isLink(_ path: String) -> Bool {
        var status = stat()
        return lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFLNK
    }

    /// Whether files can be made in the folder by its mode alone.
    private static func isOurs(folderOf path: String) -> Bool {
        var status = stat()
        guard stat(NamedFiles.folder(of: path), &status) == 0 else { return false }
        if status.st_uid == geteuid() { return status.st_mode & S_IWUSR != 0 }
        return status.st_mode & (status.st_gid == getegid() ? S_IWGRP : S_IWOTH) != 0
    }

    /// Puts the old content back when the new one does not fit.
    private func overwrite(_ descriptor: Int32, _ text: String) throws {
        var old: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = pread(descriptor, &chunk, chunk.count, off_t(old.count)), count > 0 {
            old += chunk.prefix(count)
        }
        let error = Self.fill(descriptor, text.utf8)
        guard error == 0, confinement == .full || fsync(descriptor) == 0 || errno == EINVAL else {
            let reason = error == 0 ? errno : error
            _ = Self.fill(descriptor, old)
            throw Failure("\(path): \(String(cString: strerror(reason)))")
        }
        guard vmtally_link_count(descriptor) != 0 else {
            throw Failure("\(path): it was removed meanwhile, and what was to be in it is lost")
        }
    }

    /// Makes this the file's content; errno, or 0.
    private static func fill(_ descriptor: Int32, _ bytes: some Collection<UInt8>) -> Int32 {
        let bytes = Array(bytes)
        var done = 0
        while done < bytes.count {
            let count = bytes[done...].withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, off_t(done)) }
            guard count > 0 || count < 0 && errno == EINTR else { return count == 0 ? ENOSPC : errno }
            done += max(0, count)
        }
        // Not before: what cannot be written costs nothing of what is there.
        return ftruncate(descriptor, off_t(bytes.count)) == 0 ? 0 : errno
    }

    /// A file in the same folder, with no name where the file system can do that: nothing is left behind, whatever ends
    /// us.
    ///
    /// - Returns: -1 and errno where none can be made.
    private static func make(beside target: String, mode: mode_t) -> (descriptor: Int32, name: String?) {
        let descriptor = nameless(beside: target, mode: mode)
        if descriptor >= 0 { return (descriptor, nil) }
        let name = name(beside: target)
        unlink(name)
        return (Glibc.open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode), name)
    }

    /// -1 where the file system has no such files, or where one could not be given a name: that goes by way of /proc.
    private static func nameless(beside target: String, mode: mode_t) -> Int32 {
        let temporaryFile: Int32 = 0o20_000_000 | O_DIRECTORY
        guard access("/proc/self/fd", X_OK) == 0 else { return -1 }
        return Glibc.open(NamedFiles.folder(of: target), temporaryFile | O_WRONLY | O_CLOEXEC, mode)
    }

    private static func name(beside target: String) -> String {
        "\(target).\(getpid()).vmtally"
    }
}

/// Bytes of a JSON file that is read: more than a recording of 10,000 boots has.
let documentLimit = 256 << 20

private func reason(_ path: String) -> String {
    "\(path): \(String(cString: strerror(errno)))"
}

/// Writes a text to a file, or to standard output for `-`.
func write(_ text: String, to path: String) throws {
    try OutputFile(path: path).replaceContents(with: text)
}
