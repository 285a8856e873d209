// SPDX-License-Identifier: Apache-2.0
import CTestSupport
import ExitStats
import Foundation
import Testing

/// vmtally-probe as it stands on hosts of several kinds: each CPUID that it makes is answered as such a host would.
@Suite(.enabled(if: Command.find("swiftc") != nil && Command.find("ld.lld") != nil, "no Swift toolchain in PATH"))
struct LinuxProbeTests {
    /// A host's answers.
    private final class Host {
        var signature = true
        var version: UInt32 = 2
        var flags: TallyFeatures.Flags = [.live, .perReason, .perVCPU]
        /// The VM's total; each question for a total or a reason is an exit of its own.
        var count: UInt64 = 1000
        var cycles: UInt64 = 5_000_000
        /// Of the vCPU that asks.
        var own = TallyPair(count: 77, cycles: 7_777)
        var step: UInt64 = 1
        /// Of KVM_EXIT_IO.
        var io = TallyPair(count: 12, cycles: 345)
        /// What a host without a signature has in the other registers.
        var garbage: UInt32 = 0
        private(set) var asked: [(leaf: UInt32, subleaf: UInt32)] = []

        /// Leaves of hypervisors; none: the processor is nobody's guest.
        var hypervisor: [UInt32: CPUIDRegisters] = [:]

        func answer(_ leaf: UInt32, _ subleaf: UInt32) -> CPUIDRegisters {
            if leaf == 1 { return CPUIDRegisters(ecx: hypervisor.isEmpty ? 0 : 1 << 31) }
            if let answer = hypervisor[leaf] { return answer }
            guard TallyLeaf.range.contains(leaf) else { return CPUIDRegisters() }
            asked.append((leaf, subleaf))
            guard signature else {
                guard leaf == TallyLeaf.total else {
                    return CPUIDRegisters(eax: garbage, ebx: garbage, ecx: garbage, edx: garbage)
                }
                count &+= step
                return CPUIDRegisters(
                    eax: UInt32(truncatingIfNeeded: count), ebx: garbage, ecx: garbage, edx: garbage)
            }
            switch (leaf, subleaf, version) {
            case (TallyLeaf.signature, _, _): return .tallySignature
            case (TallyLeaf.features, _, _):
                var features = TallyFeatures(flags: flags, tscKHz: 2_000_000, vocabulary: .kvm)
                features.version = version
                return features.registers
            case (TallyLeaf.total, 1, 1), (TallyLeaf.vcpuTotal, _, 2): return CPUIDRegisters(own)
            case (TallyLeaf.total, 2..., 1): return .tallyUndefined
            case (TallyLeaf.total, _, _):
                count &+= step
                cycles &+= 100
                return CPUIDRegisters(TallyPair(count: count, cycles: cycles))
            case (TallyLeaf.reason, _, _):
                count &+= step
                cycles &+= 100
                return subleaf == 2 ? CPUIDRegisters(io) : CPUIDRegisters()
            default: return CPUIDRegisters()
            }
        }
    }

    private static let program = Result<URL, any Error> {
        let folder = FileManager.default.temporaryDirectory.appending(path: "vmtally-probe-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..").standardizedFileURL
        let program = folder.appending(path: "vmtally-probe")
        let build = try Command.run(
            "env",
            ["SWIFTC", "CLANG", "LLD"].map { name in
                let tool = name == "LLD" ? "ld.lld" : name.lowercased()
                return "\(name)=\(Command.find(tool)?.path ?? tool)"
            } + [root.appending(path: "guest-probe/Linux/build").path, program.path])
        try #require(build.status == 0, "\(build.output)")
        return program
    }

    private func run(_ words: [String], _ host: Host) throws -> (status: Int32, output: String) {
        let program = try Self.program.get().path
        let file = ctest_memory_file(0)
        try #require(file >= 0)
        defer { close(file) }
        var arguments = ([program] + words).map { strdup($0) } + [nil]
        defer { arguments.forEach { free($0) } }
        let status = ctest_run_answering_cpuid(
            program, &arguments, file,
            { context, registers in
                guard let context, let registers else { return }
                let host = Unmanaged<Host>.fromOpaque(context).takeUnretainedValue()
                let answer = host.answer(registers[0], registers[2])
                (registers[0], registers[1], registers[2], registers[3]) =
                    (answer.eax, answer.ebx, answer.ecx, answer.edx)
            }, Unmanaged.passUnretained(host).toOpaque())
        lseek(file, 0, SEEK_SET)
        let output = FileHandle(fileDescriptor: file, closeOnDealloc: false).readDataToEndOfFile()
        return (status >> 8 & 0xFF, String(decoding: output, as: UTF8.self))
    }

