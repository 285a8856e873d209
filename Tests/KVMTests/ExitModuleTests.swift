// SPDX-License-Identifier: Apache-2.0
import CExitModule
import Testing

@testable import KVM

/// The module's answers, made up; tests in the lab have real ones.
@Suite struct ExitModuleTests {
    @Test func aListIsRulesAndVMs() {
        let list = ExitModuleList(
            """
            allow 77
            disallow 78
            allow name=web 1
            vm 3 pid 77 vcpus 4 exits 18446744073709551615 cycles 5 vocabulary vmx joined-running comm qemu-system-x86
            vm 9 pid 0 vcpus 1 exits 0 cycles 0 vocabulary svm comm a comm b
            vm 10 pid x vcpus 1 exits 0 cycles 0 vocabulary svm comm c
            something else

            """)
        #expect(list.rules == ["allow 77", "disallow 78", "allow name=web 1"])
        #expect(list.vms.map(\.id) == [3, 9])
        #expect(list.vms[0].exits == .max && list.vms[0].joinedRunning && list.vms[0].vcpus == 4)
        #expect(list.vms[1].name == "a comm b" && !list.vms[1].joinedRunning)
    }

    /// A file of `vcpus` vCPUs with one reason each, as the module might give it: blocks `padding` bytes longer than now.
    private func file(vcpus: UInt32, padding: UInt32 = 0, edit: (inout vmtally_header) -> Void = { _ in }) -> [UInt8] {
        let buckets: UInt32 = 8
        var header = vmtally_header()
        header.magic = UInt64(VMTALLY_DATA_MAGIC)
        header.version = 1
        header.header_size = UInt32(MemoryLayout<vmtally_header>.size)
        (header.id, header.vocabulary, header.tsc_khz) = (7, 2, 1000)
        (header.nr_vcpus, header.nr_reasons, header.nr_histograms, header.nr_buckets) = (vcpus, 2, 1, buckets)
        header.vcpu_offset = UInt64(header.header_size)
        header.reason_offset = UInt32(MemoryLayout<vmtally_vcpu>.size) + padding
        header.reason_size = UInt32(MemoryLayout<vmtally_reason>.size)
        header.vcpu_size = header.reason_offset + 2 * header.reason_size + padding
        header.histogram_offset = header.vcpu_offset + UInt64(vcpus) * UInt64(header.vcpu_size)
        edit(&header)
        var bytes = withUnsafeBytes(of: &header) { Array($0) }
        for index in 0..<vcpus {
            var vcpu = vmtally_vcpu()
            (vcpu.id, vcpu.exits, vcpu.unseen, vcpu.base, vcpu.nr_reasons) = (index, 10, 1, 5, 1)
            vcpu.time = (1, 2, 3, 4, 5)
            var reason = vmtally_reason()
            (reason.code, reason.count, reason.cycles, reason.min, reason.max) = (0x400, 10, 90, 8, 12)
            let none = [UInt8](repeating: 0, count: Int(header.reason_size))
            let gap = [UInt8](repeating: 0xEE, count: Int(padding))
            bytes += withUnsafeBytes(of: &vcpu) { Array($0) } + gap
            bytes += withUnsafeBytes(of: &reason) { Array($0) } + none + gap
        }
        for _ in 0..<vcpus {
            bytes += (0..<UInt64(buckets)).flatMap { value in withUnsafeBytes(of: value) { Array($0) } }
        }
        return bytes
    }

    @Test(arguments: [0, 24] as [UInt32])
    func aSnapshotIsWhatTheHeaderSays(padding: UInt32) throws {
        let snapshot = try #require(ExitModuleSnapshot(file(vcpus: 3, padding: padding)))
        #expect(snapshot.exits == 33 && snapshot.vocabulary == 2 && snapshot.id == 7)
        #expect(snapshot.vcpus.map(\.id) == [0, 1, 2])
        let vcpu = snapshot.vcpus[2]
        #expect(vcpu.times == .init(kernel: 1, guest: 2, blocked: 3, preempted: 4, userspace: 5) && vcpu.before == 5)
        #expect(vcpu.reasons.map(\.code) == [0x400] && vcpu.reasons[0].range == 8...12)
        #expect(vcpu.reasons[0].buckets == Array(0..<8))
    }

    @Test(
        arguments: [
            { $0.magic = 0 }, { $0.version = 2 }, { $0.nr_vcpus = 4 }, { $0.nr_reasons = 99 }, { $0.nr_buckets = .max },
            { $0.vcpu_size = 8 }, { $0.reason_offset = 0 }, { $0.reason_size = 1 }, { $0.histogram_offset = .max },
            { $0.vcpu_offset = .max },
        ] as [@Sendable (inout vmtally_header) -> Void])
    func whatDoesNotFitIsRefused(edit: @Sendable (inout vmtally_header) -> Void) {
        #expect(ExitModuleSnapshot(file(vcpus: 3, edit: edit)) == nil)
    }

    @Test func withoutTheModuleTheErrorSaysWhatToDo() throws {
        let error = #expect(throws: KVMError.self) { _ = try ExitModule(path: "/dev/vmtally-that-is-not-there") }
        #expect(error?.remedy?.contains("kernel-module/install") == true)
    }

    @Test func itsCountersAreAccounting() throws {
        var counters = KernelCounters()
        counters.add(try #require(ExitModuleSnapshot(file(vcpus: 2))))
        let accounting = try #require(counters.accounting)
        #expect(accounting.reasons.map(\.code) == [0x400, nil], "the second: exits that the tracepoint does not show")
        #expect(accounting.reasons.map(\.exits) == [20, 2] && accounting.reasons.map(\.cycles) == [180, 0])
        #expect(accounting.kernel == 2 && accounting.guest == 4 && accounting.preempted == 8)
        #expect(counters.difference(since: counters).accounting?.reasons == [])
    }
}
