// SPDX-License-Identifier: Apache-2.0
import ExitStats
import KVM
import Machine

/// One thing that makes a guest exit: how it is provoked, and how many exits it must cost.
public struct BenchKind: Sendable {
    public enum Group: String, CaseIterable, Sendable {
        case instructions, registers, msrs, ports, memory, interrupts, cpuid, tally
    }

    /// As `--only` takes it.
    public let name: String
    public let group: Group
    /// One line for people.
    public let summary: String
    private(set) var environment: BenchEnvironment
    /// The VM that it is measured in; those of the same name share one.
    public var vm: String { environment.name }
    let operation: BenchOperation
    let first: Argument
    let second: UInt64
    /// Userspace exits of one iteration, by KVM_EXIT_* code. What is not here must not happen.
    let userspace: [Int32: UInt64]
    /// The reason that the processor's own exit has, once an iteration; nil: as many as it likes.
    let hardware: HardwareReason?
    let needs: [Need]
    /// Memory that must be untouched when a block begins.
    let fresh: Fresh?
    /// Iterations of a block, warm-up included, at most.
    let limit: UInt32

    init(
        _ name: String, _ group: Group, _ summary: String, _ operation: BenchOperation, _ first: Argument = 0,
        _ second: UInt64 = 0, in environment: BenchEnvironment = .plain, userspace: [Int32: UInt64] = [:],
        hardware: HardwareReason? = nil, needs: [Need] = [], fresh: Fresh? = nil, limit: UInt32 = 4096
    ) {
        self.name = name
        self.group = group
        self.summary = summary
        self.operation = operation
        self.first = first
        self.second = second
        self.environment = environment
        self.userspace = userspace
        self.hardware = hardware
        self.needs = needs
        self.fresh = fresh
        self.limit = limit
    }

    /// The same in a VM with interrupt controllers in the kernel, as every PC guest has them: KVM looks after them around
    /// each entry. Those that need another VM stay in it.
    public var withInterruptControllers: BenchKind {
        guard environment == .plain else { return self }
        var kind = self
        kind.environment = .controllers
        return kind
    }

    /// A number, or a time.
    enum Argument: ExpressibleByIntegerLiteral, Sendable {
        case value(UInt64)
        /// In the guest's TSC cycles.
        case microseconds(UInt64)

        init(integerLiteral value: UInt64) {
            self = .value(value)
        }

        func resolved(tscKHz: UInt32) -> UInt64 {
            switch self {
            case .value(let value): value
            case .microseconds(let time): time * UInt64(tscKHz) / 1000
            }
        }
    }

    /// Exit codes of the two vendors.
    struct HardwareReason: Sendable {
        let vmx: UInt32
        let svm: UInt32

        /// nil in a vocabulary that is no processor's.
        func code(_ vocabulary: TallyFeatures.Vocabulary?) -> UInt32? {
            switch vocabulary {
            case .vmx: vmx
            case .svm: svm
            case .kvm, nil: nil
            }
        }

        static let portIO = HardwareReason(vmx: 30, svm: 0x7B)
        /// An address without memory behind it, once KVM knows that.
        static let unbackedMemory = HardwareReason(vmx: 49, svm: 0x400)
    }

    /// What a host must have.
    enum Need: Sendable {
        case capability(Capability)
        /// Two vCPUs, each on a host CPU of its own.
        case twoCPUs
        case hugePages
        /// The host kernel answers CPUID of the tally leaves.
        case kernelAnswers
        /// The host kernel sends CPUID of the tally leaves to the VMM.
        case kernelSends
    }

    enum Fresh: Sendable {
        case smallPages
        case largePages
        /// Guest physical pages without memory, at 4 KiB: the next ones each time.
        case devicePages
    }

    /// Interrupts of other vCPUs are in it.
    var usesPeer: Bool {
        switch operation {
        case .haltIPI, .ipiSend, .ipiDeliver, .ipiAcknowledge: true
        default: false
        }
    }

    /// The sample is a distance between two moments, not a time around an instruction.
    var isDistance: Bool {
        switch operation {
        case .haltTimer, .haltIPI, .timerDelayed, .timerImmediate, .ipiDeliver: true
        default: false
        }
    }

    /// Its marks are stores: an OUT would be an exit of the reason measured.
    var marksInMemory: Bool {
        switch operation {
        case .out8, .in8, .repOut8: true
        default: false
        }
    }

    /// Exits of its marks, which is no reason of its own.
    var markReason: HardwareReason { marksInMemory ? .unbackedMemory : .portIO }
}

/// A VM to measure in. Kinds of one environment share it.
struct BenchEnvironment: Hashable, Sendable {
    let name: String
    var live = LiveCPUIDMode.off
    /// 0 no interrupt controller in the kernel, 1 xAPIC, 2 x2APIC.
    var apic: UInt32 = 0
    /// How long KVM polls before it lets a halted vCPU sleep, ns; nil: its default.
    var haltPoll: UInt64?
    /// With a filter that sends an MSR to userspace: KVM looks at it at every MSR's exit.
    var filtersMSRs = false
    /// vCPUs that it would like to have.
    var cpus = 1

    static let plain = BenchEnvironment(name: "plain")
    static let controllers = BenchEnvironment(name: "controllers", apic: 1, haltPoll: 0)
    static let filter = BenchEnvironment(name: "filter", filtersMSRs: true)
    static let x2APIC = BenchEnvironment(name: "x2apic", apic: 2, haltPoll: 0, cpus: 2)
    static let xAPIC = BenchEnvironment(name: "xapic", apic: 1, haltPoll: 0, cpus: 2)
    static let polling = BenchEnvironment(name: "polling", apic: 2, haltPoll: 200_000, cpus: 2)
    static let sites = BenchEnvironment(name: "sites", live: .sites)
    static let fault = BenchEnvironment(name: "fault", live: .fault)
    static let host = BenchEnvironment(name: "host", live: .host)
}
