// SPDX-License-Identifier: Apache-2.0
import CLinux
import CLinuxKVM
import CTestSupport
import Glibc
import Testing
@testable import HostView
@testable import Linux
@testable import Machine

/// What threads can still do once they are confined. Each try is a process of its own: most are ended by it.
@Suite("Sandbox")
struct SandboxTests {
    /// 128 + SIGSYS.
    private static let forbidden: Int32 = 128 + 31

    /// The filters by their role's name, as an exit test can be told of them.
    private static let roles: [String: (Sandbox.Role, SystemCallFilter)] = [
        "main": (.main, .mainThread), "vCPU": (.vCPU, .vCPUThread), "devices": (.devices, .devicesThread),
        "observer": (.observer, .observer(removesTraces: false)),
    ]

    /// What somebody who has broken in would want; no role has any of them, but an observer the two that read /proc and
    /// stop at Ctrl-Z.
    private static let calls: [String: Int32] = [
        "open": SYS_open, "openat": SYS_openat, "creat": SYS_creat, "memfd_create": SYS_memfd_create,
        "socket": SYS_socket, "connect": SYS_connect, "bind": SYS_bind, "sendto": SYS_sendto, "sendmsg": SYS_sendmsg,
        "execve": SYS_execve, "execveat": SYS_execveat, "fork": SYS_fork, "clone": SYS_clone, "clone3": SYS_clone3,
        "ptrace": SYS_ptrace, "process_vm_writev": SYS_process_vm_writev, "kill": SYS_kill, "mount": SYS_mount,
        "chroot": SYS_chroot, "unshare": SYS_unshare, "setns": SYS_setns, "prctl": SYS_prctl, "bpf": SYS_bpf,
        "unlink": SYS_unlink, "rename": SYS_rename, "readlink": SYS_readlink, "rt_sigaction": SYS_rt_sigaction,
        "init_module": SYS_init_module, "perf_event_open": SYS_perf_event_open, "io_uring_setup": 425,
        "ioctl": SYS_ioctl, "tgkill": SYS_tgkill, "mmap": SYS_mmap, "mprotect": SYS_mprotect,
    ]

    /// Goes on in a thread of that role.
    private static func inThread(_ role: String, _ body: @escaping @Sendable () -> Void) throws {
        guard let (role, filter) = roles[role] else { return }
        try Sandbox.prepare(advice: "advice")
        try Thread(name: role.name) {
            do throws(SystemError) { try Sandbox.enter(role, filter) } catch { exit(2) }
            body()
        }.join()
    }

    private static let tries = roles.keys.sorted().flatMap { role in
        calls.keys.sorted()
            .filter { role != "observer" || !["readlink", "rt_sigaction"].contains($0) }
            .map { (role, $0) }
    }

    @Test(arguments: tries)
    func aForbiddenCallEndsTheProcessAndSaysWhich(role: String, call: String) async throws {
        // All arguments are -1: no request that ioctl may have, memory that is executable, no thread of ours.
        let result = await #expect(processExitsWith: .exitCode(Self.forbidden), observing: [\.standardErrorContent]) {
            [role = role as String, call = call as String] in
            try Self.inThread(role) { _ = ctest_call(Int(Self.calls[call] ?? -1)) }
        }
        let text = String(decoding: try #require(result).standardErrorContent, as: UTF8.self)
        let number = Self.calls[call] ?? -1
        let name = call == "io_uring_setup" || call == "ioctl" ? call : "\(call) (\(number))"
        #expect(text.contains("does not let the \(role) thread make the system call \(name)"), "\(text)")
        #expect(text.hasSuffix("advice\n"), "\(text)")
    }

