/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a thread confines itself with, as the C library does not wrap it: seccomp(2), landlock(7), capset(2), namespaces.
 * All return 0 or -errno, unless said otherwise.
 */
#ifndef CLINUX_SANDBOX_H
#define CLINUX_SANDBOX_H

#include <stddef.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/syscall.h>

/* Of the calling thread and of those that it starts from now on: no privilege by execve(2) (PR_SET_NO_NEW_PRIVS). */
int vmtally_no_new_privileges(void);

/* Of the calling thread: no capability any more, in no set. */
int vmtally_drop_capabilities(void);

/*
 * Of the calling thread and of those that it starts from now on: opens no file, makes no TCP connection and meets nobody by
 * an abstract UNIX socket, as far as this kernel's Landlock goes. Returns its ABI, 0 without Landlock.
 */
int vmtally_landlock(void);

/* Puts a filter on the calling thread's system calls, without the guard against speculation that costs more than it. */
int vmtally_filter_calls(const struct sock_filter *filter, unsigned short count);

/*
 * SECCOMP_RET_TRAP ends the process with a message that names the role (the filter's data, an index) and the call, and
 * with status 128 + SIGSYS. `roles` must live on; `advice` is the message's last line.
 */
int vmtally_report_forbidden_calls(const char *const *roles, unsigned count, const char *advice);

/* The calling thread can get SIGSYS from now on: a blocked one ends the process without a word. */
void vmtally_unblock_forbidden_calls(void);

/* Closes descriptors of 3 and more that were there when the program began: ours are opened with O_CLOEXEC. */
int vmtally_close_inherited(void);

/*
 * What the C library would make system calls for at some later time: standard output gets its buffer (fstat(2), with the
 * first character), and malloc(3) keeps one arena for all threads (a second one, when it shrinks, opens a file in /proc).
 */
void vmtally_settle_library(void);

/*
 * Before the first thread: the C library opens files to find out how many arenas there may be, and whether one may shrink,
 * which a confined thread must not.
 */
void vmtally_use_one_arena(void);

/*
 * Goes on in a child process in new user, PID, mount, IPC and network namespaces, with this user's own number. Only with a
 * single thread. In the parent it does not return: it passes `signals` on, waits, and exits as the child does. `step` names
 * the call that failed.
 */
int vmtally_enter_namespaces(const int *signals, size_t count, const char **step);

/* Makes a folder the root, read-only, without devices or programs, for all threads of this process. */
int vmtally_change_root(const char *folder);

#endif
