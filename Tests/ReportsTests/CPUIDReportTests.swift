// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Foundation
import Reports
import Testing

@Suite("CPUID report")
struct CPUIDReportTests {
    @Test("vendor, sizes and KVM's signature are decoded")
    func decoded() throws {
        let report = CPUIDReport(source: .supported, leaves: Self.leaves)
        #expect(report.vendor == "GenuineIntel")
        #expect(report.highestLeaf == 0x16)
        #expect(report.physicalAddressBits == 46)
        #expect(report.linearAddressBits == 48)
        let kvm = try #require(report.kvm)
        #expect(kvm.signature == "KVMKVMKVM")
        #expect(kvm.highestLeaf == 0x4000_0001, "0 means that, from old hosts")
        #expect(kvm.features.filter(\.present).map(\.bit) == [0, 3, 24])
        #expect(kvm.unknownFeatures == [8, 31])
        #expect(kvm.hints.map(\.present) == [true])
        #expect(report.tally == nil)
    }

    @Test("each KVM feature is in the text: what it is, or what its absence costs")
    func features() {
        let report = CPUIDReport(source: .supported, leaves: Self.leaves)
        let lines = report.text().split(separator: "\n")
        for feature in CPUIDBitGuide.kvmFeatures {
            let line = lines.first { $0.contains(feature.name + " ") }
            let isPresent = [0, 3, 24].contains(feature.bit)
            #expect(line?.hasSuffix(isPresent ? feature.meaning : feature.cost) == true, "\(feature.name)")
            #expect(line?.hasPrefix(isPresent ? "  yes" : "  -") == true)
        }
        #expect(lines.contains("  yes  bit 31: newer than this version of vmtally"))
    }

