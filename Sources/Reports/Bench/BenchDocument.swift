// SPDX-License-Identifier: Apache-2.0
import Bench
import ExitStats
import FoundationEssentials
import Glibc
import HostView
import Machine
import Rendering

/// A bench run as machines read it, schema `vmtally.bench/1`, and as table and page are made from. Integers only;
/// times are TSC cycles.
public struct BenchDocument: Codable, Sendable {
    public struct Tool: Codable, Sendable {
        public let name: String
        public let version: String
    }

    public struct Method: Codable, Sendable {
        /// What shuffled the blocks.
        public let seed: UInt64
        /// vCPUs of the VMs with more than one.
        public let cpus: Int
        /// Host CPUs that the vCPUs were kept on; none: where the scheduler liked.
        public let pinned: [Int32]
        /// Two readings of the TSC with nothing in between: subtracted from the samples.
        public let overhead: UInt64
        /// When the run ended, UTC, ISO 8601.
        public let taken: String
        public let wallNanoseconds: UInt64

        enum CodingKeys: String, CodingKey {
            case seed, cpus, pinned, overhead, taken
            case wallNanoseconds = "wall_ns"
        }
    }

    public struct Cycles: Codable, Sendable {
        public let min: UInt64
        public let p50: UInt64
        public let p90: UInt64
        public let p99: UInt64
        public let p999: UInt64
        public let max: UInt64
        public let mean: UInt64
        /// The median's 95 % interval, by the medians of the blocks.
        public let p50Low: UInt64
        public let p50High: UInt64

        enum CodingKeys: String, CodingKey {
            case min, p50, p90, p99, p999, max, mean
            case p50Low = "p50_low"
            case p50High = "p50_high"
        }
    }

    /// Exits of one reason: as many as were counted, and as the guest made.
    public struct Count: Codable, Sendable {
        public let vocabulary: String
        public let code: UInt32
        public let name: String
        public let counted: UInt64
        public let expected: UInt64

        init(_ count: BenchMeasurement.Count, _ id: TallyFeatures.Vocabulary) {
            vocabulary = id.key
            code = count.code
            name = ReasonVocabulary.vocabulary(id).name(count.code)
            counted = count.counted
            expected = count.expected
        }

        var isExact: Bool { counted == expected }
    }

    /// One iteration's median, in parts.
    public struct Parts: Codable, Sendable {
        /// In the VMM.
        public let userspace: UInt64
        /// In the kernel from VM exit to VM entry; absent unless it has the patches of kernel-patch/.
        public let kernel: UInt64?
        /// What is left: the world switch, and the kernel where its part is not known.
        public let rest: UInt64
    }

    public struct Bin: Codable, Sendable {
        public let from: UInt64
        public let to: UInt64
        public let n: Int
    }

    public struct Measured: Codable, Sendable {
        /// Samples.
        public let n: Int
        /// Iterations, those of the warm-up included: what the counts are of.
        public let iterations: UInt64
        public let blocks: Int
        public let cycles: Cycles
        /// Samples more than three interquartile ranges outside the quartiles. They are in all figures.
        public let outliers: Int
        public let parts: Parts
        public let exact: Bool
        public let exits: [Count]
        /// VM exits by KVM's own count; absent before Linux 5.14.
        public let vmExits: UInt64?
        public let distribution: [Bin]

        enum CodingKeys: String, CodingKey {
            case n, iterations, blocks, cycles, outliers, parts, exact, exits, distribution
            case vmExits = "vm_exits"
        }
    }

    public struct Kind: Codable, Sendable {
        public let name: String
        public let group: String
        public let summary: String
        /// Kinds of one VM share it.
        public let vm: String
        /// Absent when this host cannot do it.
        public let measured: Measured?
        /// Why it cannot.
        public let unavailable: String?
    }

    public static let schema = "vmtally.bench/1"

    public let schema: String
    public let tool: Tool
    public let host: HostIdentity
    public let method: Method
    public let exact: Bool
    /// True: a signal ended it before all was measured. Absent otherwise.
    public let cutOff: Bool?
    public let kinds: [Kind]

