// SPDX-License-Identifier: Apache-2.0
import BootRecords
import Rendering

/// A recording of boots as people read it.
public struct BootTable: Sendable {
    private let recording: BootRecording

    public init(_ recording: BootRecording) {
        self.recording = recording
    }

    public func lines() -> [String] {
        let host = recording.host
        var lines = ["\(recording.label): \(host.cpu), Linux \(host.kernel), \(host.backend)"]
        var table = TextTable(header: [
            "median (least to most)", "runs", "VM exits", "less host interrupts", "userspace exits", "ms to marker",
        ])
        for configuration in recording.configurations {
            let runs = configuration.runs
            table.add([
                configuration.name, "\(runs.count)", Self.spread(runs.compactMap { $0.hardware?.total }),
                Self.spread(runs.compactMap(\.guestExits)), Self.spread(runs.map(\.userspace.total)),
                Self.spread(runs.map { $0.nanoseconds / 1_000_000 }),
            ])
        }
        lines += table.lines()
        if recording.cutOff == true { lines.append("cut off by a signal: not all boots were made") }
        return lines
    }

    private static func spread(_ values: [UInt64]) -> String {
        guard let least = values.min(), let most = values.max() else { return "" }
        let median = BootComparisonReport.number(Statistics.median(values.map { Double($0) }).rounded())
        return least == most ? median : "\(median) (\(grouped(least)) to \(grouped(most)))"
    }
}
