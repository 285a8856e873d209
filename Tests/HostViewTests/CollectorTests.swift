// SPDX-License-Identifier: Apache-2.0
import CBPF
import ExitStats
import Foundation
import MadeUpExits
import Testing

@testable import HostView

@Suite("names of VMs")
struct RunningMachineTests {
    @Test(
        "a VMM's command line says what its VM is called",
        arguments: [
            (["qemu-system-x86_64", "-name", "web,debug-threads=on"], "web"),
            (["qemu-system-x86_64", "-name", "guest=db-1,debug-threads=on", "-S"], "db-1"),
            (["qemu-system-x86_64", "-name", "debug-threads=on,guest=a,,b"], "a,b"),
            (["qemu-system-x86_64", "--name", "web"], "web"),
            (["firecracker", "--id", "i-17", "--api-sock", "s"], "i-17"),
            (["firecracker", "--id=i-18"], "i-18"),
            (["qemu-system-x86_64", "-name"], nil),
            (["-name", "no"], nil),
            ([], nil),
        ] as [([String], String?)])
    func name(words: [String], name: String?) {
        #expect(RunningMachine.name(words) == name)
    }

    @Test(
        "a pod's uid is in the cgroup's path",
        arguments: [
            (
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_1111_2222_3333_444455556666.slice/cri.scope\n",
                "0a1b2c3d-1111-2222-3333-444455556666"
            ),
            (
                "11:cpu:/kubepods/besteffort/pod0a1b2c3d-1111-2222-3333-444455556666/f00\n",
                "0a1b2c3d-1111-2222-3333-444455556666"
            ),
            (
                // From within another pod.
                "0::/../../../burstable/pod0a1b2c3d-1111-2222-3333-444455556666/f00\n",
                "0a1b2c3d-1111-2222-3333-444455556666"
            ),
            ("0::/machine.slice/machine-qemu.scope\n", nil), ("0::/kubepods/podling\n", nil), ("", nil),
        ] as [(String, String?)])
    func pod(cgroup: String, pod: String?) {
        #expect(RunningMachine.pod(cgroup) == pod)
    }

    @Test(
        "nothing of a hostile name reaches a terminal",
        arguments: [
            ("web-1 \u{6f22}", "web-1 \u{6f22}"), ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"), ("a\u{202e}b", "a\\u{202e}b"),
            ("a\nb", "a\\u{a}b"), ("a\u{0}b", "a\\u{0}b"),
            (String(repeating: "x", count: 81), String(repeating: "x", count: 80) + "..."),
        ])
    func printable(text: String, expected: String) {
        #expect(text.printable() == expected)
    }

    /// A /proc of links that lead nowhere, as those to anonymous inodes do.
    @Test("a process is found by its descriptors, and what it says of itself is escaped")
    func hostileProcess() throws {
        let root = FileManager.default.temporaryDirectory.appending(path: "vmtally-proc-\(UUID())")
        defer { try? FileManager.default.removeItem(at: root) }
        let folder = root.appending(path: "42/fd")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let links = [
            "anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0", "anon_inode:kvm-vcpu:1", "/dev/kvm",
            "anon_inode:kvm-vcpu-stats:0",
        ]
        for (number, target) in links.enumerated() {
            try FileManager.default.createSymbolicLink(
                atPath: folder.appending(path: "\(number)").path, withDestinationPath: target)
        }
        try Data("qemu\0-name\0a\u{1b}]0;x\u{7}b\0".utf8).write(to: root.appending(path: "42/cmdline"))
        try Data("q\u{1b}mu\n".utf8).write(to: root.appending(path: "42/comm"))
        let machine = try #require(RunningMachine(process: 42, root: root.path))
        #expect(machine.name == "a\\u{1b}]0;x\\u{7}b")
        #expect(machine.program == "q\\u{1b}mu")
        #expect(machine.vcpus == 2 && machine.machines == 1)
        #expect(RunningMachine(process: 43, root: root.path) == nil)
    }
}

