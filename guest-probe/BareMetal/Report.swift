// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// What the probe says over the UART: a table for people, then one line of JSON for programs. Every byte is an exit.
struct Report {
    let vcpus: UInt32
    let kernel: LeafChecks
    let user: LeafChecks
    let lastRing: Ring
    let last: CPUIDRegisters

    static func withoutSignature() {
        var serial = Serial()
        serial.put("vmtally probe: CPUID leaf 0x4fffff00 has no signature: this VMM does not tally exits.\n")
        serial.put(#"vmtally-probe-json {"schema":"vmtally.bare-metal-probe/1","signature":false,"rings":[],"#)
        serial.put(#""checks":[],"last":null}"#)
        serial.put("\n")
    }

    func write(_ checks: borrowing Checks) {
        var serial = Serial()
        writeTable(checks, to: &serial)
        writeJSON(checks, to: &serial)
    }

    // MARK: Table

    private func writeTable(_ checks: borrowing Checks, to serial: inout Serial) {
        serial.put("vmtally probe: ")
        serial.put(UInt64(vcpus))
        serial.put(vcpus == 1 ? " vCPU\n\n" : " vCPUs\n\n")
        serial.put("                      exits          cycles\n")
        writeReadings(kernel, "ring 0 ", to: &serial)
        writeReadings(user, "ring 3 ", to: &serial)
        serial.put("\nring check               expected             got\n")
        for index in 0..<checks.count {
            let check = checks[index]
            if let ring = check.ring { serial.put(ring.rawValue, width: 4) } else { serial.put("   -") }
            serial.put(" ")
            serial.put(check.name, width: 16)
            serial.put(check.rule.sign)
            serial.put(check.expected, width: 10)
            serial.put(check.got, width: 16)
            serial.put(check.isOK ? "\n" : "  FAILED\n")
        }
        serial.put("\n")
        serial.put(UInt64(checks.count))
        serial.put(" checks, ")
        serial.put(checks.failures)
        serial.put(" failed\n")
    }

    private func writeReadings(_ leaf: LeafChecks, _ name: StaticString, to serial: inout Serial) {
        writeReading(leaf.first, leaf, name, to: &serial)
        writeReading(leaf.second, leaf, name, to: &serial)
    }

    private func writeReading(
        _ reading: TallyPair, _ leaf: LeafChecks, _ name: StaticString, to serial: inout Serial
    ) {
        serial.put(name, width: 11)
        serial.put(reading.count, width: 16)
        serial.put(reading.cycles, width: 16)
        serial.put(leaf.tally.isLive ? "  live\n" : leaf.tally.hasSignature ? "  snapshot\n" : "  no answer\n")
    }

    // MARK: JSON

    private func writeJSON(_ checks: borrowing Checks, to serial: inout Serial) {
        serial.put(#"vmtally-probe-json {"schema":"vmtally.bare-metal-probe/1","signature":true,"vcpus":"#)
        serial.put(UInt64(vcpus))
        serial.put(#","rings":["#)
        writeRing(kernel, to: &serial)
        serial.put(",")
        writeRing(user, to: &serial)
        serial.put(#"],"checks":["#)
        for index in 0..<checks.count {
            writeCheck(checks[index], isFirst: index == 0, to: &serial)
        }
        serial.put(#"],"last":{"ring":"#)
        serial.put(lastRing.rawValue)
        serial.put(#","eax":"#)
        serial.put(UInt64(last.eax))
        serial.put(#","ebx":"#)
        serial.put(UInt64(last.ebx))
        serial.put(#","ecx":"#)
        serial.put(UInt64(last.ecx))
        serial.put(#","edx":"#)
        serial.put(UInt64(last.edx))
        serial.put("}}\n")
    }

    private func writeRing(_ leaf: LeafChecks, to serial: inout Serial) {
        let features = leaf.tally.features
        serial.put(#"{"ring":"#)
        serial.put(leaf.tally.ring.rawValue)
        guard leaf.tally.hasSignature else {
            serial.put(#","signature":false,"live":false}"#)
            return
        }
        serial.put(leaf.tally.isLive ? #","signature":true,"live":true"# : #","signature":true,"live":false"#)
        serial.put(#","version":"#)
        serial.put(UInt64(features.version))
        serial.put(#","features":"#)
        serial.put(UInt64(features.flags.rawValue))
        serial.put(#","tsc_khz":"#)
        serial.put(UInt64(features.tscKHz))
        serial.put(#","vocabulary":"#)
        serial.put(UInt64(features.vocabularyCode))
        serial.put(#","first":"#)
        writePair(leaf.first, to: &serial)
        serial.put(#","second":"#)
        writePair(leaf.second, to: &serial)
        serial.put("}")
    }

    private func writePair(_ pair: TallyPair, to serial: inout Serial) {
        serial.put(#"{"count":"#)
        serial.put(pair.count)
        serial.put(#","cycles":"#)
        serial.put(pair.cycles)
        serial.put("}")
    }

    private func writeCheck(_ check: Check, isFirst: Bool, to serial: inout Serial) {
        serial.put(isFirst ? #"{"name":""# : #",{"name":""#)
        if let ring = check.ring { serial.put(ring == .kernel ? "r0." : "r3.") }
        serial.put(check.name)
        serial.put(#"","expected":"#)
        serial.put(check.expected)
        serial.put(#","got":"#)
        serial.put(check.got)
        serial.put(check.isOK ? #","ok":true}"# : #","ok":false}"#)
    }
}

extension Rule {
    /// In front of the expected value, in the table.
    var sign: StaticString {
        switch self {
        case .equal: "     = "
        case .atLeast: "    >= "
        case .atMost: "    <= "
        case .upTo: "  1 to "
        case .allOrNone: "  0 or "
        }
    }
}
