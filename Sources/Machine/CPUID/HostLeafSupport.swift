// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import Glibc
import KVM
import Synchronization

/// How a host kernel with the patches of kernel-patch/ or the module of kernel-module/ serves the tally leaves.
public enum HostLeafSupport: Equatable, Sendable {
    /// It does not: a stock kernel.
    case none
    /// It counts VM exits and answers the leaves of guests whose VMM asks for it.
    case kernel(TallyFeatures.Vocabulary)
    /// It sends CPUID of the leaves to the VMM (KVM_EXIT_X86_CPUID).
    case userspace
    /// The module counts VM exits, and answers the leaves of processes that root has it allow: we may ask for ourselves.
    case module(TallyFeatures.Vocabulary)

    /// KVM_CAP_X86_USER_SPACE_CPUID and KVM_EXIT_X86_CPUID; numbers that upstream will not reach.
    package static let capability = Capability(rawValue: 0x7674_0001)
    package static let exitReason: UInt32 = 0x7674_0001
    /// KVM_CAP_X86_EXIT_ACCOUNTING, by which a VMM has its VM counted and its guest answered.
    package static let accounting = Capability(rawValue: 0x7674_0002)
    /// Its flags.
    private enum AccountingFlags {
        static let enable: UInt64 = 1
        static let guestCounts: UInt64 = 2
        static let guestCycles: UInt64 = 4
    }

    /// The kernel would answer a guest with the signature in its table.
    package var kernelCounts: Bool {
        if case .kernel = self { true } else { false }
    }

    /// VM exits by reason, out of KVM's statistics or the module's counters; nil where nobody counts them.
    package func exits(_ counters: KernelCounters) -> ExitCounts? {
        guard let vocabulary else { return nil }
        let source: ExitCounts.Source = if case .module = self { .module } else { .kernelPatch }
        return counters.accounting.map { ExitCounts($0, vocabulary, source: source) }
    }

    /// Of the VM exits that the kernel counts, and answers with; nil where it does not.
    package var vocabulary: TallyFeatures.Vocabulary? {
        switch self {
        case .kernel(let vocabulary), .module(let vocabulary): vocabulary
        case .none, .userspace: nil
        }
    }

    /// The module, where it is loaded and this process may speak for its VMs.
    private static var module: HostLeafSupport {
        guard (try? ExitModule()) != nil else { return .none }
        for (vendor, vocabulary) in [("kvm_intel", TallyFeatures.Vocabulary.vmx), ("kvm_amd", .svm)]
        where access("/sys/module/\(vendor)/initstate", F_OK) == 0 {
            return .module(vocabulary)
        }
        return .none
    }

    /// Has the module count this process's VMs and answer their guests, or no longer do so. A VM must be there.
    package func apply(_ vm: borrowing VirtualMachine) throws(KVMError) {
        if case .module = self {
            try ExitModule().allow(process: getpid())
            Self.isAllowed.store(true, ordering: .relaxed)
        } else if Self.isAllowed.exchange(false, ordering: .relaxed) {
            try ExitModule().disallow(process: getpid())
        }
    }

    /// That we had ourselves allowed.
    private static let isAllowed = Atomic(false)

    /// - Parameter supported: KVM_GET_SUPPORTED_CPUID, which tells whose virtualization the processor has.
    public init(_ system: borrowing System, supported: CPUIDTable) {
        if system.check(Self.accounting) > 0, let vendor = supported.entry(leaf: 0) {
            self = .kernel(Self.vocabulary(vendor.ebx))
        } else {
            self = system.check(Self.capability) > 0 ? .userspace : Self.module
        }
    }

    /// - Parameter vendor: the first four characters of CPUID's vendor.
    static func vocabulary(_ vendor: UInt32) -> TallyFeatures.Vocabulary {
        switch vendor {
        case 0x6874_7541, 0x6F67_7948: .svm  // Auth(enticAMD), Hygo(nGenuine)
        default: .vmx
        }
    }

    /// Has the kernel count a VM that has no vCPU yet, where it can.
    ///
    /// - Parameter answering: its guest may read the counts and cycles.
    func count(_ vm: borrowing VirtualMachine, answering: Bool) throws(KVMError) {
        guard kernelCounts else { return }
        let guest = answering ? AccountingFlags.guestCounts | AccountingFlags.guestCycles : 0
        try vm.enable(Self.accounting, AccountingFlags.enable | guest)
    }

    /// What a vCPU's table says of leaves that the kernel is to answer; it answers those that are listed there.
    var listed: [(leaf: UInt32, CPUIDRegisters)] {
        guard case .kernel(let vocabulary) = self else { return [] }
        let features = TallyFeatures(flags: [.live, .perReason, .perVCPU], tscKHz: 0, vocabulary: vocabulary).registers
        return [(TallyLeaf.signature, .tallySignature), (TallyLeaf.features, features)]
    }
}

extension ExitCounts {
    /// VM exits by reason, timed from VM exit to VM entry.
    ///
    /// - Parameter vocabulary: that of the kernel's answer to ``TallyLeaf/features``.
    fileprivate init(
        _ accounting: KernelAccounting, _ vocabulary: TallyFeatures.Vocabulary, source: Source
    ) {
        self.init(
            source: source, vocabulary: vocabulary,
            reasons: accounting.reasons.map { reason in
                Reason(code: reason.code, count: reason.exits, times: Times(cycles: reason.cycles))
            })
    }
}

extension VCPUTime {
    init(_ accounting: KernelAccounting) {
        self.init(
            guest: accounting.guest, kernel: accounting.kernel, userspace: accounting.userspace,
            blocked: accounting.blocked, preempted: accounting.preempted)
    }
}
