// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import Linux
import Machine

/// How far the process confines itself before the guest runs: docs/sandbox.md.
struct SandboxOptions: ParsableArguments {
    @Flag(help: "Leave all threads their system calls, files and capabilities while the guest runs.")
    var noSandbox = false

    @Option(
        help: ArgumentHelp(
            "Run in user, PID, mount, IPC and network namespaces of its own, with this folder as the root.",
            valueName: "dir"))
    var jail: String?

    func validate() throws {
        guard !noSandbox || jail == nil else { throw ValidationError("--jail is a part of the sandbox: give one.") }
    }

    /// To be called first, while the process has a single thread: a jail goes on in a child process.
    func configuration() throws -> SandboxConfiguration {
        var configuration = SandboxConfiguration()
        guard !noSandbox else { return configuration }
        configuration.scope = .process
        configuration.advice += " --no-sandbox runs without."
        if let jail {
            var status = stat()
            guard stat(jail, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
                throw Failure("--jail \(jail): not a folder; an empty one that nobody writes to is best")
            }
            // The folder itself, whatever the process's own is: that lies below what is mounted on it.
            guard let path = realpath(jail, nil) else {
                throw Failure("--jail \(jail): \(String(cString: strerror(errno)))")
            }
            defer { free(path) }
            let folder = String(cString: path)
            guard folder != "/" else {
                throw Failure("--jail \(jail): the root of all files keeps nobody in; an empty folder is best")
            }
            do throws(SystemError) {
                configuration.jail = try Jail.enter(folder: folder)
            } catch {
                throw Failure("--jail: \(error). \(Self.remedy(error))")
            }
        }
        return configuration
    }

    private static func remedy(_ error: SystemError) -> String {
        let knobs = [
            ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
            ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
            (
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
                "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for vmtally with userns"
            ),
        ]
        for (path, value, command) in knobs where firstWord(of: path) == value {
            return "This host gives users no namespaces: as root, \(command)"
        }
        return error.errno == EPERM
            ? "Something keeps this process from namespaces, as a container's seccomp profile does: start it outside"
            : "Without --jail the rest of the sandbox is there all the same"
    }

    private static func firstWord(of path: String) -> String? {
        guard let file = fopen(path, "re") else { return nil }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 64)
        guard fgets(&line, Int32(line.count), file) != nil else { return nil }
        return String(decoding: line.prefix { $0 > 0x20 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}
