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
        cpu = Self.cpuName()
        backend = ["kvm_intel", "kvm_amd", "kvm_pvm"].first { access("/sys/module/\($0)", F_OK) == 0 } ?? "unknown"
        var name = utsname()
        uname(&name)
        kernel = withUnsafeBytes(of: &name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    private static func cpuName() -> String {
        guard let file = fopen("/proc/cpuinfo", "re") else { return "unknown" }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 512)
        while fgets(&line, Int32(line.count), file) != nil {
            let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
            if text.hasPrefix("model name"), let colon = text.firstIndex(of: ":") {
                return String(text[text.index(after: colon)...].drop { $0 == " " }.prefix { $0 != "\n" })
            }
        }
        return "unknown"
    }
}
