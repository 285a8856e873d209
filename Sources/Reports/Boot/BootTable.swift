// SPDX-License-Identifier: Apache-2.0
import BootRecords
import Rendering

/// A recording of boots as people read it.
public struct BootTable: Sendable {
    private let recording: BootRecording
    private let width: Int

    /// - Parameter width: columns of the terminal.
    public init(_ recording: BootRecording, width: Int = .max) {
        self.width = width
        self.recording = recording
    }

    public func lines() -> [String] {
        let host = recording.host
        var lines = ["\(recording.label): \(host.cpu), Linux \(host.kernel), \(host.backend)"]
        var table = TextTable(
            header: [
                "median (least to most)", "runs", "VM exits", "less host interrupts", "userspace exits", "ms to marker",
            ], expendable: ["VM exits", "runs", "ms to marker"])
        for configuration in recording.configurations {
            let runs = configuration.runs
            table.add([
                configuration.name, "\(runs.count)", Self.spread(runs.compactMap { $0.hardware?.total }),
                Self.spread(runs.compactMap(\.guestExits)), Self.spread(runs.map(\.userspace.total)),
                Self.spread(runs.map { $0.nanoseconds / 1_000_000 }),
            ])
        }
        lines += table.lines(width: width)
        if let emulator = host.emulator { lines.append("in an emulated host (\(emulator)): no time is a processor's") }
        if recording.cutOff == true { lines.append("cut off by a signal: not all boots were made") }
        return lines
    }

    private static func spread(_ values: [UInt64]) -> String {
        guard let least = values.min(), let most = values.max() else { return "" }
        let median = BootComparisonReport.number(Statistics.median(values.map { Double($0) }).rounded())
        return least == most ? median : "\(median) (\(grouped(least)) to \(grouped(most)))"
    }

    /// A line for each boot.
    public var csv: CSV {
        var csv = CSV(header: [
            "configuration", "run", "vm_exits", "less_host_interrupts", "userspace_exits", "ns_to_marker",
        ])
        for configuration in recording.configurations {
            for run in configuration.runs {
                csv.add([
                    configuration.name, "\(run.index)", cell(run.hardware?.total), cell(run.guestExits),
                    "\(run.userspace.total)", "\(run.nanoseconds)",
                ])
            }
        }
        return csv
    }
}
