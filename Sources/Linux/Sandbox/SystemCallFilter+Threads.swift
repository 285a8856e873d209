// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc

extension SystemCallFilter {
    /// What any thread of a Swift program does between two system calls of its own: memory, locks, signals, its end.
    ///
    /// No new code: neither mmap nor mprotect make memory executable.
    package static var anyThread: SystemCallFilter {
        var filter = SystemCallFilter()
        filter.allow(SYS_futex, SYS_madvise, SYS_munmap, SYS_mremap, SYS_brk)
        filter.allow(SYS_mmap, .lacks(argument: 2, UInt32(PROT_EXEC)))
        filter.allow(SYS_mprotect, .lacks(argument: 2, UInt32(PROT_EXEC)))
        filter.allow(SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_restart_syscall)
        filter.allow(SYS_gettid, SYS_getpid, SYS_sched_yield)
        // To a thread of this process, as its first argument is this process.
        filter.allow(SYS_tgkill, .oneOf(argument: 0, [UInt32(bitPattern: getpid())]))
        filter.allow(SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep, SYS_getrandom)
        // glibc's qsort asks how much memory there is.
        filter.allow(SYS_sysinfo)
        filter.allow(SYS_close, SYS_exit, SYS_exit_group)
        return filter
    }

    /// What is done with descriptors that are open already.
    package static var openDescriptors: SystemCallFilter {
        var filter = SystemCallFilter()
        filter.allow(SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_poll)
        filter.allow(SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev)
        return filter
    }
}
