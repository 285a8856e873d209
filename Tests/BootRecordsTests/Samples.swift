// SPDX-License-Identifier: Apache-2.0
import ExitStats
import SeededRandom
@testable import BootRecords

/// Made-up boots.
enum Samples {
    static func configuration(_ name: String = "console=virtio", runs: [BootRun] = []) -> BootConfiguration {
        var configuration = [UInt8]("kernel".utf8).withUnsafeBytes { bytes in
            BootConfiguration(
                name: name, vmm: "vmtally", cpus: 1, memoryMiB: 256, console: "virtio",
                kernel: .init(name: "vmlinuz", contents: bytes), initrd: nil, commandLine: "quiet",
                marker: "port 0xF5")
        }
        configuration.runs = runs
        return configuration
    }

    static func recording(_ label: String, _ configurations: [BootConfiguration]) -> BootRecording {
        BootRecording(
            tool: .init(name: "vmtally", version: "0"), label: label, recorded: 1_700_000_000, seed: 1,
            host: .init(cpu: "CPU", backend: "kvm_amd", kernel: "6.1", tscKHz: 2_000_000),
            configurations: configurations)
    }

    static func run(
        _ index: Int, hardware: [String: UInt64], userspace: [String: UInt64] = ["KVM_EXIT_IO": 400]
    ) -> BootRun {
        BootRun(
            index: index, nanoseconds: 2_000_000_000 + UInt64(index) * 1000,
            userspace: ExitCounts(source: .vmm, byName: userspace),
            hardware: ExitCounts(source: .vmExitTracepoint, byName: hardware), phases: nil)
    }

    /// Boots like those of Linux on kvm-amd: some reasons always the same, some not, one a matter of the host's time.
    static func boots(_ count: Int, seed: UInt64, scaling: [String: Double] = [:]) -> [BootRun] {
        var generator = SplitMix64(seed: seed)
        func about(_ mean: Double, _ spread: Double) -> Double {
            // Four uniform ones: near enough to a bell, with values that repeat once rounded.
            let sum = (0..<4).reduce(0.0) { sum, _ in sum + Double.random(in: -1...1, using: &generator) }
            return mean + spread * sum * 0.866
        }
        return (0..<count).map { index in
            let means: [(String, Double, Double)] = [
                ("SVM_EXIT_IOIO", 400, 0), ("SVM_EXIT_CPUID", 310, 0), ("SVM_EXIT_MSR", 1200, 2),
                ("SVM_EXIT_NPF", 610, 6), ("SVM_EXIT_VINTR", 120, 5), ("SVM_EXIT_HLT", 35, 4),
                ("SVM_EXIT_WRITE_DR7", 2, 0.4), ("SVM_EXIT_INTR", 600, 40),
            ]
            let hardware = Dictionary(
                uniqueKeysWithValues: means.map { name, mean, spread in
                    (name, UInt64(max(0, about(mean * (scaling[name] ?? 1), spread)).rounded()))
                })
            return run(
                index, hardware: hardware,
                userspace: ["KVM_EXIT_IO": 400, "KVM_EXIT_MMIO": UInt64(max(0, about(40, 3)).rounded())])
        }
    }
}
