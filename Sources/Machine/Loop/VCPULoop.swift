// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM

/// The exit path: KVM_RUN, account, handle, account, and again.
///
/// Between two exits nothing allocates, counts references or takes a lock; what is rare lives in ``RareExits``, out of
/// line. Tests/CodegenTests reads the machine code of ``run()`` and holds it to that.
struct VCPULoop: ~Copyable {
    let vcpu: VCPU
    let index: Int
    let tally: TallyWriter
    let platform: Platform
    let control: RunControl
    var rare: RareExits

    /// Runs the vCPU until it ends the run, or the run ends it.
    @inline(never)
    mutating func run() {
        loop(tally)
    }

    /// The same, and also by where exits come from.
    @inline(never)
    mutating func run(_ places: PlaceTallies.Writers) {
        loop(PlaceAccount(tally: tally, places: places, page: vcpu.runPage, registers: vmtally_sync_regs(vcpu.runPage)))
    }

    /// The same without counting and timing, to measure what these cost.
    @inline(never)
    mutating func runUncounted() {
        loop(NoAccount())
    }

    @inline(__always)
    private mutating func loop(_ account: some ExitAccount) {
        let page = vcpu.runPage
        var goesOn = true
        while goesOn {
            let result = vcpu.run()
            let returned = account.clock()
            let reason = result == 0 ? page.pointee.exit_reason : RareExits.reason(ofError: result, page)
            let slot = account.begin(reason)
            switch Int32(truncatingIfNeeded: reason) {
            case KVM_EXIT_IO where platform.portAccess(page) || platform.uartAccess(page): break
            case KVM_EXIT_MMIO where platform.memoryAccess(page): break
            default: goesOn = rare.handle(result, vcpu, platform, control)
            }
            account.end(slot, cycles: account.clock() &- returned)
        }
    }
}

/// What the loop tells of each exit.
protocol ExitAccount {
    /// Where an exit is accounted.
    associatedtype Slot
    /// TSC cycles.
    func clock() -> UInt64
    /// Counts an exit, before it is handled, and returns its slot for ``end(_:cycles:)``.
    func begin(_ code: UInt32) -> Slot
    /// Accounts the cycles that handling took.
    func end(_ slot: Slot, cycles: UInt64)
}

extension TallyWriter: ExitAccount {}

/// Counts and times nothing.
struct NoAccount: ExitAccount {
    @inline(__always)
    func clock() -> UInt64 { 0 }
    @inline(__always)
    func begin(_ code: UInt32) {}
    @inline(__always)
    func end(_ slot: Void, cycles: UInt64) {}
}
