// SPDX-License-Identifier: Apache-2.0
import LinuxSystem

/// What the hypervisor tells this guest of itself (kvm/x86/cpuid.rst).
private struct Hypervisor {
    /// Where its leaves begin: KVM's where there are KVM's, else 0x40000000.
    let base: UInt32
    let signature: CPUIDRegisters
    let isKVM: Bool

    /// nil: the processor says that there is none.
    init?() {
        guard Tally.cpuid(1, 0).ecx >> 31 == 1 else { return nil }
        // A VMM that offers Hyper-V's leaves has KVM's behind them; Linux looks as far.
        var base: UInt32 = 0x4000_0000
        while base < 0x4001_0000 {
            let answer = Tally.cpuid(base, 0)
            if answer.ebx == 0x4B4D_564B, answer.ecx == 0x564B_4D56, answer.edx == 0x4D {
                (self.base, signature, isKVM) = (base, answer, true)
                return
            }
            base += 0x100
        }
        (self.base, signature, isKVM) = (0x4000_0000, Tally.cpuid(0x4000_0000, 0), false)
    }
}

/// `vmtally-probe features`
func features(_ options: Options) -> Int32 {
    guard let hypervisor = Hypervisor() else {
        complain("this processor has no hypervisor: bit 31 of leaf 1, ECX, is clear", nil)
        return 1
    }
    var output = Output(1)
    let answer = hypervisor.isKVM ? Tally.cpuid(hypervisor.base | 1, 0) : CPUIDRegisters()
    let isSigned = Tally.cpuid(TallyLeaf.signature, 0).isTallySignature
    let tally = isSigned ? TallyFeatures(Tally.cpuid(TallyLeaf.features, 0)) : TallyFeatures(CPUIDRegisters())
    if options.json {
        json(hypervisor, answer, isSigned ? tally : nil, &output)
    } else {
        text(hypervisor, answer, isSigned ? tally : nil, &output)
    }
    output.flush()
    return hypervisor.isKVM ? 0 : 1
}

private func text(
    _ hypervisor: Hypervisor, _ answer: CPUIDRegisters, _ tally: TallyFeatures?, _ output: inout Output
) {
    output.put("hypervisor, leaf ")
    output.put(hexadecimal: hypervisor.base)
    output.put(": ")
    output.put(signature: hypervisor.signature)
    guard hypervisor.isKVM else {
        return output.put("\nno leaf has KVM's signature: this guest uses no KVM feature\n")
    }
    output.put(", leaves to ")
    // Old hosts say 0 and mean 0x40000001.
    output.put(hexadecimal: max(hypervisor.signature.eax, hypervisor.base | 1))
    output.put("\nKVM_FEATURE_*, EAX of leaf ")
    output.put(hexadecimal: hypervisor.base | 1)
    output.put(": ")
    output.put(hexadecimal: answer.eax)
    output.put("\n")
    rows(KVMFeature.features, answer.eax, &output)
    output.put("KVM_HINTS_*, EDX, which the VMM sets: ")
    output.put(hexadecimal: answer.edx)
    output.put("\n")
    rows(KVMFeature.hints, answer.edx, &output)
    guard let tally else { return output.put("tally, leaf 0x4fffff00: no signature\n") }
    output.put("tally, leaf 0x4fffff00: VMTallyExits, ABI version ")
    output.put(UInt64(tally.version))
    output.put(tally.flags.contains(.live) ? ", live" : ", a snapshot")
    output.put("\n")
}

private func rows(_ features: [KVMFeature], _ value: UInt32, _ output: inout Output) {
    var unknown = value
    for index in 0..<features.count {
        let feature = features[index]
        let isThere = value >> feature.bit & 1 == 1
        unknown &= ~(1 << feature.bit)
        output.put(isThere ? "  yes  " : "  -    ")
        output.put(feature.name, width: 36)
        if !isThere { output.put("costs: ") }
        output.put(isThere ? feature.meaning : feature.cost)
        output.put("\n")
    }
    guard unknown != 0 else { return }
    output.put("  yes  bits without a name here: ")
    output.put(hexadecimal: unknown)
    output.put("\n")
}

private func json(
    _ hypervisor: Hypervisor, _ answer: CPUIDRegisters, _ tally: TallyFeatures?, _ output: inout Output
) {
    output.put("{\"schema\":\"vmtally.features/1\",\"base\":")
    output.put(UInt64(hypervisor.base), plain: true)
    output.put(",\"signature\":\"")
    output.put(signature: hypervisor.signature)
    output.put("\",\"highest_leaf\":")
    output.put(UInt64(hypervisor.signature.eax), plain: true)
    output.put(",\"kvm\":")
    output.put(hypervisor.isKVM ? "true" : "false")
    output.put(",\"features\":")
    bits(KVMFeature.features, answer.eax, &output)
    output.put(",\"hints\":")
    bits(KVMFeature.hints, answer.edx, &output)
    output.put(",\"tally\":")
    if let tally {
        output.put("{\"version\":")
        output.put(UInt64(tally.version), plain: true)
        output.put(",\"flags\":")
        output.put(UInt64(tally.flags.rawValue), plain: true)
        output.put(",\"tsc_khz\":")
        output.put(UInt64(tally.tscKHz), plain: true)
        output.put("}")
    } else {
        output.put("null")
    }
    output.put("}\n")
}

private func bits(_ features: [KVMFeature], _ value: UInt32, _ output: inout Output) {
    output.put("{\"value\":")
    output.put(UInt64(value), plain: true)
    output.put(",\"names\":[")
    var isFirst = true
    for index in 0..<features.count where value >> features[index].bit & 1 == 1 {
        output.put(isFirst ? "\"" : ",\"")
        output.put(features[index].name)
        output.put("\"")
        isFirst = false
    }
    output.put("]}")
}

extension Output {
    fileprivate mutating func put(hexadecimal value: UInt32) {
        put("0x")
        for digit in 0..<8 {
            let nibble = UInt8(truncatingIfNeeded: value >> UInt32(28 - digit * 4)) & 15
            put(byte: nibble < 10 ? nibble + 0x30 : nibble + 0x57)
        }
    }

    /// EBX, ECX and EDX as text, up to the first zero; what does not print, or would end a JSON string, is a dot.
    fileprivate mutating func put(signature: CPUIDRegisters) {
        for index in 0..<12 {
            let register = index < 4 ? signature.ebx : index < 8 ? signature.ecx : signature.edx
            let byte = UInt8(truncatingIfNeeded: register >> UInt32(index % 4 * 8))
            if byte == 0 { return }
            put(byte: (0x20...0x7E).contains(byte) && byte != 0x22 && byte != 0x5C ? byte : 0x2E)
        }
    }
}
