// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc

/// Process signals as a file descriptor, blocked as long as this lives.
package struct EndingSignals: ~Copyable {
    /// Readable when a signal came; -1 without signals.
    package var descriptor: Int32 { file.rawValue }
    private let file: FileDescriptor
    private var before: sigset_t?

    /// No signals.
    package init() {
        file = FileDescriptor(owning: -1)
    }

    package init(_ signals: [Int32]) throws(SystemError) {
        let signals = signals.filter { !EndingSignal.isIgnored($0) }
        guard !signals.isEmpty else {
            self.init()
            return
        }
        var before = sigset_t()
        var set = sigset_t()
        sigemptyset(&set)
        for signal in signals {
            sigaddset(&set, signal)
        }
        pthread_sigmask(SIG_BLOCK, &set, &before)
        do throws(SystemError) {
            let file = try FileDescriptor(signalfd(-1, &set, Int32(SFD_CLOEXEC | SFD_NONBLOCK)), of: "signalfd")
            self.init(file, before)
        } catch {
            pthread_sigmask(SIG_SETMASK, &before, nil)
            throw error
        }
    }

    private init(_ file: consuming FileDescriptor, _ before: sigset_t) {
        self.file = file
        self.before = before
    }

    deinit {
        if var before {
            pthread_sigmask(SIG_SETMASK, &before, nil)
        }
    }

    /// Not even when this is gone: what one has called off is told in peace, whatever else the same wish sends.
    package mutating func stayBlocked() {
        before = nil
    }

    /// The signal that came, if any.
    package func next() -> Int32? {
        var info = signalfd_siginfo()
        let size = MemoryLayout<signalfd_siginfo>.size
        return read(file.rawValue, &info, size) == size ? Int32(info.ssi_signo) : nil
    }
}

/// Signals that end a program, unless it has another idea.
public enum EndingSignal {
    /// What people, shells, batch systems and limits send. Not those of a program that is broken.
    public static let all = [
        SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU, SIGIO, SIGPWR,
    ]

    /// nohup(1) wants to be obeyed.
    fileprivate static func isIgnored(_ signal: Int32) -> Bool {
        guard signal == SIGHUP else { return false }
        var action = sigaction()
        return sigaction(signal, nil, &action) == 0
            && unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) == 1  // SIG_IGN
    }
}
