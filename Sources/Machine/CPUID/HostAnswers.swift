import CLinuxKVM
import ExitStats
import Glibc
import KVM
import Synchronization

/// How a host kernel with the patches of kernel-patch/ or the module of kernel-module/ serves the tally leaves.
public enum HostAnswers: Equatable, Sendable {
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

    /// The kernel would answer a guest with the signature in its table.
    package var kernelCounts: Bool {
        if case .kernel = self { true } else { false }
    }

    /// VM exits by reason, out of KVM's statistics or the module's counters; nil where nobody counts them.
    package func exits(_ counters: KernelCounters) -> ExitCounts? {
        guard let vocabulary else { return nil }
        let source: ExitCounts.Source = if case .module = self { .module } else { .kernelPatch }
        return ExitCounts(kernelPatch: counters.counter, vocabulary, source: source)
    }

    /// Of the VM exits that the kernel counts, and answers with; nil where it does not.
    package var vocabulary: TallyFeatures.Vocabulary? {
        switch self {
        case .kernel(let vocabulary), .module(let vocabulary): vocabulary
        case .none, .userspace: nil
        }
    }

    /// The module, where it is loaded and this process may speak for its VMs.
    private static var module: HostAnswers {
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

    /// - Parameter supported: KVM_GET_SUPPORTED_CPUID, where a kernel that counts lists the leaves.
    public init(_ system: borrowing System, supported: CPUIDTable) {
        let signature = supported.entry(leaf: TallyLeaf.signature).map(CPUIDRegisters.init)
        let features = supported.entry(leaf: TallyLeaf.features).map { TallyFeatures(CPUIDRegisters($0)) }
        if signature?.isTallySignature == true, let vocabulary = features?.vocabulary {
            self = .kernel(vocabulary)
        } else {
            self = system.check(Self.capability) > 0 ? .userspace : Self.module
        }
    }
}

extension CPUIDRegisters {
    init(_ entry: kvm_cpuid_entry2) {
        self.init(eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx)
    }
}
