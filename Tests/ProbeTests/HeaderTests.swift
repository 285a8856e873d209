// SPDX-License-Identifier: Apache-2.0
import CVMTally
import ExitStats
import Foundation
import Testing

/// guest-probe/include/vmtally.h says the same as the codec, and compiles everywhere.
@Suite struct HeaderTests {
    @Test func constantsAreTheCodecs() {
        #expect(VMTALLY_LEAF_TOTAL == TallyLeaf.total)
        #expect(VMTALLY_LEAF_VCPU_TOTAL == TallyLeaf.vcpuTotal)
        #expect(VMTALLY_LEAF_REASON == TallyLeaf.reason)
        #expect(VMTALLY_LEAF_REASON_COUNT == TallyLeaf.reasonCount)
        #expect(VMTALLY_LEAF_SIGNATURE == TallyLeaf.signature)
        #expect(VMTALLY_LEAF_FEATURES == TallyLeaf.features)
        #expect(VMTALLY_ABI_VERSION == TallyLeaf.version)
        #expect(VMTALLY_THIS_VM.rawValue == TallyScope.machine.rawValue)
        #expect(VMTALLY_THIS_VCPU.rawValue == TallyScope.vcpu.rawValue)
        #expect(VMTALLY_LIVE.rawValue == TallyFeatures.Flags.live.rawValue)
        #expect(VMTALLY_PER_REASON.rawValue == TallyFeatures.Flags.perReason.rawValue)
        #expect(VMTALLY_PER_VCPU.rawValue == TallyFeatures.Flags.perVCPU.rawValue)
        #expect(VMTALLY_BEGAN_LATE.rawValue == TallyFeatures.Flags.beganLate.rawValue)
        #expect(VMTALLY_VOCABULARY_KVM.rawValue == TallyFeatures.Vocabulary.kvm.rawValue)
        #expect(VMTALLY_VOCABULARY_VMX.rawValue == TallyFeatures.Vocabulary.vmx.rawValue)
        #expect(VMTALLY_VOCABULARY_SVM.rawValue == TallyFeatures.Vocabulary.svm.rawValue)
    }

    @Test func signature() {
        #expect(vmtally_is_signature(registers(.tallySignature)) != 0)
        for (eax, ebx) in [(UInt32(0), UInt32(0)), (TallyLeaf.total, 0), (0x16, CPUIDRegisters.tallySignature.ebx)] {
            #expect(vmtally_is_signature(vmtally_registers(eax: eax, ebx: ebx, ecx: 0, edx: 0)) == 0)
        }
    }

    @Test(arguments: [0, 1, 0xFFFF_FFFF, 0x1_0000_0000, 0x1234_5678_9ABC_DEF0, UInt64.max] as [UInt64])
    func decodesWhatTheCodecEncodes(value: UInt64) {
        for other in [0, 1, 0x8000_0000, 0xFEDC_BA98_7654_3210] as [UInt64] {
            let pair = vmtally_decode_pair(registers(CPUIDRegisters(TallyPair(count: value, cycles: other))))
            #expect(pair.count == value && pair.cycles == other)
        }
        #expect(vmtally_decode_count(registers(CPUIDRegisters(count: value))) == value)
        let flags = TallyFeatures.Flags(rawValue: UInt32(truncatingIfNeeded: value))
        let features = TallyFeatures(flags: flags, tscKHz: 2_600_000, vocabulary: .svm)
        let decoded = vmtally_decode_features(registers(features.registers))
        #expect(decoded.version == features.version && decoded.flags == flags.rawValue)
        #expect(decoded.tsc_khz == 2_600_000 && decoded.vocabulary == 2)
    }

    @Test func undefinedIsNeitherACountNorZeroExits() {
        #expect(vmtally_is_undefined(registers(.tallyUndefined)) != 0)
        #expect(vmtally_is_undefined(registers(CPUIDRegisters())) == 0)
        #expect(vmtally_is_undefined(registers(CPUIDRegisters(eax: 1, edx: 0xFFFF_FFFF))) == 0)
        #expect(vmtally_decode_count(registers(.tallyUndefined)) == 0)
        #expect(vmtally_decode_pair(registers(.tallyUndefined)).count == 0)
    }

