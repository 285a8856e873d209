// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization

/// What comes in on a descriptor, for the guest's console. On a terminal, which is in raw mode meanwhile, Ctrl-A x
/// ends the run and Ctrl-A Ctrl-A is one Ctrl-A.
final class ConsoleInput: Sendable {
    private enum Escape {
        static let prefix: UInt8 = 0x01
        static let quit: UInt8 = 0x78
    }

    private let descriptor: Int32
    private let before: termios?
    private let escaped = Mutex(false)
    /// How many bytes the console takes now, and where they go.
    private let room: @Sendable () -> Int
    private let deliver: @Sendable (ArraySlice<UInt8>) -> Void
    private let quit: @Sendable () -> Void

    init(
        _ descriptor: Int32, room: @escaping @Sendable () -> Int,
        deliver: @escaping @Sendable (ArraySlice<UInt8>) -> Void, quit: @escaping @Sendable () -> Void
    ) {
        self.descriptor = descriptor
        self.room = room
        self.deliver = deliver
        self.quit = quit
        var settings = termios()
        // A background process that changed its terminal would be stopped.
        guard isatty(descriptor) == 1, tcgetpgrp(descriptor) == getpgrp(), tcgetattr(descriptor, &settings) == 0 else {
            before = nil
            return
        }
        before = settings
    }

    /// The guest gets the keyboard, until ``restore()``.
    func begin() {
        guard var settings = before else { return }
        cfmakeraw(&settings)
        // Output stays as it was: our own messages end lines with a line feed alone.
        settings.c_oflag |= tcflag_t(OPOST)
        set(&settings)
    }

    /// A process that has gone to the background meanwhile sets its terminal all the same, instead of being stopped.
    private func set(_ settings: inout termios) {
        var (stop, before) = (sigset_t(), sigset_t())
        sigemptyset(&stop)
        sigaddset(&stop, SIGTTOU)
        pthread_sigmask(SIG_BLOCK, &stop, &before)
        while tcsetattr(descriptor, TCSANOW, &settings) != 0, errno == EINTR {}
        pthread_sigmask(SIG_SETMASK, &before, nil)
    }

    /// Gives the terminal back as it was.
    func restore() {
        if var before {
            set(&before)
        }
    }

    deinit {
        restore()
    }

    /// Something may be there to read.
    ///
    /// - Returns: whether to wait for more; false at the end of the input, or without room.
    func take() -> Bool {
        let room = min(room(), 1024)
        guard room > 0 else { return false }
        var bytes = [UInt8](repeating: 0, count: room)
        let count = read(descriptor, &bytes, room)
        guard count > 0 else { return count < 0 && (errno == EINTR || errno == EAGAIN) }
        let typed = before == nil ? bytes[..<count] : unescape(bytes[..<count])
        if !typed.isEmpty {
            deliver(typed)
        }
        return true
    }

    private func unescape(_ bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        var typed: [UInt8] = []
        for byte in bytes {
            let wasEscaped = escaped.withLock { escaped in
                defer { escaped = !escaped && byte == Escape.prefix }
                return escaped
            }
            if wasEscaped, byte == Escape.quit {
                quit()
            } else if wasEscaped || byte != Escape.prefix {
                typed.append(byte)
            }
        }
        return typed[...]
    }
}
