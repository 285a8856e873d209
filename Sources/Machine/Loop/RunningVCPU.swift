// SPDX-License-Identifier: Apache-2.0
import ExitStats
import KVM

/// One vCPU's loop, on the heap so that its thread and the machine can share it.
///
/// While the thread runs, only the thread uses it; the machine reads it after the join.
final class RunningVCPU: @unchecked Sendable {
    var loop: VCPULoop
    let places: PlaceTallies?

    init(_ loop: consuming VCPULoop, places: PlaceTallies?) {
        self.loop = loop
        self.places = places
    }

    func run(counting: Bool) {
        loop.control.enter(vcpu: loop.index, runPage: loop.vcpu.runPage)
        if !counting {
            loop.runUncounted()
        } else if let places {
            loop.run(places.writers)
        } else {
            loop.run()
        }
        loop.control.leave(vcpu: loop.index)
    }
}
