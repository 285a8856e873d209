import CLinuxKVM
import ExitStats
import Machine
import Reports
import TestSupport
@testable import HostView

/// Known numbers of exits, counted by us, by KVM's statistics and, where they are to be had, by its tracepoints.
struct ExactCounts {
    private let outs: UInt32
    private let writes: UInt32
    private let reads: UInt32

    private static let address: UInt64 = 0x10_0000

    init(scale: UInt32) {
        outs = 1_000_000 / scale
        writes = 100_000 / scale
        reads = 10_000 / scale
    }

    func check(_ checks: inout Checks) throws {
        var configuration = MachineConfiguration()
        configuration.liveCPUID = .off
        configuration.userspaceMSRs = [0xCE...0xCE]
        let machine = try elf.withUnsafeBytes { try Machine(configuration, elf: $0) }
        // kvm_exit counts what the processor does, kvm_userspace_exit what reaches us.
        let hardware = TracepointCounts(event: "kvm_exit", key: "exit_reason")
        let userspace = TracepointCounts(event: "kvm_userspace_exit", key: "reason")
        let result = try machine.run()
        let byHardware = hardware?.counts() ?? [:]
        let byUserspace = userspace?.counts() ?? [:]

        let total = result.total
        checks.expect("ended by HLT", result.end == .halted, "\(result.end)")
        let expected: [(Int32, UInt64)] = [
            (KVM_EXIT_IO, UInt64(outs)), (KVM_EXIT_MMIO, UInt64(writes)), (KVM_EXIT_X86_RDMSR, UInt64(reads)),
            (KVM_EXIT_HLT, 1),
        ]
        for (reason, count) in expected {
            let code = UInt32(reason)
            checks.expectEqual(ReasonVocabulary.kvm.name(code), total[code]?.count ?? 0, count)
        }
        let sum = expected.reduce(0) { $0 + $1.1 }
        checks.expectEqual("all userspace exits", total.total.count, sum)

        let kernel = result.kernel.values["exits"] ?? 0
        checks.expect("KVM's exits (\(kernel)) hold ours", kernel >= sum, "ours are \(sum)")
        if byHardware.isEmpty {
            checks.skip(
                "VM exits by reason", because: "the kvm_exit tracepoint does not fire here, or this is not root")
        } else {
            checks.expectEqual("kvm_exit tracepoint against KVM's exits", byHardware.values.reduce(0, +), kernel)
            if let tally = result.hardware {
                let patched = tally.reasons.reduce(into: [UInt64: UInt64]()) {
                    $0[UInt64($1.code ?? 0)] = $1.pair.count
                }
                checks.expect(
                    "the patched kernel's tally by reason", patched == byHardware, "\(patched), \(byHardware)")
            }
            explain(byHardware, kept: kernel - min(kernel, sum), &checks)
        }
        if byUserspace.isEmpty {
            checks.skip("userspace exits by reason", because: "no kvm_userspace_exit tracepoint, or this is not root")
        } else {
            let ours = Dictionary(uniqueKeysWithValues: total.reasons.map { (UInt64($0.code), $0.count) })
            checks.expect(
                "kvm_userspace_exit tracepoint by reason", byUserspace == ours, "\(byUserspace), ours \(ours)")
        }
    }

    /// What KVM counted beyond ours, reason by reason: accesses to RAM that it mapped, interrupts of the host, and HLT
    /// and CPUID where it handles them.
    private func explain(_ hardware: [UInt64: UInt64], kept: UInt64, _ checks: inout Checks) {
        let vocabulary: ReasonVocabulary = HostIdentity(tscKHz: 0).backend == "kvm_amd" ? .svm : .vmx
        // I/O, HLT, RDMSR, and MMIO: EPT misconfiguration and violation, or nested page fault.
        let (io, hlt, rdmsr, mmio): (UInt64, UInt64, UInt64, [UInt64]) =
            vocabulary.id == .svm ? (0x7B, 0x78, 0x7C, [0x400]) : (30, 12, 31, [48, 49])
        checks.expectEqual("VM exits for OUT", hardware[io] ?? 0, UInt64(outs))
        checks.expectEqual("VM exits for RDMSR", hardware[rdmsr] ?? 0, UInt64(reads))
        checks.expectEqual("VM exits for HLT", hardware[hlt] ?? 0, 1)
        let pageFaults = mmio.reduce(0) { $0 + (hardware[$1] ?? 0) }
        checks.expect("VM exits for MMIO hold \(writes) writes", pageFaults >= UInt64(writes), "\(pageFaults)")
        let others = hardware.filter { ![io, hlt, rdmsr].contains($0.key) && !mmio.contains($0.key) }
        let explained = others.values.reduce(0, +) + pageFaults - min(pageFaults, UInt64(writes))
        checks.expectEqual("exits that KVM kept, explained", explained, kept)
        checks.note("page faults: \(pageFaults - min(pageFaults, UInt64(writes)))")
        for (code, count) in others.sorted(by: { $0.key < $1.key }) {
            checks.note("\(vocabulary.name(UInt32(truncatingIfNeeded: code))): \(count)")
        }
    }

    // mov $outs, %ecx; mov $0x2000, %dx; 1: out %al, (%dx); dec %ecx; jnz 1b
    // mov $0xD0000000, %ebx; mov $writes, %ecx; 2: mov %eax, (%rbx); dec %ecx; jnz 2b
    // mov $reads, %esi; mov $0xCE, %ecx; 3: rdmsr; dec %esi; jnz 3b; hlt
    private var code: [UInt8] {
        [0xB9] + little(outs) + [0x66, 0xBA, 0x00, 0x20, 0xEE, 0xFF, 0xC9, 0x75, 0xFB]
            + [0xBB, 0x00, 0x00, 0x00, 0xD0, 0xB9] + little(writes) + [0x89, 0x03, 0xFF, 0xC9, 0x75, 0xFA]
            + [0xBE] + little(reads) + [0xB9, 0xCE, 0x00, 0x00, 0x00, 0x0F, 0x32, 0xFF, 0xCE, 0x75, 0xFA, 0xF4]
    }

    private var elf: [UInt8] {
        var builder = ELFBuilder()
        builder.entry = Self.address
        builder.segments = [.init(address: Self.address, bytes: code)]
        return builder.bytes
    }
}