    @Test("raw lines are those of cpuid -1 -r")
    func raw() {
        let report = CPUIDReport(source: .supported, leaves: [Self.leaves[0], Self.leaves[2]])
        #expect(
            report.raw() == """
                CPU:
                   0x00000000 0x00: eax=0x00000016 ebx=0x756e6547 ecx=0x6c65746e edx=0x49656e69
                   0x0000000d 0x01: eax=0x0000000b ebx=0x00000000 ecx=0x00000000 edx=0x00000000

                """)
    }

    @Test("one leaf alone keeps what is decoded from it")
    func only() {
        let report = CPUIDReport(source: .supported, leaves: Self.leaves)
        let kvm = report.only(leaf: 0x4000_0001)
        #expect(kvm.leaves.count == 1)
        #expect(kvm.kvm == report.kvm && kvm.vendor == nil && kvm.features.isEmpty)
        #expect(report.only(leaf: 0xD).kvm == nil)
        #expect(report.only(leaf: 0xD).features.map(\.leaf) == [0xD])
        #expect(report.only(leaf: 0x99).leaves.isEmpty)
    }

    @Test("vmtally's own leaves are decoded by its codec")
    func tally() throws {
        func leaf(_ number: UInt32, _ registers: CPUIDRegisters) -> CPUIDReport.Leaf {
            .init(
                leaf: number, subleaf: nil, eax: registers.eax, ebx: registers.ebx, ecx: registers.ecx,
                edx: registers.edx)
        }
        let features = TallyFeatures(flags: [.live, .perReason], tscKHz: 2_700_000, vocabulary: .svm)
        let report = CPUIDReport(
            source: .vcpu,
            leaves: [
                leaf(TallyLeaf.signature, .tallySignature), leaf(TallyLeaf.features, features.registers),
                leaf(TallyLeaf.total, CPUIDRegisters(TallyPair(count: 1 << 40, cycles: 123))),
            ])
        let tally = try #require(report.tally)
        #expect(tally.signed && tally.version == 2 && tally.tscKhz == 2_700_000 && tally.vocabulary == "svm")
        #expect(tally.live == true && tally.perReason == true && tally.perVCPU == false)
        #expect(tally.exits == 1 << 40 && tally.cycles == 123)
        #expect(report.text().contains("exits 1099511627776, cycles 123"))
        let json = try report.json()
        for key in ["tsc_khz", "per_vcpu", "per_reason"] { #expect(json.contains("\"\(key)\"")) }
        let unsigned = CPUIDReport(source: .vcpu, leaves: [leaf(TallyLeaf.signature, CPUIDRegisters())])
        #expect(unsigned.tally?.signed == false)
        #expect(unsigned.text().contains("does not carry the signature"))
    }

    @Test("an empty table is no trouble", arguments: CPUIDReport.Source.allCases)
    func empty(_ source: CPUIDReport.Source) throws {
        let report = CPUIDReport(source: source, leaves: [])
        #expect(report.kvm == nil && report.vendor == nil && report.features.isEmpty)
        #expect(report.text().hasSuffix("Leaves\n"))
        #expect(report.raw() == "CPU:\n")
        let json = try #require(JSONSerialization.jsonObject(with: Data(report.json().utf8)) as? [String: Any])
        #expect(json["schema"] as? String == "vmtally.cpuid/1")
    }

    @Test("a table without KVM's leaves says what a guest loses")
    func noKVM() {
        let report = CPUIDReport(source: .vcpu, leaves: Array(Self.leaves.prefix(3)))
        #expect(report.text().contains("a guest cannot know that it runs on KVM"))
    }

    @Test("the bits of asm/kvm_para.h have our names", .enabled(if: KVMParaHeader.isToBeTested, KVMParaHeader.advice))
    func header() throws {
        let path = try #require(KVMParaHeader.path, KVMParaHeader.advice)
        var features: [Int: String] = [:]
        var hints: [Int: String] = [:]
        for line in try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n") {
            let words = line.split { $0 == " " || $0 == "\t" }
            guard words.count >= 3, words[0] == "#define", let bit = Int(words[2]) else { continue }
            if words[1].hasPrefix("KVM_FEATURE_") { features[bit] = String(words[1]) }
            if words[1].hasPrefix("KVM_HINTS_") { hints[bit] = String(words[1]) }
        }
        #expect(features.count >= 18)
        let known = Dictionary(uniqueKeysWithValues: CPUIDBitGuide.kvmFeatures.map { ($0.bit, $0.name) })
        #expect(features == known.filter { features[$0.key] != nil })
        let knownHints = Dictionary(uniqueKeysWithValues: CPUIDBitGuide.kvmHints.map { ($0.bit, $0.name) })
        #expect(hints == knownHints.filter { hints[$0.key] != nil })
    }

    private static let leaves: [CPUIDReport.Leaf] = [
        .init(leaf: 0, subleaf: nil, eax: 0x16, ebx: 0x756E_6547, ecx: 0x6C65_746E, edx: 0x4965_6E69),
        .init(leaf: 0xD, subleaf: 0, eax: 7, ebx: 0x340, ecx: 0x340, edx: 0),
        .init(leaf: 0xD, subleaf: 1, eax: 0xB, ebx: 0, ecx: 0, edx: 0),
        .init(leaf: 0x8000_0008, subleaf: nil, eax: 0x302E, ebx: 0, ecx: 0, edx: 0),
        .init(leaf: 0x4000_0000, subleaf: nil, eax: 0, ebx: 0x4B4D_564B, ecx: 0x564B_4D56, edx: 0x4D),
        .init(leaf: 0x4000_0001, subleaf: nil, eax: 0x8100_0109, ebx: 0, ecx: 0, edx: 1),
    ]

    @Test("every feature that the report names is found by its name, however people write it")
    func featureNames() throws {
        let report = CPUIDReport(
            source: .supported,
            leaves: [(1, nil), (6, nil), (7, 0), (0xD, 1), (0x8000_0001, nil), (0x8000_0007, nil), (0x8000_000A, nil)]
                .map { CPUIDReport.Leaf(leaf: $0.0, subleaf: $0.1, eax: 0, ebx: 0, ecx: 0, edx: 0) })
        #expect(report.features.count >= 8)
        for group in report.features {
            for bit in group.bits {
                let place = try #require(CPUIDFeatureNames.place(of: bit.name.lowercased().replacing("_", with: "-")))
                #expect(
                    place.leaf == group.leaf && place.subleaf == group.subleaf && place.register == group.register
                        && place.bit == bit.bit, "\(bit.name)")
            }
        }
        #expect(CPUIDFeatureNames.place(of: "pv_eoi") == CPUIDFeatureNames.place(of: "KVM_FEATURE_PV_EOI"))
        #expect(CPUIDFeatureNames.place(of: "REALTIME")?.register == "edx")
        #expect(CPUIDFeatureNames.place(of: "avx2")?.bit == 5 && CPUIDFeatureNames.place(of: "nosuch") == nil)
        // No two bits have one name: KVM's have two each.
        let bits = CPUIDFeatureNames.all.compactMap(CPUIDFeatureNames.place)
        #expect(Set(bits.map { "\($0)" }).count == bits.count - KVMFeature.features.count - KVMFeature.hints.count)
    }
}

private enum KVMParaHeader {
    static let advice: Comment = "asm/kvm_para.h is not installed; on Debian: apt-get install linux-libc-dev"

    static var path: String? {
        ["/usr/include/asm/kvm_para.h", "/usr/include/x86_64-linux-gnu/asm/kvm_para.h"].first {
            FileManager.default.fileExists(atPath: $0)
        }
    }

    /// CI has to have the header: there the test runs without it, and fails.
    static var isToBeTested: Bool {
        path != nil || ProcessInfo.processInfo.environment["CI"] != nil
    }
}