    private func json(_ text: String) throws -> [String: Any] {
        try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any], "\(text)")
    }

    @Test("hosts of either version are read, the VM's total and the vCPU's own", arguments: [1, 2] as [UInt32])
    func versions(version: UInt32) throws {
        let host = Host()
        host.version = version
        let machine = try run(["--json"], host)
        let total = try #require(try json(machine.output)["total"] as? [String: Any])
        #expect(machine.status == 0 && total["count"] as? Int == 1001, "\(machine.output)")
        let own = try run(["--json", "--cpu", "0"], host)
        let report = try json(own.output)
        #expect(report["scope"] as? String == "vcpu" && report["via"] as? String == "cpuid")
        #expect((report["total"] as? [String: Any])?["count"] as? Int == 77, "\(own.output)")
        #expect(host.asked.contains { $0.leaf == TallyLeaf.vcpuTotal } == (version == 2))
        #expect(host.asked.contains { $0.leaf == TallyLeaf.total && $0.subleaf == 1 } == (version == 1))
    }

    @Test(
        "--force without a signature: EAX of 0x4FFFFFFF, nothing else, and it says so",
        arguments: [0, 0xDEAD_BEEF] as [UInt32])
    func force(garbage: UInt32) throws {
        let host = Host()
        host.signature = false
        host.garbage = garbage
        host.count = 4_294_967_000
        let shown = try run(["--force"], host)
        #expect(shown.status == 0)
        #expect(shown.output.contains("EAX of leaf 0x4FFFFFFF"), "\(shown.output)")
        let lines = shown.output.split(separator: "\n")
        #expect(lines.count == 3 && lines.last?.hasPrefix("total ") == true, "\(shown.output)")
        #expect(lines.last?.contains("4,294,967,00") == true && lines.last?.hasSuffix(" -") == true)
        #expect(!host.asked.contains { $0.leaf == TallyLeaf.reason })
        // Past 2^32 while CMD runs: what is new is still told.
        host.count = UInt64(UInt32.max) - 4
        host.step = 3
        let wrapped = try run(["exec", "--force", "--json", "--", "/bin/true"], host)
        let report = try json(wrapped.output)
        let total = try #require(report["total"] as? [String: Any])
        #expect(total["count"] as? Int == 2 && total["cycles"] is NSNull, "\(wrapped.output)")
        #expect(report["vocabulary"] is NSNull && (report["by_reason"] as? [Any])?.isEmpty == true)
        // A leaf that does not count is no tally.
        host.step = 0
        let still = try run(["--force"], host)
        #expect(still.status == 1 && still.output.contains("no tally here"), "\(still.output)")
        #expect(try run([], host).status == 1)
    }

    @Test(
        "columns never run together",
        arguments: [0, 999_999_999, 1 << 40, 1 << 63, .max - 1_000_000] as [UInt64])
    func columns(value: UInt64) throws {
        let host = Host()
        (host.count, host.cycles) = (value, value)
        host.io = TallyPair(count: value, cycles: value)
        let shown = try run([], host)
        let rows = shown.output.split(separator: "\n").filter { $0.hasPrefix("KVM_EXIT") || $0.hasPrefix("total") }
        #expect(rows.count == (value == 0 ? 1 : 2), "\(shown.output)")
        for row in rows {
            let numbers = row.split(separator: " ").dropFirst()
            #expect(numbers.count == 3, "\(row)")
            for number in numbers {
                let groups = number.split(separator: ",")
                #expect(groups.dropFirst().allSatisfy { $0.count == 3 } && (1...3).contains(groups[0].count), "\(row)")
            }
        }
    }

    @Test("--via page where there is none is an error; auto reads by CPUID")
    func noPage() throws {
        let host = Host()
        let page = try run(["--via", "page"], host)
        #expect(page.status == 1 && page.output.contains("no tally page"), "\(page.output)")
        let auto = try run(["--via", "auto"], host)
        #expect(auto.status == 0 && auto.output.hasPrefix("live, by CPUID; userspace exits"), "\(auto.output)")
        #expect(try run(["--via", "sideways"], host).status == 64)
    }

    private static let kvm = CPUIDRegisters(eax: 0x4000_0001, ebx: 0x4B4D_564B, ecx: 0x564B_4D56, edx: 0x4D)

    @Test(
        "features: KVM's bits by name, those that are not there with what that costs",
        arguments: [0, 0x100] as [UInt32])
    func features(offset: UInt32) throws {
        let host = Host()
        // Hyper-V's leaves before KVM's, as VMMs have them.
        host.hypervisor[0x4000_0000] = CPUIDRegisters(
            eax: 0x4000_0006, ebx: 0x7263_694D, ecx: 0x666F_736F, edx: 0x7648_2074)
        host.hypervisor[0x4000_0000 + offset] = Self.kvm
        host.hypervisor[0x4000_0001 + offset] = CPUIDRegisters(eax: 1 << 6 | 1 << 30, edx: 1)
        let shown = try run(["features"], host)
        #expect(shown.status == 0)
        #expect(shown.output.contains(/: KVMKVMKVM, leaves to 0x4000/), "\(shown.output)")
        #expect(shown.output.contains(/\n  yes  KVM_FEATURE_PV_EOI +end of interrupt by a bit/), "\(shown.output)")
        #expect(shown.output.contains(/\n  -    KVM_FEATURE_PV_TLB_FLUSH +costs: IPIs to/), "\(shown.output)")
        #expect(shown.output.contains("bits without a name here: 0x40000000"), "\(shown.output)")
        #expect(shown.output.contains(/\n  yes  KVM_HINTS_REALTIME +vCPUs are never/), "\(shown.output)")
        #expect(shown.output.contains("VMTallyExits, ABI version 2, live"), "\(shown.output)")
        // Every feature that there is has its line.
        #expect(shown.output.split(separator: "\n").count { $0.contains("KVM_") } == KVMFeature.features.count + 3)
        let report = try json(try run(["features", "--json"], host).output)
        #expect(report["schema"] as? String == "vmtally.features/1" && report["kvm"] as? Bool == true)
        #expect(report["base"] as? Int == 0x4000_0000 + Int(offset) && report["signature"] as? String == "KVMKVMKVM")
        #expect((report["features"] as? [String: Any])?["names"] as? [String] == ["KVM_FEATURE_PV_EOI"])
        #expect((report["hints"] as? [String: Any])?["value"] as? Int == 1)
        #expect((report["tally"] as? [String: Any])?["version"] as? Int == 2)
    }

    @Test("features of a guest of another hypervisor, and of none")
    func noFeatures() throws {
        let host = Host()
        host.signature = false
        let none = try run(["features"], host)
        #expect(none.status == 1 && none.output.contains("no hypervisor"), "\(none.output)")
        // A signature that would end the JSON string.
        host.hypervisor[0x4000_0000] = CPUIDRegisters(eax: 0, ebx: 0x2278_225C, ecx: 0x0000_1B41, edx: 0)
        let other = try run(["features", "--json"], host)
        let report = try json(other.output)
        #expect(other.status == 1 && report["kvm"] as? Bool == false && report["signature"] as? String == "..x.A.")
        #expect(report["tally"] is NSNull, "\(other.output)")
    }

    @Test(
        "its documents are of their schemas",
        .enabled(if: (try? Command.run("env", ["/usr/bin/python3", "-c", "import jsonschema"]))?.status == 0))
    func schemas() throws {
        let host = Host()
        host.hypervisor[0x4000_0000] = Self.kvm
        let unsigned = Host()
        unsigned.signature = false
        unsigned.hypervisor[0x4000_0000] = Self.kvm
        let runs = [
            (["--json"], host), (["features", "--json"], host), (["exec", "--json", "--", "/bin/true"], host),
            (["--json", "--force"], unsigned), (["features", "--json"], unsigned), (["--json", "--cpu", "0"], host),
        ]
        let folder = FileManager.default.temporaryDirectory.appending(path: "vmtally-schemas-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..").standardizedFileURL
        for (index, (words, host)) in runs.enumerated() {
            let file = folder.appending(path: "\(index).json")
            try Data(try run(words, host).output.utf8).write(to: file)
            let result = try Command.run(
                "env",
                ["/usr/bin/python3", root.appending(path: "scripts/validate-json").path, "--strict", file.path])
            #expect(result.status == 0, "\(words): \(result.output)")
        }
    }
}
