import ExitStats
import FoundationEssentials

/// What the bare-metal probe says on its serial port: schema `vmtally.probe/1` (docs/probe.md).
public struct ProbeReport: Decodable, Sendable {
    /// One reading of leaf 0x4FFFFFFF.
    public struct Reading: Decodable, Equatable, Sendable {
        public let count: UInt64
        /// TSC cycles.
        public let cycles: UInt64
    }

    public struct Ring: Decodable, Sendable {
        public let ring: Int
        public let signature: Bool
        public let live: Bool
        public let first: Reading?
        public let second: Reading?
    }

    public struct Check: Decodable, Sendable {
        public let name: String
        // Signed bounds do not occur: counts and cycles.
        public let expected: UInt64
        public let got: UInt64
        // The guest's own verdict.
        public let ok: Bool
    }

    public struct Last: Decodable, Sendable {
        public let ring: Int
        public let eax: UInt32
        public let ebx: UInt32
        public let ecx: UInt32
        public let edx: UInt32

        public var registers: CPUIDRegisters { CPUIDRegisters(eax: eax, ebx: ebx, ecx: ecx, edx: edx) }
    }

    public let schema: String
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
        let json = Data(line.dropFirst(Self.marker.utf8.count))
        guard let report = try? JSONDecoder().decode(ProbeReport.self, from: json) else { return nil }
        self = report
    }
}