@Suite("TSC scale")
struct TSCScaleTests {
    @Test("ns and cycles, there and back", arguments: [0, 1000, 2_700_000, 4_000_000] as [UInt64])
    func scale(kHz: UInt64) {
        let scale = TSCScale(kHz: kHz)
        let perSecond = kHz == 0 ? 1_000_000_000 : kHz * 1000
        #expect(scale.cycles(0) == 0)
        let year: UInt64 = 31_536_000
        let cycles = scale.cycles(year * 1_000_000_000)
        #expect(Double(cycles) / Double(year * perSecond) > 0.998)
        #expect(Double(cycles) / Double(year * perSecond) < 1.002)
        let back = scale.nanoseconds(scale.cycles(1_000_000_000_000))
        #expect(abs(Int64(back) - 1_000_000_000_000) <= 2_000_000)
        #expect(scale.nanoseconds(.max) > 0)
        if kHz > 1_000_000 { #expect(scale.cycles(.max) == .max) }
    }
}

@Suite("BPF maps")
struct ExitMapsTests {
    @Test("a vCPU's exits by level and reason; what found no row is among the others")
    func decode() throws {
        let made = MadeUpMaps(slots: 4, rows: 8, vocabulary: .vmx)
        made.slot(1, process: 7, thread: 9) {
            $0.exits = 100
            $0.nested_exits = 30
            $0.userspace_exits = 5
            $0.vcpu_id = 3
            $0.kvm = 0xFFFF_8000
            $0.guest_ns = 1_000_000
        }
        made.row(0, of: 1, place: 5, kind: 1, code: 10, count: 40, ns: 1000)
        // Failed entries: flags above the number (SDM vol. 3C 25.9.1).
        made.row(1, of: 1, place: 6, kind: 1, code: 0x8000_000A, count: 2, ns: 3000)
        made.row(2, of: 1, place: 127, kind: 2, code: 12, count: 30, ns: 500)
        made.row(3, of: 1, place: 0, kind: 3, code: 2, count: 5, ns: 10_000)
        let slot = try #require(made.maps.slot(1))
        let detail = CollectorDetail(histograms: true, bounds: [2000])
        let exits = made.maps.exits(slot, detail, edges: ExitMaps.edges(detail.bounds))
        #expect(exits.identity == VCPUIdentity(process: 7, thread: 9, machine: 0xFFFF_8000, vcpu: 3))
        #expect(exits.hardware?.total == 70)
        #expect(exits.hardware?.reasons.map(\.code) == [10, nil])
        #expect(exits.hardware?.reasons.map(\.count) == [42, 28])
        #expect(exits.hardware?.reasons[0].times?.cycles == 46_000)
        #expect(exits.hardware?.reasons[0].times?.range == 1000...3000)
        #expect(exits.nested?.total == 30)
        let half = try #require(exits.userspace?.reasons.first?.times?.percentile(0.5))
        #expect(abs(Double(half) / 10_000 - 1) < 0.016)
        #expect(exits.hardware?.reasons[0].times?.durations == [40, 2])
        #expect(exits.hardware?.durations == [40, 2])
        #expect(exits.userspace?.durations == [0, 5])
        #expect(!exits.hasEnded)
        #expect(made.maps.slot(0) == nil && made.maps.slot(4) == nil && made.maps.slot(-1) == nil)
    }

