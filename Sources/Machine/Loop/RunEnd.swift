// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM

/// How a run ended.
public enum RunEnd: Equatable, Sendable {
    /// The guest wrote to port 0xF4; `status` is (value << 1) | 1, as QEMU's isa-debug-exit gives it.
    case exited(status: UInt32)
    /// Every vCPU halted with nothing left to wake it.
    case halted
    /// The guest switched itself off; `status` is what it wrote to port 0xF6 before, 0 unless it did.
    case powerOff(status: UInt8)
    /// The guest reset itself, be it by a triple fault where its command line says that this is its way.
    case reset
    /// The processor shut down, and no reset was asked for.
    case tripleFault(GuestFailure)
    /// The guest's kernel said on the console that it panicked; then it reset or halted.
    case panicked
    /// The guest's boot was over, and the run was to end there.
    case marker
    /// The user asked for it at the guest's console.
    case quit
    /// KVM_EXIT_SYSTEM_EVENT.
    case systemEvent(type: UInt32)
    /// The time given to the run was over.
    case timeout
    /// The VMM got a signal.
    case interrupted(signal: Int32)
    /// The guest did something impossible, or KVM refused to go on.
    case failed(GuestFailure)

    /// Exit status of the process: the guest's own, 124 at a timeout, 128 + signal, 1 for a failure.
    public var exitStatus: Int32 {
        switch self {
        case .exited(let status): Int32(truncatingIfNeeded: status & 0xFF)
        case .powerOff(let status): Int32(status)
        case .halted, .reset, .marker, .quit: 0
        case .systemEvent(let type): type == UInt32(KVM_SYSTEM_EVENT_CRASH) ? 1 : 0
        case .timeout: 124
        case .interrupted(let signal): 128 + signal
        case .failed, .tripleFault, .panicked: 1
        }
    }

    /// What there is to say of it to whoever sees neither table nor JSON; nil where the status says it all.
    public var remark: String? {
        switch self {
        case .tripleFault(let failure): "the guest's processor shut down by a triple fault: \(failure)"
        case .panicked: "the guest's kernel panicked: see its console"
        case .failed(let failure): "\(failure)"
        default: nil
        }
    }

    /// Someone outside ended the run.
    public var isCalledOff: Bool {
        switch self {
        case .timeout, .interrupted: true
        default: false
        }
    }

    /// The word that `status.reason` has in JSON.
    public var reason: String {
        switch self {
        case .exited: "exited"
        case .halted: "halted"
        case .powerOff: "power-off"
        case .reset: "reset"
        case .tripleFault: "triple-fault"
        case .panicked: "panic"
        case .marker: "marker"
        case .quit: "quit"
        case .systemEvent: "system-event"
        case .timeout: "timeout"
        case .interrupted: "interrupted"
        case .failed: "failed"
        }
    }
}

/// What is known of a guest at the moment it could not go on.
public struct GuestFailure: Error, Equatable, CustomStringConvertible, Sendable {
    /// The vCPU.
    public let vcpu: Int
    /// What happened, in the terms of the KVM API.
    public let cause: String
    /// Register dump and bytes at RIP; empty where KVM does not give them.
    public let state: String

    package init(vcpu: Int, cause: String, state: String) {
        self.vcpu = vcpu
        self.cause = cause
        self.state = state
    }

    public var description: String {
        "vCPU \(vcpu): \(cause)" + (state.isEmpty ? "" : "\n\(state)")
    }
}
