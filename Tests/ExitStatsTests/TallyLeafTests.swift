// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import ExitStats

@Suite("TallyLeaf")
struct TallyLeafTests {
    @Test(
        "a leaf and subleaf ask for",
        arguments: [
            (0x4FFF_FF00, 0, .signature), (0x4FFF_FF01, 9, .features), (0x4FFF_FFFF, 0, .total(.machine)),
            (0x4FFF_FFFF, 1, .total(.machine)), (0x4FFF_FFFF, 0x8000_0000, .total(.machine)),
            (0x4FFF_FF02, 0, .total(.vcpu)), (0x4FFF_FF02, 0xFFFF_FFFF, .total(.vcpu)), (0x4FFF_FF03, 1, .page),
            (0x4FFF_FFFE, 2, .reasonCount(2)), (0x4FFF_FFFD, 0xFFFF_FFFF, .reason(0xFFFF_FFFF)),
            (0x4FFF_FF04, 0, .reserved(0x4FFF_FF04)), (0x4FFF_FFFC, 0, .reserved(0x4FFF_FFFC)),
            (0x4FFF_FEFF, 0, nil), (0x5000_0000, 0, nil), (0, 0, nil),
        ] as [(UInt32, UInt32, TallyQuery?)])
    func query(leaf: UInt32, subleaf: UInt32, expected: TallyQuery?) {
        #expect(TallyQuery(leaf: leaf, subleaf: subleaf) == expected)
    }

    /// What a reader asks, by the version that leaf 0x4FFFFF01 gave: hosts of version 1 are read too.
    @Test(
        arguments: [
            (1, .machine, 0x4FFF_FFFF, 0), (1, .vcpu, 0x4FFF_FFFF, 1), (2, .machine, 0x4FFF_FFFF, 0),
            (2, .vcpu, 0x4FFF_FF02, 0), (3, .vcpu, 0x4FFF_FF02, 0),
        ] as [(UInt32, TallyScope, UInt32, UInt32)])
    func questionByVersion(version: UInt32, scope: TallyScope, leaf: UInt32, subleaf: UInt32) {
        #expect(scope.question(version: version) == (leaf, subleaf))
    }

    @Test("the signature is the bytes VMTallyExits, and the highest leaf")
    func signature() {
        let registers = CPUIDRegisters.tallySignature
        let bytes = [registers.ebx, registers.ecx, registers.edx].flatMap { word in
            (0..<4).map { UInt8(truncatingIfNeeded: word >> ($0 * 8)) }
        }
        #expect(String(decoding: bytes, as: UTF8.self) == "VMTallyExits")
        #expect(registers.eax == 0x4FFF_FFFF)
    }

    @Test("registers lie as the ABI says")
    func layout() {
        let pair = TallyPair(count: 0x1111_2222_3333_4444, cycles: 0x5555_6666_7777_8888)
        let expected = CPUIDRegisters(eax: 0x3333_4444, ebx: 0x5555_6666, ecx: 0x7777_8888, edx: 0x1111_2222)
        #expect(CPUIDRegisters(pair) == expected)
        #expect(CPUIDRegisters(count: pair.count) == CPUIDRegisters(eax: 0x3333_4444, edx: 0x1111_2222))
    }

    @Test("a pair survives the wrap of 32 bits", arguments: [0, 1, 0xFFFF_FFFF, 0x1_0000_0000, 1 << 62] as [UInt64])
    func roundTrip(value: UInt64) {
        let pair = TallyPair(count: value, cycles: value &* 3)
        #expect(CPUIDRegisters(pair).tallyPair == pair)
        #expect(CPUIDRegisters(count: value).tallyCount == value)
    }

    @Test("an undefined reason decodes to nothing, a reason that never happened to zero")
    func undefined() {
        #expect(CPUIDRegisters.tallyUndefined.tallyPair == nil && CPUIDRegisters.tallyUndefined.tallyCount == nil)
        #expect(CPUIDRegisters().tallyPair == TallyPair() && CPUIDRegisters().tallyCount == 0)
    }

    @Test("features survive the registers")
    func features() {
        let features = TallyFeatures(flags: [.live, .perReason], tscKHz: 2_700_000, vocabulary: .svm)
        #expect(features.registers == CPUIDRegisters(eax: 2, ebx: 3, ecx: 2_700_000, edx: 2))
        #expect(TallyFeatures(features.registers) == features)
        #expect(TallyFeatures(CPUIDRegisters(eax: 3, edx: 77)).vocabulary == nil)
        let bits: [TallyFeatures.Flags] = [.live, .perReason, .perVCPU, .beganLate, .page]
        #expect(bits.map(\.rawValue) == [1, 2, 4, 8, 16])
    }
}
