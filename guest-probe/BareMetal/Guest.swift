// SPDX-License-Identifier: Apache-2.0
import GuestCPU

/// Where start.S arrives on every vCPU.
@c(guest_main)
func guestMain(_ boot: UnsafePointer<guest_boot_info>?, _ vcpu: UInt32) -> Never {
    guard vcpu == 0 else { OtherVCPUs.live(as: vcpu) }

    // Another VMM may enter without boot information: then with one vCPU, and little memory.
    var vcpus: UInt32 = 1
    var memory: UInt64 = 0
    if let boot, boot.pointee.magic == GUEST_BOOT_MAGIC {
        vcpus = max(1, boot.pointee.vcpus)
        memory = boot.pointee.memory_bytes
    }

    var checks = Checks()
    exitRun(probe(vcpus: vcpus, memory: memory, into: &checks))
}

/// - Returns: what port 0xF4 is told: 0 all is well, 1 a check failed, 2 there is no tally.
private func probe(vcpus: UInt32, memory: UInt64, into checks: inout Checks) -> UInt8 {
    if vcpus > 1 {
        checks.add("others-ready", ring: nil, expected: UInt64(vcpus) - 1, got: OtherVCPUs.gather(of: vcpus))
    }
    var kernel = LeafChecks(.kernel)
    var user = LeafChecks(.user)
    guard kernel.tally.hasSignature || user.tally.hasSignature else {
        // Leave the answers alone: on some hosts they are another leaf's.
        Report.withoutSignature()
        return 2
    }
    kernel.run(vcpus: vcpus, into: &checks)
    user.run(vcpus: vcpus, into: &checks)

    // The longer checks by one ring that answers live, the plainer one if both do.
    var tally = kernel.tally.isLive || !user.tally.isLive ? kernel.tally : user.tally
    if var exits = ExitChecks(tally) {
        exits.run(memory: memory, into: &checks)
        if vcpus > 1 { OtherVCPUs.check(of: vcpus, with: &tally, into: &checks) }
    }

    if let page = PageChecks(&tally) { page.run(&tally, into: &checks) }

    // The last reading: what follows are the exits of the report alone.
    let last = tally.ask(TallyLeaf.total, TallyScope.machine.rawValue)
    let report = Report(vcpus: vcpus, kernel: kernel, user: user, lastRing: tally.ring, last: last)
    report.write(checks)
    return checks.failures == 0 ? 0 : 1
}
