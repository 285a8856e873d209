// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc

/// What this process may do besides what its user may (capabilities(7)).
public struct Capabilities: OptionSet, Sendable {
    public let rawValue: UInt64

    public init(rawValue: UInt64) {
        self.rawValue = rawValue
    }

    /// See other users' /proc/PID/fd.
    public static let sysPtrace = Capabilities(rawValue: 1 << 19)
    public static let sysAdmin = Capabilities(rawValue: 1 << 21)
    /// Trace the kernel.
    public static let perfmon = Capabilities(rawValue: 1 << 38)
    /// Load BPF programs.
    public static let bpf = Capabilities(rawValue: 1 << 39)

    var name: String {
        switch self {
        case .sysPtrace: "CAP_SYS_PTRACE"
        case .sysAdmin: "CAP_SYS_ADMIN"
        case .perfmon: "CAP_PERFMON"
        case .bpf: "CAP_BPF"
        default: "0x" + String(rawValue, radix: 16)
        }
    }

    /// Those in force.
    public static var effective: Capabilities {
        let status = (try? TextFile.read("/proc/self/status")) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("CapEff:") }
        let number = line?.split(separator: "\t").last.flatMap { UInt64($0, radix: 16) }
        return Capabilities(rawValue: number ?? 0)
    }

    /// Gives up all of them, for good: of the calling thread, so before there is another.
    public static func drop() throws(CollectorError) {
        let result = vmtally_drop_capabilities()
        guard result == 0 else {
            throw CollectorError(cause: "capset: \(String(cString: strerror(-result)))", remedy: "")
        }
    }

    /// This program's file.
    static var program: String { TextFile.link("/proc/self/exe") ?? "vmtally" }
}