    /// Every answer, right or not, decodes as the codec decodes it.
    @Test func agreesOnAnything() {
        for _ in 0..<10_000 {
            let few: () -> UInt32 = { [0, 1, 0xFFFF_FFFF, UInt32.random(in: 0...UInt32.max)].randomElement() ?? 0 }
            let answer = CPUIDRegisters(eax: few(), ebx: few(), ecx: few(), edx: few())
            let pair = vmtally_decode_pair(registers(answer))
            #expect(TallyPair(count: pair.count, cycles: pair.cycles) == answer.tallyPair ?? TallyPair())
            #expect(vmtally_decode_count(registers(answer)) == answer.tallyCount ?? 0)
            #expect((vmtally_is_undefined(registers(answer)) != 0) == (answer.tallyPair == nil))
        }
    }

    @Test func readsWithoutASignatureOnly() {
        // Wherever the tests run, asking is harmless; the answer depends on the machine.
        if vmtally_available() == 0 {
            #expect(vmtally_is_signature(vmtally_cpuid(VMTALLY_LEAF_SIGNATURE, 0)) == 0)
        } else {
            #expect(vmtally_read_features().version >= 1)
        }
    }

    static let compilers = [("gcc", "c"), ("clang", "c"), ("g++", "c++"), ("clang++", "c++")]
        .filter { Command.find($0.0) != nil }
    static let standards = ["c": ["c99", "c11", "c17"], "c++": ["c++11", "c++17"]]
    /// A program, and a kernel: no library, no SSE, no red zone.
    static let surroundings = [
        [], ["-m32"], ["-m32", "-fPIC"], ["-fPIC"],
        ["-ffreestanding", "-nostdinc", "-mno-sse", "-fno-pic", "-mcmodel=kernel", "-mno-red-zone"],
    ]

    @Test(arguments: compilers, surroundings)
    func compiles(compiler: (String, String), surroundings: [String]) throws {
        let source = FileManager.default.temporaryDirectory.appending(path: "vmtally-\(UUID().uuidString).c")
        defer { try? FileManager.default.removeItem(at: source) }
        try (Self.program + "\n").write(to: source, atomically: true, encoding: .utf8)
        let include = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../guest-probe/include")
        let warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
        for standard in Self.standards[compiler.1] ?? [] {
            let options = ["-x", compiler.1, "-std=\(standard)", "-I", include.path] + warnings + surroundings
            for optimization in ["-O0", "-O2"] {
                let result = try Command.run(
                    compiler.0, options + [optimization, "-c", source.path, "-o", "/dev/null"])
                #expect(result.status == 0, "\(compiler.0) \(standard): \(result.output)")
            }
        }
    }

    /// MSVC's way, by its intrinsic: Clang stands in for the compiler and brings its <intrin.h>.
    @Test(
        .enabled(if: Command.find("clang") != nil, "no clang"), arguments: ["x86_64", "i686"], ["c", "c++"])
    func compilesForMSVC(processor: String, language: String) throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "vmtally-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let source = folder.appending(path: "program.c")
        let object = folder.appending(path: "program.obj")
        try (Self.program + "\n").write(to: source, atomically: true, encoding: .utf8)
        let include = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../guest-probe/include")
        let result = try Command.run(
            "clang",
            ["--target=\(processor)-pc-windows-msvc", "-ffreestanding", "-x", language, "-O2", "-Wall", "-Wextra"]
                + ["-Werror", "-I", include.path, "-c", source.path, "-o", object.path])
        #expect(result.status == 0, "\(result.output)")
        let listing = try Command.run("llvm-objdump", ["--disassemble", "--no-show-raw-insn", object.path])
        #expect(listing.output.contains("\tcpuid"), "\(listing.output)")
    }

    static let program = """
        #include "vmtally.h"
        unsigned long long exits(unsigned int code);
        unsigned long long exits(unsigned int code)
        {
            struct vmtally_pair pair;
            if (!vmtally_available() || !(vmtally_read_features().flags & VMTALLY_LIVE))
                return 0;
            if (!vmtally_reason(code, &pair))
                return vmtally_total(VMTALLY_THIS_VCPU).count + vmtally_since(vmtally_start()).count;
            return pair.count + vmtally_reason_count(code);
        }
        """

    private func registers(_ answer: CPUIDRegisters) -> vmtally_registers {
        vmtally_registers(eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx)
    }
}
