// SPDX-License-Identifier: Apache-2.0
import Glibc

/// The host that figures were taken on.
public struct HostIdentity: Codable, Equatable, Sendable {
    /// CPU model name.
    public let cpu: String
    /// The KVM vendor module: `kvm_intel`, `kvm_amd`, `kvm_pvm`; `unknown` when it shows none.
    public let backend: String
    /// Kernel release.
    public let kernel: String
    public let tscKHz: UInt32

    enum CodingKeys: String, CodingKey {
        case cpu, backend, kernel
        case tscKHz = "tsc_khz"
    }

    public init(tscKHz: UInt32) {
        self.tscKHz = tscKHz
        let processor = Self.processor()
        cpu = processor.name
        backend = HostBackend(among: Self.modules(), cpuFlags: processor.virtualization).name ?? "unknown"
        var name = utsname()
        uname(&name)
        kernel = withUnsafeBytes(of: &name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    /// The KVM vendor modules that are there, without their parameters.
    private static func modules() -> [HostFacts.Module] {
        ["kvm_intel", "kvm_amd", "kvm_pvm"].filter { access("/sys/module/\($0)", F_OK) == 0 }.map { name in
            HostFacts.Module(
                name: name, loadable: access("/sys/module/\(name)/initstate", F_OK) == 0, parameters: [])
        }
    }

    /// What /proc/cpuinfo says of the first processor: its name, and which of `vmx` and `svm` it has.
    private static func processor() -> (name: String, virtualization: Set<String>) {
        var name = "unknown"
        guard let file = fopen("/proc/cpuinfo", "re") else { return (name, []) }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 8192)
        while fgets(&line, Int32(line.count), file) != nil {
            let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
            guard let colon = text.firstIndex(of: ":") else { break }
            let value = text[text.index(after: colon)...].drop { $0 == " " }.prefix { $0 != "\n" }
            if text.hasPrefix("model name") {
                name = String(value)
            } else if text.hasPrefix("flags") {
                return (name, Set(value.split(separator: " ").filter { $0 == "vmx" || $0 == "svm" }.map(String.init)))
            }
        }
        return (name, [])
    }
}
