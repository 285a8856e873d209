// SPDX-License-Identifier: Apache-2.0
import ExitStats
import FoundationEssentials

/// Boots as they were recorded: schema `vmtally.boot/1` (docs/boot-protocol.md). Integers; names are the kernel's.
public struct BootRecording: Codable, Equatable, Sendable {
    /// The document's name and version.
    public static let schema = "vmtally.boot/1"
    /// Of `vmtally boot`: docs/boot-protocol.md.
    public static let boots = "vmtally-boot-protocol/1"
    /// Of `vmtally attach`: a run is an interval of a VM that somebody else started (docs/attach.md).
    public static let intervals = "vmtally-attach/1"

    /// What recorded.
    public struct Tool: Codable, Equatable, Sendable {
        /// The program's.
        public var name: String
        /// With the commit behind a plus sign.
        public var version: String

        /// A program of this name and version.
        public init(name: String, version: String) {
            self.name = name
            self.version = version
        }
    }

    /// Where it was recorded.
    public struct Host: Codable, Equatable, Sendable {
        /// The processor's name for itself.
        public var cpu: String
        /// KVM's module: `kvm_intel`, `kvm_amd`, `kvm_pvm`.
        public var backend: String
        /// The release, as uname(2) has it.
        public var kernel: String
        /// TSC frequency in kHz, 0 if unknown.
        public var tscKHz: UInt32
        /// The emulator that the host itself runs in; absent on a processor, and in older recordings.
        public var emulator: String?

        enum CodingKeys: String, CodingKey {
            case cpu, backend, kernel, emulator
            case tscKHz = "tsc_khz"
        }

        /// A host of these names.
        public init(cpu: String, backend: String, kernel: String, tscKHz: UInt32, emulator: String? = nil) {
            self.emulator = emulator
            self.cpu = cpu
            self.backend = backend
            self.kernel = kernel
            self.tscKHz = tscKHz
        }
    }

    /// As it stands in the document.
    public var schema = Self.schema
    /// The rules that the boots follow.
    public var protocolName = Self.boots
    /// What recorded.
    public var tool: Tool
    /// What the user calls it.
    public var label: String
    /// Seconds since 1970.
    public var recorded: Int
    /// Of the order of the runs.
    public var seed: UInt64
    /// Where it was recorded.
    public var host: Host
    /// What was booted; each name once.
    public var configurations: [BootConfiguration]
    /// True: a signal ended the recording before all boots were made. Absent otherwise.
    public var cutOff: Bool?

    enum CodingKeys: String, CodingKey {
        case schema, tool, label, recorded, seed, host, configurations
        case protocolName = "protocol"
        case cutOff = "cut_off"
    }

    /// - Parameter recorded: seconds since 1970.
    public init(
        tool: Tool, label: String, recorded: Int, seed: UInt64, host: Host, configurations: [BootConfiguration]
    ) {
        self.tool = tool
        self.label = label
        self.recorded = recorded
        self.seed = seed
        self.host = host
        self.configurations = configurations
    }

    /// Reads a recording.
    ///
    /// - Throws: ``BootRecordingError``.
    public init(json: [UInt8]) throws(BootRecordingError) {
        struct Head: Decodable {
            var schema: String?
        }
        guard !Self.isTooDeep(json) else {
            throw BootRecordingError("not a recording of boots: its arrays and objects lie too deep in each other")
        }
        let decoder = JSONDecoder()
        let data = Data(Self.withoutLineFeeds(json))
        guard let head = try? decoder.decode(Head.self, from: data), let schema = head.schema else {
            throw BootRecordingError("not a recording of boots: vmtally boot -o FILE makes one")
        }
        guard schema == Self.schema else {
            throw BootRecordingError("its schema is \(schema), not \(Self.schema): record again with this vmtally")
        }
        do {
            self = try decoder.decode(Self.self, from: data)
        } catch {
            throw BootRecordingError("damaged recording: \(Self.describe(error))")
        }
        if let configuration = configurations.first(where: { $0.runs.isEmpty }) {
            throw BootRecordingError("damaged recording: no runs of \(configuration.name)")
        }
        guard !configurations.isEmpty else { throw BootRecordingError("damaged recording: no configurations") }
        if let problem = problem() { throw BootRecordingError("damaged recording: \(problem)") }
    }

