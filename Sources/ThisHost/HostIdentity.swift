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
        cpu = Self.processorName
        backend = Self.backendHere
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

    /// The KVM vendor module of this host, `unknown` when it shows none: without reading a file.
    public static var backendHere: String {
        let modules = ["kvm_intel", "kvm_amd", "kvm_pvm"].filter { access("/sys/module/\($0)", F_OK) == 0 }.map {
            name in
            HostFacts.Module(
                name: name, loadable: access("/sys/module/\(name)/initstate", F_OK) == 0, parameters: [])
        }
        var flags: Set<String> = []
        if vmtally_cpuid(1, 0).ecx >> 5 & 1 == 1 { flags.insert("vmx") }
        if vmtally_cpuid(0x8000_0000, 0).eax >= 0x8000_0001, vmtally_cpuid(0x8000_0001, 0).ecx >> 2 & 1 == 1 {
            flags.insert("svm")
        }
        return HostBackend(among: modules, cpuFlags: flags).name ?? "unknown"
    }

    /// The processor brand string (CPUID leaves 0x80000002 to 0x80000004), which is Linux' model name.
    static var processorName: String {
        guard vmtally_cpuid(0x8000_0000, 0).eax >= 0x8000_0004 else { return "unknown" }
        let registers = (UInt32(0x8000_0002)...0x8000_0004).flatMap { leaf in
            let answer = vmtally_cpuid(leaf, 0)
            return [answer.eax, answer.ebx, answer.ecx, answer.edx]
        }
        let bytes = registers.flatMap { register in (0..<4).map { UInt8(truncatingIfNeeded: register >> (8 * $0)) } }
        let words = String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self).split(whereSeparator: \.isWhitespace)
        return words.isEmpty ? "unknown" : words.joined(separator: " ")
    }
}
