// SPDX-License-Identifier: Apache-2.0

/// What a recording may hold, so that reckoning with its numbers neither overflows nor takes for ever: a file may say
/// anything.
enum RecordingLimits {
    /// Exits, ns, bytes: what a double holds exactly, 2^53.
    static let number: UInt64 = 1 << 53
    static let configurations = 10_000
    static let runs = 100_000
    /// Reasons, phases or functions of one run or configuration.
    static let names = 1000
    static let buckets = 10_000
    /// Years 1 to 9999, in seconds since 1970.
    static let time = -62_135_596_800...253_402_300_799
}

extension BootRecording {
    /// Whether arrays and objects of a JSON text lie deeper in each other than those of any document of ours: a decoder
    /// goes on the stack as deep as they do, and a limit of it (ulimit -s) may be low.
    package static func isTooDeep(_ json: [UInt8]) -> Bool {
        var depth = 0
        var isText = false
        var isEscaped = false
        for byte in json {
            switch byte {
            case _ where isEscaped: isEscaped = false
            case UInt8(ascii: "\\"): isEscaped = isText
            case UInt8(ascii: "\""): isText.toggle()
            case UInt8(ascii: "["), UInt8(ascii: "{"): depth += isText ? 0 : 1
            case UInt8(ascii: "]"), UInt8(ascii: "}"): depth -= isText ? 0 : 1
            default: break
            }
            if depth > 32 { return true }
        }
        return false
    }

    /// A JSON text whose strings show their line feeds, as `\n`: no name out of a file is to be a line of its own where it
    /// is told, a verdict that nobody gave.
    package static func withoutLineFeeds(_ json: [UInt8]) -> [UInt8] {
        let backslash = UInt8(ascii: "\\")
        guard json.contains(backslash) else { return json }
        var result: [UInt8] = []
        result.reserveCapacity(json.count)
        var rest = json[...]
        while let start = rest.firstIndex(of: backslash) {
            result += rest[..<start]
            rest = rest[start...]
            let feed = ["\\n", "\\u000a", "\\u000A"].first { rest.starts(with: $0.utf8) }
            if feed == nil { result += rest.prefix(2) } else { result += "\\\\n".utf8 }
            rest = rest.dropFirst(feed?.utf8.count ?? 2)
        }
        return result + rest
    }

    /// The first thing that no recording of a boot can have; nil: it is sound.
    func problem() -> String? {
        guard RecordingLimits.time.contains(recorded) else { return ".recorded is not a time" }
        guard configurations.count <= RecordingLimits.configurations else { return "too many configurations" }
        guard configurations.reduce(0, { $0 + $1.runs.count }) <= RecordingLimits.runs else { return "too many runs" }
        guard Set(configurations.map(\.name)).count == configurations.count else {
            return "two configurations of one name"
        }
        for (index, configuration) in configurations.enumerated() {
            if let problem = configuration.problem() { return "configurations[\(index)]\(problem)" }
        }
        return nil
    }
}

extension BootConfiguration {
    fileprivate func problem() -> String? {
        guard cpus >= 0, cpus <= 1 << 20, memoryMiB >= 0, memoryMiB <= 1 << 40 else { return ": vCPUs or memory" }
        for file in [kernel, initrd].compactMap({ $0 }) where file.bytes < 0 || file.bytes > RecordingLimits.number {
            return ": a file's size"
        }
        var names: Set<String> = []
        for (index, run) in runs.enumerated() {
            if let problem = run.problem() { return ".runs[\(index)]: \(problem)" }
            for exits in [run.userspace, run.hardware] { names.formUnion((exits?.byName ?? [:]).keys) }
            guard names.count <= 2 * RecordingLimits.names else { return ": too many reasons" }
        }
        if let series {
            guard series.runs >= 0, series.runs <= RecordingLimits.runs, series.interval <= RecordingLimits.number
            else {
                return ".series: runs or interval_ns"
            }
            for values in [series.hardware, series.userspace] {
                guard values.count <= RecordingLimits.names,
                    values.values.allSatisfy({ numbers in
                        numbers.count <= RecordingLimits.buckets && numbers.allSatisfy { $0 <= RecordingLimits.number }
                    })
                else { return ".series: its counts" }
            }
        }
        if let functions {
            guard functions.count <= RecordingLimits.names,
                functions.allSatisfy({ $0.exits <= RecordingLimits.number })
            else { return ".functions" }
        }
        return nil
    }
}

extension BootRun {
    fileprivate func problem() -> String? {
        guard index >= 0, nanoseconds <= RecordingLimits.number else { return "index or marker_ns" }
        for (name, exits) in [("userspace", userspace), ("vm_exits", hardware)] {
            guard let exits else { continue }
            guard exits.total <= RecordingLimits.number, exits.reasons.count <= RecordingLimits.names,
                exits.reasons.allSatisfy({ $0.count <= RecordingLimits.number })
            else { return "\(name): a number that no boot reaches" }
        }
        let phases = phases ?? []
        guard phases.count <= RecordingLimits.names,
            phases.allSatisfy({ max($0.start, $0.exits, $0.userspace) <= RecordingLimits.number })
        else { return "phases: a number that no boot reaches" }
        return nil
    }
}