    /// A decoder's complaint, for people.
    package static func describe(_ error: any Error) -> String {
        switch error {
        case DecodingError.keyNotFound(let key, let context):
            "\(path(context.codingPath + [key])) is missing"
        case DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context),
            DecodingError.dataCorrupted(let context):
            context.codingPath.isEmpty ? context.debugDescription : "\(path(context.codingPath)) is of the wrong kind"
        default: "\(error)"
        }
    }

    private static func path(_ keys: [any CodingKey]) -> String {
        keys.map { $0.intValue.map { "[\($0)]" } ?? ".\($0.stringValue)" }.joined().drop { $0 == "." }.description
    }

    /// One line a run, keys sorted: two recordings can be compared as text.
    public func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let text = String(decoding: try encoder.encode(self), as: UTF8.self)
        // Each run begins with its first key.
        return text.split(separator: "{\"index\":").joined(separator: "\n{\"index\":") + "\n"
    }
}

/// Bytes that are no recording, or one that contradicts itself.
public struct BootRecordingError: Error, CustomStringConvertible, Sendable {
    /// What is wrong with it.
    public let description: String

    init(_ description: String) {
        self.description = description
    }
}

/// What was booted, and its boots.
public struct BootConfiguration: Codable, Equatable, Sendable {
    /// A file that the guest boots from.
    public struct File: Codable, Equatable, Sendable {
        /// Without folders.
        public var name: String
        /// Its size.
        public var bytes: Int
        /// As cksum(1) prints it.
        public var cksum: UInt32
        /// The version that a bzImage tells of itself.
        public var version: String?

        /// - Parameter contents: the whole file.
        public init(name: String, contents: UnsafeRawBufferPointer) {
            self.name = name
            bytes = contents.count
            cksum = Checksum.posix(contents)
            version = Self.version(contents)
        }

        /// `kernel_version` in the header of a bzImage (Documentation/arch/x86/boot.rst), its first word.
        private static func version(_ contents: UnsafeRawBufferPointer) -> String? {
            guard contents.count > 0x210, contents[0x202..<0x206].elementsEqual("HdrS".utf8) else { return nil }
            let start = 0x200 + Int(contents[0x20E]) + Int(contents[0x20F]) << 8
            guard start > 0x200, start < contents.count else { return nil }
            let text = contents[start..<min(contents.count, start + 64)].prefix { $0 > 0x20 && $0 < 0x7F }
            return text.isEmpty ? nil : String(decoding: text, as: UTF8.self)
        }
    }

    /// What tells it from the recording's others: `console=virtio cpus=1`.
    public var name: String
    /// `vmtally`, or another VMM's command line.
    public var vmm: String
    /// vCPUs.
    public var cpus: Int
    /// Guest RAM, MiB.
    public var memoryMiB: Int
    /// `virtio`, `serial` or `none`.
    public var console: String
    /// Absent where a VM that ran already was recorded: nobody knows its kernel.
    public var kernel: File?
    /// Absent without one.
    public var initrd: File?
    /// The kernel's.
    public var commandLine: String
    /// What ended the boot: `port 0xF5`, or a text on the console in quotes.
    public var marker: String
    /// Its boots, in the order in which they were made.
    public var runs: [BootRun]
    /// Exits over time, all runs together; absent where no tracepoint tells.
    public var series: BootSeries?
    /// VM exits by guest function, all runs together, the most frequent first; absent where no tracepoint tells.
    public var functions: [BootFunction]?

    enum CodingKeys: String, CodingKey {
        case name, vmm, cpus, console, kernel, initrd, marker, runs, series, functions
        case memoryMiB = "memory_mib"
        case commandLine = "command_line"
    }

    /// A configuration without boots.
    public init(
        name: String, vmm: String, cpus: Int, memoryMiB: Int, console: String, kernel: File?, initrd: File?,
        commandLine: String, marker: String
    ) {
        self.name = name
        self.vmm = vmm
        self.cpus = cpus
        self.memoryMiB = memoryMiB
        self.console = console
        self.kernel = kernel
        self.initrd = initrd
        self.commandLine = commandLine
        self.marker = marker
        runs = []
    }
}

