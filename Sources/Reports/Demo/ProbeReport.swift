// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Rendering

/// What the bare-metal probe says on its serial port: schema `vmtally.bare-metal-probe/1` (guest-probe/README.md).
public struct ProbeReport: Sendable {
    /// One reading of leaf 0x4FFFFFFF.
    public struct Reading: Equatable, Sendable {
        public let count: UInt64
        /// TSC cycles.
        public let cycles: UInt64
    }

    public struct Ring: Sendable {
        public let ring: Int
        public let signature: Bool
        public let live: Bool
        public let first: Reading?
        public let second: Reading?
    }

    public struct Check: Sendable {
        public let name: String
        // Signed bounds do not occur: counts and cycles.
        public let expected: UInt64
        public let got: UInt64
        // The guest's own verdict.
        public let ok: Bool
    }

    public struct Last: Sendable {
        public let ring: Int
        public let eax: UInt32
        public let ebx: UInt32
        public let ecx: UInt32
        public let edx: UInt32

        public var registers: CPUIDRegisters { CPUIDRegisters(eax: eax, ebx: ebx, ecx: ecx, edx: edx) }
    }

    public let signature: Bool
    public let rings: [Ring]
    public let checks: [Check]
    /// The last reading that the guest took.
    public let last: Last?

    private static let marker = "vmtally-probe-json "

    /// Finds the report in a serial log; nil when there is none that can be read.
    public init?(serial: [UInt8]) {
        let lines = serial.split(separator: 0x0A)
        guard let line = lines.last(where: { $0.starts(with: Self.marker.utf8) }) else { return nil }
        guard let json = PlainJSON(line.dropFirst(Self.marker.utf8.count)), let signature = json["signature"]?.bool,
            let rings = json["rings"]?.all(Ring.init), let checks = json["checks"]?.all(Check.init)
        else { return nil }
        self.signature = signature
        self.rings = rings
        self.checks = checks
        last = json["last"].flatMap(Last.init)
    }
}

extension PlainJSON {
    /// The elements of an array, if each of them can be made a `T`.
    fileprivate func all<T>(_ make: (PlainJSON) -> T?) -> [T]? {
        guard let elements else { return nil }
        let made = elements.compactMap(make)
        return made.count == elements.count ? made : nil
    }
}

extension ProbeReport.Reading {
    fileprivate init?(_ json: PlainJSON) {
        guard let count = json["count"]?.number, let cycles = json["cycles"]?.number else { return nil }
        self.init(count: count, cycles: cycles)
    }
}

extension ProbeReport.Ring {
    fileprivate init?(_ json: PlainJSON) {
        guard let ring = json["ring"]?.number.flatMap(Int.init(exactly:)), let signature = json["signature"]?.bool,
            let live = json["live"]?.bool
        else { return nil }
        self.init(
            ring: ring, signature: signature, live: live,
            first: json["first"].flatMap(ProbeReport.Reading.init),
            second: json["second"].flatMap(ProbeReport.Reading.init))
    }
}

extension ProbeReport.Check {
    fileprivate init?(_ json: PlainJSON) {
        guard let name = json["name"]?.string, let expected = json["expected"]?.number, let got = json["got"]?.number,
            let ok = json["ok"]?.bool
        else { return nil }
        self.init(name: name, expected: expected, got: got, ok: ok)
    }
}

extension ProbeReport.Last {
    fileprivate init?(_ json: PlainJSON) {
        guard let ring = json["ring"]?.number.flatMap(Int.init(exactly:)) else { return nil }
        let values = ["eax", "ebx", "ecx", "edx"].compactMap { json[$0]?.number.flatMap(UInt32.init(exactly:)) }
        guard values.count == 4 else { return nil }
        self.init(ring: ring, eax: values[0], ebx: values[1], ecx: values[2], edx: values[3])
    }
}
