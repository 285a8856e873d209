// SPDX-License-Identifier: Apache-2.0
/// What is printed: a table or JSON.
struct Report {
    let tally: Tally
    let json: Bool

    private static let nameWidth = 26

    /// Where the numbers come from and what they count.
    func introduction(_ output: inout Output) {
        guard tally.isKnown else {
            return output.put(
                """
                no signature (--force): the total is EAX of leaf 0x4FFFFFFF, 32 bits, which counts; what else is \
                answered, and what is counted, is not known

                """)
        }
        let source: StaticString =
            tally.page != nil
            ? "live, by the tally page; "
            : tally.isLive ? "live, by CPUID; " : "SNAPSHOT from before this vCPU first ran, not live; "
        output.put(source)
        let counted: StaticString =
            switch tally.features.vocabulary {
            case .vmx: "VM exits (VMX basic exit reasons, counted by the host's kernel)"
            case .svm: "VM exits (SVM exit codes, counted by the host's kernel)"
            default: "userspace exits (KVM_EXIT_*, counted by the VMM)"
            }
        output.put(counted)
        if tally.features.tscKHz > 0 {
            output.put("; TSC ")
            output.put(UInt64(tally.features.tscKHz), decimals: 3)
            output.put(" MHz")
        }
        output.put("\n")
    }

    func head(_ output: inout Output) {
        output.put("reason", width: Self.nameWidth)
        output.put("       exits   per second               cycles\n")
    }

    func row(_ name: StaticString, _ pair: TallyPair, nanoseconds: UInt64, _ output: inout Output) {
        output.put(name, width: Self.nameWidth)
        output.put(pair.count, width: 12)
        // Count times 10^9 stays below 2^64 up to 18 thousand million exits.
        let perSecond = nanoseconds > 0 ? min(pair.count, 18_000_000_000) * 1_000_000_000 / nanoseconds : 0
        output.put(perSecond, width: 13)
        if tally.isKnown {
            output.put(pair.cycles, width: 21)
        } else {
            output.put("                    -")
        }
        output.put("\n")
    }

    /// The fields of one JSON object, without its braces.
    func fields(_ pair: TallyPair, _ output: inout Output) {
        output.put("\"count\":")
        output.put(pair.count, plain: true)
        output.put(",\"cycles\":")
        if tally.isKnown {
            output.put(pair.cycles, plain: true)
        } else {
            output.put("null")
        }
    }

    func jsonHead(_ output: inout Output) {
        output.put("{\"schema\":\"vmtally.probe/1\",\"live\":")
        output.put(tally.isLive ? "true" : "false")
        output.put(",\"vocabulary\":")
        if tally.isKnown {
            output.put("\"")
            output.put(tally.vocabulary.key)
            output.put("\"")
        } else {
            output.put("null")
        }
        output.put(tally.page != nil ? ",\"via\":\"page\"" : ",\"via\":\"cpuid\"")
        output.put(",\"tsc_khz\":")
        output.put(UInt64(tally.features.tscKHz), plain: true)
    }
}
