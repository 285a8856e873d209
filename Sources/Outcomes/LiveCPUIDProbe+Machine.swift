// SPDX-License-Identifier: Apache-2.0
import Machine
import Reports

extension LiveCPUIDProbe {
    /// What the machine's trial on this host says.
    package init(_ support: BreakpointSupport, host: HostLeafSupport) {
        self.init()
        hostAnswers = host == .none ? .fails("neither vmtally's module nor its patch is here") : .works
        hardwareBreakpoint = support.hardware ? .works : .fails("tried: breakpoints do not stop a guest here")
        softwareBreakpoint = .notTried
        cpuidFaulting =
            if support.faulting {
                .works
            } else if support.hardware {
                .fails("tried: CPUID in ring 3 does not fault on this host")
            } else {
                .notTried
            }
    }
}
