// SPDX-License-Identifier: Apache-2.0
import CLinux
import CLinuxKVM
import Glibc
import Linux

extension SystemCallFilter {
    /// The thread that waits for the run's end, reads the counters then and writes the report to files that are open.
    static let mainThread: SystemCallFilter = {
        var filter = SystemCallFilter()
        filter.allow(allOf: .openDescriptors)
        // A terminal gets its settings back.
        filter.allow(SYS_ioctl, .oneOf(argument: 1, readState + [UInt32(TCGETS), UInt32(TCSETS)]))
        filter.allow(SYS_ftruncate)
        // Whether a document still has its name; of an open file, where newfstatat(2) would tell of any.
        filter.allow(SYS_fstat)
        filter.allow(allOf: .anyThread)
        return filter
    }()

    /// ioctls on a vCPU that only read.
    private static let readState: [UInt32] = [
        VMTALLY_KVM_GET_REGS, VMTALLY_KVM_GET_SREGS, VMTALLY_KVM_GET_MSRS, VMTALLY_KVM_TRANSLATE,
    ].map(UInt32.init)
}
