// SPDX-License-Identifier: Apache-2.0
import ExitStats

/// Answers the tally leaves for one vCPU out of the machine's counters, as they are at this moment.
struct TallyAnswers: Sendable {
    /// The tally of the vCPU that asks.
    let own: Tally
    /// The tallies of all vCPUs.
    let machine: [Tally]
    /// TSC frequency in kHz, 0 if unknown.
    let tscKHz: UInt32
    /// Where the guest has the counters in its memory; all 0: nowhere.
    var page = CPUIDRegisters()

    static let vocabulary = ReasonVocabulary.kvm

    func answer(_ query: TallyQuery) -> CPUIDRegisters {
        switch query {
        case .signature: .tallySignature
        case .features:
            TallyFeatures(
                flags: page.isEmpty ? [.live, .perReason, .perVCPU] : [.live, .perReason, .perVCPU, .page],
                tscKHz: tscKHz, vocabulary: .kvm
            ).registers
        case .total(.vcpu): CPUIDRegisters(own.total)
        case .total(.machine): CPUIDRegisters(sum { $0.total })
        case .reason(let code):
            Self.vocabulary.defines(code) ? CPUIDRegisters(sum { $0.pair(reason: code) }) : .tallyUndefined
        case .reasonCount(let code):
            Self.vocabulary.defines(code)
                ? CPUIDRegisters(count: sum { $0.pair(reason: code) }.count) : .tallyUndefined
        case .page: page
        case .reserved: CPUIDRegisters()
        }
    }

    private func sum(_ pair: (Tally) -> TallyPair) -> TallyPair {
        machine.reduce(into: TallyPair()) { sum, tally in
            let pair = pair(tally)
            sum.count &+= pair.count
            sum.cycles &+= pair.cycles
        }
    }
}
