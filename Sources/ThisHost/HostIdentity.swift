// SPDX-License-Identifier: Apache-2.0
import CLinux
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
    /// The emulator that the host itself runs in, as `Bochs`: then no time is a processor's. Absent where none is known.
    public let emulator: String?

    enum CodingKeys: String, CodingKey {
        case cpu, backend, kernel, emulator
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
        emulator = Self.emulatorHere
    }

    /// The emulator that this host runs in; nil where none is known.
    public static var emulatorHere: String? { emulator(commandLine: commandLine()) }

    /// What the lab says on its kernel's command line, or QEMU's TCG by its signature in leaf 0x40000000.
    static func emulator(commandLine: String) -> String? {
        let key = "vmtally.emulator="
        if let word = commandLine.split(whereSeparator: \.isWhitespace).first(where: { $0.hasPrefix(key) }) {
            return String(word.dropFirst(key.count).prefix(40))
        }
        guard vmtally_cpuid(1, 0).ecx >> 31 == 1 else { return nil }
        let answer = vmtally_cpuid(0x4000_0000, 0)
        // TCGTCGTCGTCG
        return (answer.ebx, answer.ecx, answer.edx) == (0x5447_4354, 0x4354_4743, 0x4743_5447) ? "QEMU" : nil
    }

    private static func commandLine() -> String {
        guard let file = fopen("/proc/cmdline", "re") else { return "" }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 4096)
        guard fgets(&line, Int32(line.count), file) != nil else { return "" }
        return String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// What there is to say of figures that were taken here; nil on a processor.
    public var caveat: String? { emulator.map(Self.caveat) }

    public static func caveat(_ emulator: String) -> String {
        "taken in an emulated host (\(emulator)): no time is a processor's"
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