    enum CodingKeys: String, CodingKey {
        case schema, tool, host, method, exact, kinds
        case cutOff = "cut_off"
    }

    public init(_ result: BenchResult, host: HostIdentity, version: String, cutOff: Bool = false) {
        self.cutOff = cutOff ? true : nil
        schema = Self.schema
        tool = Tool(name: "vmtally", version: version)
        self.host = host
        method = Method(
            seed: result.seed, cpus: result.cpus, pinned: result.pinned, overhead: result.overhead, taken: Self.now(),
            wallNanoseconds: result.wallNanoseconds)
        exact = result.isExact
        kinds = result.rows.map { row in
            let kind = row.kind
            switch row.outcome {
            case .measured(let measurement):
                return Kind(
                    name: kind.name, group: kind.group.rawValue, summary: kind.summary, vm: kind.vm,
                    measured: Measured(measurement), unavailable: nil)
            case .unavailable(let reason):
                return Kind(
                    name: kind.name, group: kind.group.rawValue, summary: kind.summary, vm: kind.vm, measured: nil,
                    unavailable: reason)
            }
        }
    }

    /// Reads a document.
    ///
    /// - Throws: ``BenchDocumentError`` when it is none, or of another schema.
    public init(json: [UInt8]) throws(BenchDocumentError) {
        do {
            self = try JSONDecoder().decode(BenchDocument.self, from: Data(json))
        } catch {
            throw .unreadable("\(error)")
        }
        guard schema == Self.schema else { throw .otherSchema(schema) }
        if let problem = problem() { throw .unreadable("damaged: \(problem)") }
    }

    /// The document on one line, keys sorted, so that two of them can be compared as text.
    public func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self)
    }

    private static func now() -> String {
        var seconds = time(nil)
        var parts = tm()
        gmtime_r(&seconds, &parts)
        var text = [CChar](repeating: 0, count: 32)
        strftime(&text, text.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}

/// Why a file is no bench document.
public enum BenchDocumentError: Error, Equatable, CustomStringConvertible {
    case unreadable(String)
    case otherSchema(String)

    public var description: String {
        switch self {
        case .unreadable(let why): "not a document of schema \(BenchDocument.schema): \(why)"
        case .otherSchema(let schema): "schema \(schema), not \(BenchDocument.schema)"
        }
    }
}

extension BenchDocument.Measured {
    init(_ m: BenchMeasurement) {
        n = m.samples
        iterations = m.iterations
        blocks = m.blocks
        cycles = BenchDocument.Cycles(
            min: m.minimum, p50: m.p50, p90: m.p90, p99: m.p99, p999: m.p999, max: m.maximum,
            mean: UInt64(m.mean.rounded()), p50Low: m.interval.lowerBound, p50High: m.interval.upperBound)
        outliers = m.outliers
        parts = BenchDocument.Parts(userspace: m.userspaceCycles, kernel: m.kernelCycles, rest: m.restCycles)
        exact = m.isExact
        exits =
            m.userspace.map { BenchDocument.Count($0, .kvm) }
            + [m.hardware].compactMap { count in
                count.flatMap { count in m.vocabulary.map { BenchDocument.Count(count, $0) } }
            }
        vmExits = m.exits
        distribution = m.distribution.map { BenchDocument.Bin(from: $0.lower, to: $0.upper, n: $0.count) }
    }

    /// `exact`, or what is wrong with the counts.
    var verdict: String {
        guard !exact else { return "exact" }
        let wrong = exits.filter { !$0.isExact }.map { "\($0.name) \(grouped($0.counted)) for \(grouped($0.expected))" }
        return "WRONG: " + wrong.joined(separator: ", ")
    }

    /// VM exits of one iteration.
    var exitsPerIteration: String {
        vmExits.map { fixed(Double($0) / Double(max(1, iterations)), 2) } ?? ""
    }
}
