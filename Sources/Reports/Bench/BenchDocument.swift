// SPDX-License-Identifier: Apache-2.0
import BootRecords
import ExitStats
import FoundationEssentials
import Rendering
import ThisHost

/// A bench run as machines read it, schema `vmtally.bench/1`, and as table and page are made from. Integers only;
/// times are TSC cycles.
public struct BenchDocument: Codable, Sendable {
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

        package init(
            seed: UInt64, cpus: Int, pinned: [Int32], overhead: UInt64, taken: String, wallNanoseconds: UInt64
        ) {
            self.seed = seed
            self.cpus = cpus
            self.pinned = pinned
            self.overhead = overhead
            self.taken = taken
            self.wallNanoseconds = wallNanoseconds
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

        package init(
            min: UInt64, p50: UInt64, p90: UInt64, p99: UInt64, p999: UInt64, max: UInt64, mean: UInt64,
            p50Low: UInt64, p50High: UInt64
        ) {
            self.min = min
            self.p50 = p50
            self.p90 = p90
            self.p99 = p99
            self.p999 = p999
            self.max = max
            self.mean = mean
            self.p50Low = p50Low
            self.p50High = p50High
        }
    }

    /// Exits of one reason: as many as were counted, and as the guest made.
    public struct Count: Codable, Sendable {
        public let vocabulary: String
        public let code: UInt32
        public let name: String
        public let counted: UInt64
        public let expected: UInt64

        package init(_ id: TallyFeatures.Vocabulary, code: UInt32, counted: UInt64, expected: UInt64) {
            vocabulary = id.key
            self.code = code
            name = ReasonVocabulary.vocabulary(id).name(code)
            self.counted = counted
            self.expected = expected
        }

        var isExact: Bool { counted == expected }
    }

    /// One iteration's median, in parts.
    public struct Parts: Codable, Sendable {
        /// In the VMM.
        public let userspace: UInt64
        /// In the kernel from VM exit to VM entry; absent unless it has the patches of kernel-patch/, or the module.
        public let kernel: UInt64?
        /// What is left: the world switch, and the kernel where its part is not known.
        public let rest: UInt64

        package init(userspace: UInt64, kernel: UInt64?, rest: UInt64) {
            self.userspace = userspace
            self.kernel = kernel
            self.rest = rest
        }
    }

    public struct Bin: Codable, Sendable {
        public let from: UInt64
        public let to: UInt64
        public let n: Int

        package init(from: UInt64, to: UInt64, n: Int) {
            self.from = from
            self.to = to
            self.n = n
        }
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

        package init(
            n: Int, iterations: UInt64, blocks: Int, cycles: Cycles, outliers: Int, parts: Parts, exact: Bool,
            exits: [Count], vmExits: UInt64?, distribution: [Bin]
        ) {
            self.n = n
            self.iterations = iterations
            self.blocks = blocks
            self.cycles = cycles
            self.outliers = outliers
            self.parts = parts
            self.exact = exact
            self.exits = exits
            self.vmExits = vmExits
            self.distribution = distribution
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

        package init(
            name: String, group: String, summary: String, vm: String, measured: Measured?, unavailable: String?
        ) {
            self.name = name
            self.group = group
            self.summary = summary
            self.vm = vm
            self.measured = measured
            self.unavailable = unavailable
        }
    }

    public static let schema = "vmtally.bench/1"

    public let schema: String
    public let tool: BootRecording.Tool
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

    /// - Parameter cutOff: a signal ended the run before all was measured.
    package init(
        version: String, host: HostIdentity, method: Method, exact: Bool, cutOff: Bool = false, kinds: [Kind]
    ) {
        schema = Self.schema
        tool = BootRecording.Tool(name: "vmtally", version: version)
        self.host = host
        self.method = method
        self.exact = exact
        self.cutOff = cutOff ? true : nil
        self.kinds = kinds
    }

    /// Reads a document.
    ///
    /// - Throws: ``BenchDocumentError`` when it is none, or of another schema.
    public init(json: [UInt8]) throws(BenchDocumentError) {
        guard !BootRecording.isTooDeep(json) else {
            throw .unreadable("its arrays and objects lie too deep in each other")
        }
        do {
            self = try JSONDecoder().decode(BenchDocument.self, from: Data(BootRecording.withoutLineFeeds(json)))
        } catch {
            throw .unreadable(BootRecording.describe(error))
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
}

/// Why a file is not a bench document.
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