    @Test("a cleared slot leaves nothing to the vCPU that gets it next")
    func clear() throws {
        let made = MadeUpMaps(slots: 1, rows: 2, vocabulary: .svm)
        made.slot(0, process: 7, thread: 9) { $0.exits = 1 }
        made.row(1, of: 0, place: 0, kind: 1, code: 0x72, count: 1, ns: 1000)
        made.maps.clear(try #require(made.maps.slot(0)))
        #expect(made.maps.slots.allSatisfy { $0 == 0 })
        #expect(made.maps.rows.allSatisfy { $0 == 0 })
    }

    @Test("numbers out of range are rows of nobody")
    func damaged() throws {
        let made = MadeUpMaps(slots: 1, rows: 1, vocabulary: .svm)
        made.slot(0, process: 7, thread: 9) { $0.exits = 3 }
        let base = try #require(made.maps.slots.baseAddress)
        let places = (base + MemoryLayout<vmtally_slot>.size).assumingMemoryBound(to: vmtally_place.self)
        places[0] = vmtally_place(key: 1 << 32 | 5, row: .max, unused: 0)
        let exits = made.maps.exits(try #require(made.maps.slot(0)), CollectorDetail(), edges: [])
        #expect(exits.hardware?.reasons == [ExitCounts.Reason(code: nil, count: 3)])
    }
}

@Suite("ledger of VMs")
struct ExitLedgerTests {
    private func reading(
        _ process: Int32, _ thread: Int32, _ count: UInt64, machine: UInt64 = 1, ended: Bool = false
    ) -> VCPUExits {
        VCPUExits(
            identity: VCPUIdentity(process: process, thread: thread, machine: machine), hasEnded: ended,
            hardware: ExitCounts(
                source: .bpf, vocabulary: .vmx, reasons: [ExitCounts.Reason(code: 12, count: count)]))
    }

    @Test("an ended vCPU's exits stay with its VM, and a VM that has ended is told once")
    func ended() {
        var ledger = ExitLedger()
        var machines = ledger.add([reading(1, 10, 5, ended: true), reading(1, 11, 7)])
        #expect(machines.map { $0.hardware?.total } == [12])
        #expect(machines.map(\.vcpuCount) == [2] && machines.map(\.hasEnded) == [false])
        machines = ledger.add([reading(1, 11, 8)])
        #expect(machines.map { $0.hardware?.total } == [13])
        machines = ledger.add([reading(1, 11, 9, ended: true)])
        #expect(machines.map { $0.hardware?.total } == [14] && machines.map(\.hasEnded) == [true])
        #expect(ledger.add([]).isEmpty)
        // The same numbers again are another VM.
        #expect(ledger.add([reading(1, 10, 1)]).map { $0.hardware?.total } == [1])
    }

    @Test("two VMs of one process are two")
    func twoOfOneProcess() {
        var ledger = ExitLedger()
        let machines = ledger.add([reading(1, 10, 5, machine: 1), reading(1, 11, 7, machine: 2)])
        #expect(machines.map { $0.hardware?.total } == [5, 7])
    }
}

@Suite("module and BPF together")
struct JoinedCollectorTests {
    private func returns(_ process: Int32, _ thread: Int32, _ count: UInt64, ended: Bool = false) -> VCPUExits {
        VCPUExits(
            identity: VCPUIdentity(process: process, thread: thread), hasEnded: ended,
            userspace: ExitCounts(source: .bpf, vocabulary: .kvm, reasons: [.init(code: 2, count: count)]))
    }

    private func exits(_ process: Int32, _ machine: UInt64, vcpu: Int32, _ count: UInt64) -> VCPUExits {
        VCPUExits(
            identity: VCPUIdentity(process: process, thread: 0, machine: machine, vcpu: vcpu),
            hardware: ExitCounts(source: .module, vocabulary: .vmx, reasons: [.init(code: 12, count: count)]))
    }

    @Test("a process's userspace exits are its one VM's, and stay that when it makes another")
    func owners() {
        var owners = ModuleCollector.Owners()
        owners.add(17, of: 1)
        #expect(owners.assign([returns(1, 10, 5), returns(2, 20, 5)]).map(\.identity.machine) == [17, 0])
        owners.add(18, of: 1)
        // Whose the new thread is, nobody can say.
        #expect(owners.assign([returns(1, 10, 6), returns(1, 11, 1)]).map(\.identity.machine) == [17, 0])
        #expect(owners.assign([returns(1, 10, 7, ended: true)]).map(\.identity.machine) == [17])
        // Its number again is another thread.
        #expect(owners.assign([returns(1, 10, 1)]).map(\.identity.machine) == [0])
    }

    @Test("vCPUs whose VM exits and userspace exits are told apart are counted once")
    func counted() {
        var owners = ModuleCollector.Owners()
        owners.add(17, of: 1)
        var ledger = ExitLedger()
        let threads = owners.assign([returns(1, 10, 5), returns(1, 11, 7)])
        var machines = ledger.add([exits(1, 17, vcpu: 0, 100), exits(1, 17, vcpu: 1, 200)] + threads)
        #expect(machines.count == 1 && machines.first?.vcpuCount == 2)
        #expect(machines.first?.hardware?.total == 300 && machines.first?.userspace?.total == 12)
        // The VM has ended a moment before its threads.
        var last = [exits(1, 17, vcpu: 0, 101), exits(1, 17, vcpu: 1, 202)]
        for index in last.indices { last[index].hasEnded = true }
        machines = ledger.add(last + owners.assign([returns(1, 10, 6), returns(1, 11, 7)]))
        #expect(machines.map(\.hasEnded) == [false] && machines.first?.hardware?.total == 303)
        machines = ledger.add(owners.assign([returns(1, 10, 6, ended: true), returns(1, 11, 8, ended: true)]))
        #expect(machines.map(\.hasEnded) == [true] && machines.first?.vcpuCount == 2)
        #expect(machines.first?.hardware?.total == 303 && machines.first?.userspace?.total == 14)
        #expect(ledger.add([]).isEmpty)
    }

    @Test("exits sorted by bounds out of a histogram are those that the BPF maps give")
    func sorted() throws {
        let made = MadeUpMaps(slots: 1, rows: 2, vocabulary: .vmx)
        made.slot(0, process: 7, thread: 9) { $0.exits = 42 }
        made.row(0, of: 0, place: 5, kind: 1, code: 10, count: 40, ns: 1000)
        made.row(1, of: 0, place: 6, kind: 1, code: 12, count: 2, ns: 3000)
        let bounds: [UInt64] = [500, 1100, 2000, 5000]
        let detail = CollectorDetail(histograms: true, bounds: bounds)
        let exits = try #require(made.maps.exits(detail).first?.exits.hardware)
        #expect(exits.durations == [0, 40, 0, 2, 0])
        let without = ExitCounts(
            source: .bpf, vocabulary: .vmx,
            reasons: exits.reasons.map { reason in
                var reason = reason
                reason.times?.durations = []
                return reason
            })
        #expect(without.durations.isEmpty && without.sorted(by: bounds) == exits)
    }
}

@Suite("statistics in debugfs")
struct StatisticsCollectorTests {
    @Test("totals since the start; a counter that root has set to 0 loses nothing")
    func totals() throws {
        let root = FileManager.default.temporaryDirectory.appending(path: "vmtally-debugfs-\(UUID())")
        defer { try? FileManager.default.removeItem(at: root) }
        // Nobody has this number: pid_max is at most 2^22.
        let folder = root.appending(path: "99999999-12")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        func set(_ text: String) throws { try Data(text.utf8).write(to: folder.appending(path: "exits")) }
        try set("1000\n")
        let collector = try StatisticsCollector(.everything, root: root.path)
        func total() throws -> [UInt64?] { try collector.read(CollectorDetail()).map { $0.hardware?.total } }
        #expect(try total() == [0])
        try set("1500\n")
        #expect(try total() == [500])
        try set("3\n")
        #expect(try total() == [503])
        try set("no number")
        #expect(try total() == [])
        #expect(collector.losses().isEmpty)
    }

    @Test("without debugfs there is a reason and a remedy")
    func missing() {
        #expect(throws: CollectorError.self) { try StatisticsCollector(.everything, root: "/nowhere") }
    }
}

@Suite("formats of events")
struct FormatTests {
    @Test(
        "where a field is",
        arguments: [("exit_reason", 8), ("guest_rip", 16), ("rip", nil), ("isa", 24)] as [(String, UInt32?)])
    func offset(field: String, offset: UInt32?) {
        let format = """
            name: kvm_exit
            format:
            \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;

            \tfield:unsigned int exit_reason;\toffset:8;\tsize:4;\tsigned:0;
            \tfield:unsigned long guest_rip;\toffset:16;\tsize:8;\tsigned:0;
            \tfield:u32 isa;\toffset:24;\tsize:4;\tsigned:0;
            """
        #expect(PlaceCollector.offset(of: field, format) == offset)
    }
}
