import CLinuxKVM
import ExitStats
import KVM

/// How a host kernel with the patches of kernel-patch/ serves the tally leaves.
public enum HostAnswers: Equatable, Sendable {
    /// It does not: a stock kernel.
    case none
    /// It counts VM exits and answers the leaves of guests whose VMM asks for it.
    case kernel(TallyFeatures.Vocabulary)
    /// It sends CPUID of the leaves to the VMM (KVM_EXIT_X86_CPUID).
    case userspace

    /// KVM_CAP_X86_USER_SPACE_CPUID and KVM_EXIT_X86_CPUID; numbers that upstream will not reach.
    package static let capability = Capability(rawValue: 0x7674_0001)
    package static let exitReason: UInt32 = 0x7674_0001

    /// The kernel would answer a guest with the signature in its table.
    package var kernelCounts: Bool {
        if case .kernel = self { true } else { false }
    }

    /// VM exits by reason, out of KVM's statistics; nil where this kernel does not count them.
    package func exits(_ counters: KernelCounters) -> ExitCounts? {
        guard case .kernel(let vocabulary) = self else { return nil }
        return ExitCounts(kernelPatch: counters.counter, vocabulary)
    }

    /// - Parameter supported: KVM_GET_SUPPORTED_CPUID, where a kernel that counts lists the leaves.
    public init(_ system: borrowing System, supported: CPUIDTable) {
        let signature = supported.entry(leaf: TallyLeaf.signature).map(CPUIDRegisters.init)
        let features = supported.entry(leaf: TallyLeaf.features).map { TallyFeatures(CPUIDRegisters($0)) }
        if signature?.isTallySignature == true, let vocabulary = features?.vocabulary {
            self = .kernel(vocabulary)
        } else {
            self = system.check(Self.capability) > 0 ? .userspace : .none
        }
    }
}

extension CPUIDRegisters {
    init(_ entry: kvm_cpuid_entry2) {
        self.init(eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx)
    }
}
