// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc
import Linux

extension SystemCallFilter {
    /// The devices' thread, the console's among them: waits for descriptors, moves their bytes, raises interrupts.
    static let devicesThread: SystemCallFilter = {
        var filter = SystemCallFilter()
        filter.allow(SYS_epoll_wait)
        filter.allow(allOf: .openDescriptors)
        filter.allow(SYS_ioctl, .oneOf(argument: 1, interrupts))
        filter.allow(allOf: .deviceWork)
        filter.allow(allOf: .anyThread)
        return filter
    }()

    /// What devices do on whichever thread: disks, and telling the event loop to look again.
    static let deviceWork: SystemCallFilter = {
        var filter = SystemCallFilter()
        filter.allow(SYS_epoll_ctl, SYS_fdatasync, SYS_fallocate)
        return filter
    }()
}
