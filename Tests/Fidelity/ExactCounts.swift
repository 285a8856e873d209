// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import Machine
import Reports
import TestSupport
import HostView

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
        let hardware = TracepointCounts(.vmExitTracepoint)
        let userspace = TracepointCounts(.userspaceExitTracepoint)
        let result = try machine.run()
        let byHardware = hardware?.counts().flatMap { $0.total > 0 ? $0 : nil }
        let byUserspace = userspace?.counts().flatMap { $0.total > 0 ? $0 : nil }

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
        checks.expectEqual("all userspace exits", total.total, sum)

        let kernel = result.kernel.values["exits"] ?? 0
        checks.expect("KVM's exits (\(kernel)) hold ours", kernel >= sum, "ours are \(sum)")
        if let byHardware {
            checks.expectEqual("kvm_exit tracepoint against KVM's exits", byHardware.total, kernel)
            if let patched = result.hardware {
                checks.expect(
                    "the patched kernel's tally by reason", patched.byName == byHardware.byName,
                    "\(patched), \(byHardware)")
            }
            explain(byHardware, kept: kernel - min(kernel, sum), &checks)
        } else {
            checks.skip(
                "VM exits by reason", because: "the kvm_exit tracepoint does not fire here, or this is not root")
        }
        if let byUserspace {
            checks.expect(
                "kvm_userspace_exit tracepoint by reason", byUserspace.byName == total.byName,
                "\(byUserspace), ours \(total)")
        } else {
            checks.skip("userspace exits by reason", because: "no kvm_userspace_exit tracepoint, or this is not root")
        }
    }

    /// What KVM counted beyond ours, reason by reason: accesses to RAM that it mapped, interrupts of the host, and HLT
    /// and CPUID where it handles them.
    private func explain(_ hardware: ExitCounts, kept: UInt64, _ checks: inout Checks) {
        // I/O, HLT, RDMSR, and MMIO: EPT misconfiguration and violation, or nested page fault.
        let codes: (io: UInt32, hlt: UInt32, rdmsr: UInt32, mmio: [UInt32])
        switch hardware.vocabulary {
        case .svm: codes = (0x7B, 0x78, 0x7C, [0x400])
        case .vmx: codes = (30, 12, 31, [48, 49])
        case .kvm, nil: return checks.note("VM exits in no processor's vocabulary: nothing to explain them by")
        }
        func count(_ code: UInt32) -> UInt64 { hardware[code]?.count ?? 0 }
        checks.expectEqual("VM exits for OUT", count(codes.io), UInt64(outs))
        checks.expectEqual("VM exits for RDMSR", count(codes.rdmsr), UInt64(reads))
        checks.expectEqual("VM exits for HLT", count(codes.hlt), 1)
        let pageFaults = codes.mmio.reduce(0) { $0 + count($1) }
        checks.expect("VM exits for MMIO hold \(writes) writes", pageFaults >= UInt64(writes), "\(pageFaults)")
        let known = [codes.io, codes.hlt, codes.rdmsr] + codes.mmio
        let others = hardware.reasons.filter { reason in !known.contains { $0 == reason.code } }
        let explained = others.reduce(0) { $0 + $1.count } + pageFaults - min(pageFaults, UInt64(writes))
        checks.expectEqual("exits that KVM kept, explained", explained, kept)
        checks.note("page faults: \(pageFaults - min(pageFaults, UInt64(writes)))")
        for reason in others {
            checks.note("\(hardware.name(of: reason)): \(reason.count)")
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
