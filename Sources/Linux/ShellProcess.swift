// SPDX-License-Identifier: Apache-2.0
import Glibc

/// The two ends of a pipe, not to be inherited by other programs.
package final class Pipe: Sendable {
    package let reading: FileDescriptor
    package let writing: FileDescriptor

    package init() throws(SystemError) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw SystemError("pipe", errno: errno) }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        reading = FileDescriptor(owning: ends[0])
        writing = FileDescriptor(owning: ends[1])
    }
}

/// A /bin/sh, started with no signal blocked and none ignored. Its owner waits for it and ends it.
package struct ShellProcess: ~Copyable {
    package let id: pid_t
    /// 128 + the signal for one that a signal ended; nil while nobody has seen it end.
    private var status: Int32?

    /// - Parameters:
    ///   - words: the shell's arguments.
    ///   - descriptors: the shell's, by number, and which of ours each is. It inherits all that is not closed on exec.
    ///   - ownGroup: it leads a process group.
    package init(_ words: [String], descriptors: [Int32: Int32], ownGroup: Bool = false) throws(SystemError) {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (number, descriptor) in descriptors {
            posix_spawn_file_actions_adddup2(&actions, descriptor, number)
        }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var (none, usual) = (sigset_t(), sigset_t())
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        sigemptyset(&usual)
        for signal in [SIGPIPE, SIGXFSZ] { sigaddset(&usual, signal) }
        posix_spawnattr_setsigdefault(&attributes, &usual)
        let group = ownGroup ? POSIX_SPAWN_SETPGROUP : 0
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | group))
        var arguments: [UnsafeMutablePointer<CChar>?] = (["sh"] + words).map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var process = pid_t()
        let result = posix_spawn(&process, "/bin/sh", &actions, &attributes, &arguments, environ)
        guard result == 0 else { throw SystemError("/bin/sh", errno: result) }
        id = process
    }

    /// Its exit status, 128 + signal for one that a signal ended; nil while it runs.
    package mutating func exitStatus() -> Int32? {
        reap(WNOHANG)
        return status
    }

    /// Waits for its end.
    package mutating func wait() {
        while status == nil { reap(0) }
    }

    private mutating func reap(_ options: Int32) {
        guard status == nil else { return }
        var raw: Int32 = 0
        let result = waitpid(id, &raw, options)
        if result == id {
            status = raw & 0x7F == 0 ? raw >> 8 & 0xFF : 128 + raw & 0x7F
        } else if result < 0, errno != EINTR {
            status = 1
        }
    }
}
