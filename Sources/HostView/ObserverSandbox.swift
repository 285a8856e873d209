// SPDX-License-Identifier: Apache-2.0
import CBPF
import Glibc
import KVM
import Linux

/// Confines a process that watches other VMs, once it is attached: it reads, and writes to what is open.
public enum ObserverSandbox {
    /// Takes from the calling thread, for good, all capabilities and all calls that reading takes no part in.
    ///
    /// - Parameters:
    ///   - collector: is asked from now on; a trace instance may still be removed.
    ///   - advice: the last line of the message that a forbidden call is told with.
    public static func enter(_ collector: any ExitCollector, advice: String) throws {
        // By way of perf, the first time.
        _ = TSCScale.host
        try Capabilities.drop()
        try Sandbox.prepare(advice: advice)
        try Sandbox.enter(.observer, .observer(removesTraces: collector is TracefsCollector))
    }
}

extension SystemCallFilter {
    /// Files are opened for reading alone; BPF's maps are read; programs, sockets and other processes are out of reach.
    static func observer(removesTraces: Bool) -> SystemCallFilter {
        var filter = SystemCallFilter()
        filter.allow(SYS_bpf, .oneOf(argument: 0, openMaps))
        filter.allow(allOf: .openDescriptors)
        // The counters of VMs: /proc, debugfs, tracefs.
        let writing = UInt32(O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)
        filter.allow(SYS_openat, .lacks(argument: 2, writing))
        filter.allow(SYS_open, .lacks(argument: 1, writing))
        filter.allow(SYS_fstat, SYS_stat, SYS_lstat, SYS_newfstatat, SYS_statx, SYS_access, SYS_faccessat)
        filter.allow(SYS_faccessat2, SYS_readlink, SYS_readlinkat, SYS_getdents64, SYS_lseek, SYS_getcwd)
        // /dev/vmtally gives out descriptors of VMs' counters; a terminal has a size, and gets its settings back; perf's
        // event of a tracepoint is turned off as its program is let go of.
        filter.allow(SYS_ioctl, .oneOf(argument: 1, [UInt32(ExitModule.openVM), disableEvent] + terminal))
        filter.allow(SYS_fcntl, SYS_ftruncate, SYS_fsync)
        // A file that is whole gets its name: nothing is replaced by that.
        filter.allow(SYS_linkat, .oneOf(argument: 4, [UInt32(AT_SYMLINK_FOLLOW)]))
        filter.allow(SYS_rt_sigtimedwait, SYS_rt_sigpending, SYS_rt_sigaction, SYS_ppoll, SYS_pselect6)
        // Whether a process is there; and a terminal's Ctrl-Z, which goes to the whole job.
        filter.allow(SYS_kill, .oneOf(argument: 1, [0, UInt32(SIGTSTP)]))
        filter.allow(SYS_wait4, SYS_waitid)
        filter.allow(SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getppid, SYS_uname, SYS_sched_getaffinity)
        if removesTraces { filter.allow(SYS_rmdir) }
        filter.allow(allOf: .anyThread)
        return filter
    }

    /// bpf(2)'s commands on maps that are open: to read, and to give back a VM's place.
    private static var openMaps: [UInt32] {
        [
            BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_GET_NEXT_KEY, BPF_OBJ_GET_INFO_BY_FD,
        ].map(\.rawValue)
    }

    /// What curses asks of one; the last two as it is stopped.
    private static let terminal = [TIOCGWINSZ, TCGETS, TCSETS, TCSETSW, TCSETSF, FIONREAD, TCSBRK, TCFLSH]
        .map { UInt32($0) }
    /// PERF_EVENT_IOC_DISABLE, _IO('$', 1).
    private static let disableEvent: UInt32 = 0x2401
}
