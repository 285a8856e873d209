// SPDX-License-Identifier: Apache-2.0
import CLinux

/// Namespaces of the process's own: user, PID, mount, IPC, network; and a folder as its root.
package struct Jail: Sendable {
    package let folder: String

    /// Goes on in a child process in new namespaces; the parent waits for it and exits as it does. Files can still be
    /// opened. Only while the process has a single thread.
    package static func enter(folder: String) throws(SystemError) -> Jail {
        var step: UnsafePointer<CChar>?
        let signals = EndingSignal.all
        let result = vmtally_enter_namespaces(signals, signals.count, &step)
        guard result == 0 else { throw SystemError(step.map { String(cString: $0) } ?? "jail", errno: -result) }
        return Jail(folder: folder)
    }

    private init(folder: String) {
        self.folder = folder
    }

    /// The folder becomes the root, read-only; the network goes. For all threads that the caller starts from now on.
    package func lock() throws(SystemError) {
        let result = vmtally_change_root(folder)
        guard result == 0 else { throw SystemError("jail \(folder)", errno: -result) }
    }
}
