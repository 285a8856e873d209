// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Glibc
import HostView
import LiveView
import NIOCore
import Reports
import Testing

@testable import vmtally_export

@Suite("metrics of this host's VMs")
struct HostMetricsTests {
    /// Tells what it is told to.
    private final class Scripted: ExitCollector {
        let name = "scripted"
        var readings: [VCPUExits] = []

        func read(_ detail: CollectorDetail) throws(CollectorError) -> [VCPUExits] { readings }
        func losses() -> CollectorLosses { CollectorLosses() }
    }

    private static func reading(_ count: UInt64, machine: UInt64 = 1, ended: Bool = false) -> VCPUExits {
        VCPUExits(
            // Our own process: a user may see that.
            identity: VCPUIdentity(process: getpid(), thread: 7, machine: machine), threadName: "vmm", hasEnded: ended,
            hardware: ExitCounts(source: .bpf, vocabulary: .vmx, reasons: [.init(code: 12, count: count)]))
    }

    @Test("a VM that has ended keeps its last counts for two minutes, unless its numbers are another's")
    func ended() throws {
        let collector = Scripted()
        let metrics = HostMetrics(LiveMachines(collector), histograms: .vm, scale: TSCScale(kHz: 1_000_000))
        func totals(_ seconds: Int64) throws -> [UInt64?] {
            try metrics.document(at: .uptimeNanoseconds(0) + .seconds(seconds)).machines.map { $0.hardware?.total }
        }
        collector.readings = [Self.reading(5)]
        #expect(try totals(100) == [5])
        collector.readings = [Self.reading(9, ended: true)]
        #expect(try totals(101) == [9])
        collector.readings = []
        #expect(try totals(102) == [9])
        #expect(try totals(220) == [9])
        #expect(try totals(222) == [])
        // The same process's next VM is its second.
        collector.readings = [Self.reading(3, machine: 2)]
        #expect(try metrics.document(at: .uptimeNanoseconds(0) + .seconds(223)).machines.map(\.number) == [2])
        collector.readings = [Self.reading(4, machine: 2, ended: true)]
        #expect(try totals(224) == [4])
        collector.readings = [Self.reading(1, machine: 2)]
        #expect(try totals(225) == [1])
    }

    @Test("what nobody scrapes is read all the same")
    func tidies() throws {
        let collector = Scripted()
        let metrics = HostMetrics(LiveMachines(collector), histograms: .none, scale: TSCScale(kHz: 1_000_000))
        collector.readings = [Self.reading(9, ended: true)]
        try metrics.tidy(at: .uptimeNanoseconds(0) + .seconds(100))
        collector.readings = []
        #expect(
            try metrics.document(at: .uptimeNanoseconds(0) + .seconds(101)).machines.map { $0.hardware?.total } == [9])
    }
}
