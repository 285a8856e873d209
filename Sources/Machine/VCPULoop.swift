import CLinuxKVM
import ExitStats
import Glibc
import KVM

/// The exit path: KVM_RUN, account, handle, account, and again.
///
/// Between two exits nothing allocates, counts references or takes a lock; what is rare lives in ``RareExits``.
struct VCPULoop: ~Copyable {
    let vcpu: VCPU
    let index: Int
    let tally: TallyWriter
    let platform: Platform
    let control: RunControl
    var rare: RareExits

    /// Runs the vCPU until it ends the run, or the run ends it.
    mutating func run() {
        let page = vcpu.runPage
        while true {
            let result = vcpu.run()
            let returned = vmtally_rdtsc()
            let slot = tally.begin(result == 0 ? page.pointee.exit_reason : UInt32(KVM_EXIT_INTR))
            let goesOn = handle(result, page)
            tally.end(slot, cycles: vmtally_rdtsc() &- returned)
            guard goesOn else { return }
        }
    }

    /// Handles one exit. False when the vCPU is not to run again.
    @inline(__always)
    private mutating func handle(_ result: Int32, _ page: UnsafeMutablePointer<kvm_run>) -> Bool {
        guard result == 0 else { return rare.interrupted(result, vcpu, control) }
        switch Int32(truncatingIfNeeded: page.pointee.exit_reason) {
        case KVM_EXIT_IO:
            guard let request = platform.portAccess(page) else { return true }
            control.finish(request.end)
            return false
        case KVM_EXIT_MMIO:
            guard let request = platform.memoryAccess(page) else { return true }
            control.finish(request.end)
            return false
        default:
            return rare.handle(vcpu, control)
        }
    }
}
