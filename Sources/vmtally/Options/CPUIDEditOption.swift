// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Machine
import Reports

/// `--cpuid` of `run`: `LEAF[.SUB]:REG=VALUE`, `-FEATURE` or `+FEATURE`.
struct CPUIDEditOption {
    let edit: CPUIDEdit

    init(_ text: String) throws {
        if let sign = text.first, sign == "-" || sign == "+" {
            guard let place = CPUIDFeatureNames.place(of: String(text.dropFirst())),
                let register = CPUIDEdit.Register(rawValue: place.register)
            else {
                throw ValidationError(
                    "--cpuid \(text): no such feature. Names are those of vmtally cpuid, such as -X2APIC, -AVX512F, "
                        + "-KVM_FEATURE_PV_EOI; any bit is LEAF[.SUB]:REG=VALUE.")
            }
            let mask = UInt32(1) << UInt32(place.bit)
            edit = CPUIDEdit(
                leaf: place.leaf, subleaf: place.subleaf, register: register, mask: mask, value: sign == "+" ? mask : 0)
            return
        }
        let halves = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        let place = halves[0].split(separator: ":", omittingEmptySubsequences: false)
        let leaf = (place.first ?? "").split(separator: ".", omittingEmptySubsequences: false)
        let numbers = leaf.map { number($0) }
        guard halves.count == 2, place.count == 2, (1...2).contains(numbers.count), let first = numbers[0],
            let second = numbers.last, let last = second,
            let register = CPUIDEdit.Register(rawValue: place[1].lowercased()), let value = number(halves[1])
        else {
            throw ValidationError(
                "--cpuid takes LEAF[.SUB]:REG=VALUE, as 0x80000002:EAX=0x41, or -FEATURE: not '\(text)'.")
        }
        edit = CPUIDEdit(leaf: first, subleaf: numbers.count == 2 ? last : nil, register: register, value: value)
    }
}

/// A 32-bit number as C writes it: `0x40000001` or `13`.
func number(_ text: some StringProtocol) -> UInt32? {
    let lower = text.lowercased()
    guard lower.first.map({ $0.isHexDigit }) ?? false else { return nil }
    return lower.hasPrefix("0x") ? UInt32(lower.dropFirst(2), radix: 16) : UInt32(lower)
}