    @Test("calls by the numbers of i386 and x32 mean others, and are none of ours", arguments: roles.keys.sorted())
    func otherArchitectures(role: String) async {
        await #expect(processExitsWith: .exitCode(Self.forbidden)) {
            [role = role as String] in
            // x32's write.
            try Self.inThread(role) { _ = ctest_call(0x4000_0001) }
        }
    }

    @Test("what a tracer puts in the place of a call that it makes fail", arguments: roles.keys.sorted())
    func noCall(role: String) async {
        await #expect(processExitsWith: .success) {
            [role = role as String] in
            try Self.inThread(role) { if ctest_call(-1) != -1 || errno != ENOSYS { exit(1) } }
            exit(0)
        }
    }

    @Test("what Swift itself does goes on: memory, a first dictionary, errors, locks", arguments: roles.keys.sorted())
    func swiftGoesOn(role: String) async {
        await #expect(processExitsWith: .success) {
            [role = role as String] in
            try Self.inThread(role) {
                var words: [String: [UInt8]] = [:]
                for index in 0..<2000 {
                    words["\(index)"] = [UInt8](repeating: 1, count: index * 64)
                }
                guard words.values.reduce(0, { $0 + $1.count }) == 64 * 1999 * 1000 else { exit(1) }
                words.removeAll()
                do { throw SystemError("nothing", errno: EIO) } catch { guard !"\(error)".isEmpty else { exit(1) } }
                guard [3, 1, 2].shuffled().sorted() == [1, 2, 3] else { exit(1) }
            }
            print("done")
            exit(0)
        }
    }

    @Test("a trap and the end of memory end the process, as ever", arguments: roles.keys.sorted(), [false, true])
    func traps(role: String, memory: Bool) async {
        await #expect(processExitsWith: .failure) {
            [role = role as String, memory = memory as Bool] in
            try Self.inThread(role) {
                if memory {
                    let all = UnsafeMutableRawPointer.allocate(byteCount: 1 << 46, alignment: 16)
                    all.storeBytes(of: 1, as: UInt8.self)
                } else {
                    fatalError("a trap")
                }
            }
            exit(0)
        }
    }

    @Test("without a filter, files, networks and capabilities are gone all the same")
    func privileges() async {
        await #expect(processExitsWith: .success) {
            // What cannot be asked for afterwards.
            let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            let landlock = try Sandbox.giveUpPrivileges()
            if landlock > 0 {
                guard open("/etc/passwd", O_RDONLY) < 0, errno == EACCES else { exit(1) }
                guard open("/tmp/vmtally-sandbox", O_WRONLY | O_CREAT, 0o600) < 0, errno == EACCES else { exit(2) }
            }
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = UInt16(9).bigEndian
            address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
            let connected = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    connect(socket, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            guard connected < 0, landlock < 4 || errno == EACCES else { exit(3) }
            // CAP_SYS_CHROOT; without it EPERM, whatever the path.
            guard chroot("/") < 0, errno == EPERM else { exit(4) }
            exit(0)
        }
    }

    @Test("KVM_RUN is what a vCPU's filter looks at first")
    func kvmRunIsFirst() {
        let program = SystemCallFilter.vCPUThread.program(role: 1)
        #expect(program[8].k == UInt32(SYS_ioctl))
        #expect(program[10].k == UInt32(VMTALLY_KVM_RUN))
        #expect(program[11].k == UInt32(SECCOMP_RET_ALLOW))
    }

    // MARK: a guest that owns the process

    private static let intrusions: [String: @Sendable () -> Void] = [
        "opens a file": { _ = open("/etc/passwd", O_RDONLY) },
        "creates a file": { _ = creat("/tmp/vmtally-intruder", 0o600) },
        "connects": { _ = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0) },
        "executes a program": {
            var words: [UnsafeMutablePointer<CChar>?] = [strdup("/bin/true"), nil]
            execv("/bin/true", &words)
        },
        "traces its parent": { _ = ctest_call(Int(SYS_ptrace)) },
        "makes code": { _ = mmap(nil, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) },
        "signals its parent": { _ = kill(getppid(), SIGTERM) },
    ]

    @Test(
        .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"), arguments: intrusions.keys.sorted())
    func anIntruderInTheDevicesThread(intrusion: String) async throws {
        let result = await #expect(processExitsWith: .exitCode(Self.forbidden), observing: [\.standardErrorContent]) {
            [intrusion = intrusion as String] in
            // 1: hlt; jmp 1b
            let image = multibootImage([0xF4, 0xEB, 0xFD])
            try image.withUnsafeBytes { bytes in
                var configuration = MachineConfiguration()
                configuration.timeoutMilliseconds = 30_000
                configuration.sandbox.scope = .process
                configuration.intruder = Self.intrusions[intrusion]
                _ = try Machine(configuration, .multiboot(bytes, commandLine: "")).run()
            }
            exit(0)
        }
        let text = String(decoding: try #require(result).standardErrorContent, as: UTF8.self)
        #expect(text.contains("the devices thread"), "\(text)")
    }
}