/// One boot.
public struct BootRun: Codable, Equatable, Sendable {
    /// VM exits between two messages of the kernel's log.
    public struct Phase: Codable, Equatable, Sendable {
        /// The message of the kernel's log that it begins with.
        public var name: String
        /// From the first KVM_RUN, ns.
        public var start: UInt64
        /// VM exits.
        public var exits: UInt64
        /// Userspace exits.
        public var userspace: UInt64

        /// A phase that begins at `start` ns.
        public init(name: String, start: UInt64, exits: UInt64, userspace: UInt64) {
            self.name = name
            self.start = start
            self.exits = exits
            self.userspace = userspace
        }

        enum CodingKeys: String, CodingKey {
            case name, exits, userspace
            case start = "start_ns"
        }
    }

    /// Its place among all runs of the recording, from 0.
    public var index: Int
    /// From the first KVM_RUN to the marker, ns.
    public var nanoseconds: UInt64
    /// Exits to the marker, its own included.
    public var userspace: ExitCounts
    /// Absent where nothing counts them.
    public var hardware: ExitCounts?
    /// Absent where the kernel's log was not seen.
    public var phases: [Phase]?

    enum CodingKeys: String, CodingKey {
        case index, userspace, phases
        case nanoseconds = "marker_ns"
        case hardware = "vm_exits"
    }

    /// One boot of `nanoseconds`.
    public init(index: Int, nanoseconds: UInt64, userspace: ExitCounts, hardware: ExitCounts?, phases: [Phase]?) {
        self.index = index
        self.nanoseconds = nanoseconds
        self.userspace = userspace
        self.hardware = hardware
        self.phases = phases
    }
}

/// Exits over boot time, by reason; all runs of a configuration added up.
public struct BootSeries: Codable, Equatable, Sendable {
    /// Runs that went in.
    public var runs: Int
    /// Width of a bucket, ns. The first begins with the first KVM_RUN.
    public var interval: UInt64
    /// VM exits: a number for each bucket, by reason.
    public var hardware: [String: [UInt64]]
    /// Userspace exits, likewise.
    public var userspace: [String: [UInt64]]

    enum CodingKeys: String, CodingKey {
        case runs, userspace
        case interval = "interval_ns"
        case hardware = "vm_exits"
    }

    /// Exits of `runs` boots in spans of `interval` ns.
    public init(runs: Int, interval: UInt64, hardware: [String: [UInt64]], userspace: [String: [UInt64]]) {
        self.runs = runs
        self.interval = interval
        self.hardware = hardware
        self.userspace = userspace
    }
}

/// VM exits that came from one function of the guest.
public struct BootFunction: Codable, Equatable, Sendable {
    /// Its name, or an address in hexadecimal where no symbol is known.
    public var name: String
    /// VM exits.
    public var exits: UInt64

    /// A function and its VM exits.
    public init(name: String, exits: UInt64) {
        self.name = name
        self.exits = exits
    }
}

/// The checksum of cksum(1) (POSIX): everyone can check with a tool at hand which files were booted.
public enum Checksum {
    private static let table: [UInt32] = (0..<256).map { index -> UInt32 in
        (0..<8).reduce(UInt32(index) << 24) { sum, _ in sum << 1 ^ (sum >> 31) &* 0x04C1_1DB7 }
    }

    /// The sum of all bytes and of their number, 32 bits.
    public static func posix(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        table.withUnsafeBufferPointer { table in
            var sum: UInt32 = 0
            for byte in bytes {
                sum = sum << 8 ^ table[Int(UInt8(truncatingIfNeeded: sum >> 24) ^ byte)]
            }
            var count = bytes.count
            while count > 0 {
                sum = sum << 8 ^ table[Int(UInt8(truncatingIfNeeded: sum >> 24) ^ UInt8(truncatingIfNeeded: count))]
                count >>= 8
            }
            return ~sum
        }
    }
}
