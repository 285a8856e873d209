// SPDX-License-Identifier: Apache-2.0
import ExitStats

/// CPUID's feature bits by the names that people have for them.
public enum CPUIDFeatureNames {
    /// Where a feature's bit is.
    public struct Place: Equatable, Sendable {
        public let leaf: UInt32
        public let subleaf: UInt32
        /// `eax` to `edx`.
        public let register: String
        public let bit: Int
    }

    /// The bit of a name in any case, with `-`, `.` or `_` inside; KVM's may leave out `KVM_FEATURE_` and `KVM_HINTS_`.
    public static func place(of name: String) -> Place? { places[normalized(name)] }

    /// Every name, sorted.
    public static var all: [String] { places.keys.sorted() }

    private static func normalized(_ name: String) -> String {
        String(name.uppercased().map { $0 == "-" || $0 == "." ? "_" : $0 })
    }

    private static let places: [String: Place] = {
        var places: [String: Place] = [:]
        for guide in CPUIDLeafGuide.all {
            for bit in guide.bits {
                places[bit.name] = Place(
                    leaf: guide.leaf, subleaf: guide.subleaf, register: guide.register.rawValue, bit: bit.bit)
            }
        }
        for (leaf, register, bits) in others {
            for (bit, name) in bits { places[name] = Place(leaf: leaf, subleaf: 0, register: register, bit: bit) }
        }
        for (register, prefix, features) in [
            ("eax", "KVM_FEATURE_", KVMFeature.features), ("edx", "KVM_HINTS_", KVMFeature.hints),
        ] {
            for feature in features {
                let place = Place(leaf: KVMFeature.leaf, subleaf: 0, register: register, bit: Int(feature.bit))
                let name = "\(feature.name)"
                places[name] = place
                places[String(name.dropFirst(prefix.count))] = place
            }
        }
        return places
    }()

    /// Those that say nothing of virtualization, but that people take from guests (SDM vol. 2A CPUID; AMD APM vol. 3 E).
    private static let others: [(UInt32, String, [(Int, String)])] = [
        (
            1, "ecx",
            [
                (0, "SSE3"), (1, "PCLMULQDQ"), (9, "SSSE3"), (12, "FMA"), (13, "CX16"), (19, "SSE4_1"), (20, "SSE4_2"),
                (23, "POPCNT"), (25, "AES"), (29, "F16C"),
            ]
        ),
        (1, "edx", [(19, "CLFSH"), (23, "MMX"), (25, "SSE"), (26, "SSE2")]),
        (
            7, "ebx",
            [
                (3, "BMI1"), (4, "HLE"), (5, "AVX2"), (8, "BMI2"), (9, "ERMS"), (11, "RTM"), (16, "AVX512F"),
                (17, "AVX512DQ"), (18, "RDSEED"), (19, "ADX"), (21, "AVX512IFMA"), (23, "CLFLUSHOPT"), (24, "CLWB"),
                (28, "AVX512CD"), (29, "SHA"), (30, "AVX512BW"), (31, "AVX512VL"),
            ]
        ),
        (
            7, "ecx",
            [(1, "AVX512VBMI"), (6, "AVX512_VBMI2"), (8, "GFNI"), (9, "VAES"), (10, "VPCLMULQDQ"), (11, "AVX512_VNNI")]
        ),
        (7, "edx", [(4, "FSRM"), (22, "AMX_BF16"), (24, "AMX_TILE"), (25, "AMX_INT8")]),
        (0x8000_0001, "ecx", [(0, "LAHF_LM"), (5, "LZCNT"), (6, "SSE4A"), (8, "PREFETCHW"), (16, "FMA4")]),
    ]
}
