/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinuxSandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

int vmtally_no_new_privileges(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
}

int vmtally_drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return syscall(SYS_capset, &header, none) ? -errno : 0;
}

/* landlock(7). The C library's headers may be older than the kernel. */
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self 446
#endif

struct ruleset {
	uint64_t files; /* LANDLOCK_ACCESS_FS_* */
	uint64_t network; /* since ABI 4: bind and connect */
	uint64_t scopes; /* since ABI 6: abstract UNIX sockets, signals */
};

int vmtally_landlock(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
	struct ruleset all = { .files = (1 << 13) - 1 };
	int fd, result;

	if (abi < 0)
		return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -errno;
	if (abi >= 2)
		all.files |= 1 << 13; /* REFER */
	if (abi >= 3)
		all.files |= 1 << 14; /* TRUNCATE */
	if (abi >= 4)
		all.network = 3;
	if (abi >= 5)
		all.files |= 1 << 15; /* IOCTL_DEV */
	/* Not signals: before Linux 6.15 those to threads of this very process would be refused with them. */
	if (abi >= 6)
		all.scopes = 1;
	fd = syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);
	if (fd < 0)
		return -errno;
	result = syscall(SYS_landlock_restrict_self, fd, 0) ? -errno : 0;
	close(fd);
	return result ? result : abi;
}

int vmtally_filter_calls(const struct sock_filter *filter, unsigned short count)
{
	struct sock_fprog program = { .len = count, .filter = (struct sock_filter *)filter };

	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program) ? -errno : 0;
}

/* Calls that somebody who has broken in would make, or that a mistake of ours would; the others go by their number. */
static const char *call_name(int number)
{
#define NAME(call) case SYS_##call: return #call
	switch (number) {
	NAME(read); NAME(write); NAME(open); NAME(openat); NAME(openat2); NAME(creat); NAME(close); NAME(stat); NAME(fstat);
	NAME(lstat); NAME(newfstatat); NAME(statx); NAME(access); NAME(faccessat); NAME(faccessat2); NAME(readlink);
	NAME(readlinkat); NAME(getdents64); NAME(poll); NAME(ppoll); NAME(select); NAME(lseek); NAME(mmap); NAME(mprotect);
	NAME(munmap); NAME(mremap); NAME(brk); NAME(mlock); NAME(mlock2); NAME(madvise); NAME(memfd_create);
	NAME(rt_sigaction); NAME(rt_sigprocmask); NAME(sigaltstack); NAME(ioctl); NAME(pipe); NAME(pipe2); NAME(dup);
	NAME(dup2); NAME(dup3); NAME(fcntl); NAME(socket); NAME(socketpair); NAME(connect); NAME(bind); NAME(listen);
	NAME(accept); NAME(accept4); NAME(sendto); NAME(recvfrom); NAME(sendmsg); NAME(recvmsg); NAME(clone); NAME(clone3);
	NAME(fork); NAME(vfork); NAME(execve); NAME(execveat); NAME(wait4); NAME(kill); NAME(tgkill); NAME(tkill);
	NAME(ptrace); NAME(process_vm_readv); NAME(process_vm_writev); NAME(pidfd_open); NAME(pidfd_getfd); NAME(prctl);
	NAME(arch_prctl); NAME(capset); NAME(setuid); NAME(setgid); NAME(setresuid); NAME(unshare); NAME(setns);
	NAME(mount); NAME(umount2); NAME(pivot_root); NAME(chroot); NAME(chdir); NAME(mkdir); NAME(mkdirat); NAME(unlink);
	NAME(unlinkat); NAME(rename); NAME(renameat2); NAME(link); NAME(linkat); NAME(symlink); NAME(symlinkat);
	NAME(truncate); NAME(ftruncate); NAME(chmod); NAME(fchmod); NAME(fchmodat); NAME(chown); NAME(init_module);
	NAME(finit_module); NAME(bpf); NAME(perf_event_open); NAME(userfaultfd); NAME(io_uring_setup);
	NAME(io_uring_enter); NAME(seccomp); NAME(keyctl); NAME(add_key); NAME(reboot); NAME(kexec_load); NAME(eventfd2);
	NAME(epoll_create1); NAME(epoll_ctl); NAME(epoll_wait); NAME(signalfd4); NAME(timerfd_create); NAME(uname);
	NAME(sysinfo); NAME(getrandom); NAME(getuid); NAME(prlimit64); NAME(sched_setaffinity); NAME(sched_setscheduler);
	NAME(setpriority); NAME(close_range); NAME(modify_ldt); NAME(iopl); NAME(ioperm);
	}
#undef NAME
	return NULL;
}

static const char *const *roles;
static unsigned role_count;
static const char *advice;

/* snprintf(3) is not for signal handlers. */
static void put_text(char **to, const char *end, const char *text)
{
	while (*text && *to < end)
		*(*to)++ = *text++;
}

static void put_number(char **to, const char *end, uint64_t value, unsigned base)
{
	char digits[24];
	int count = 0;

	do
		digits[count++] = "0123456789abcdef"[value % base];
	while (value /= base);
	while (count && *to < end)
		*(*to)++ = digits[--count];
}

static void report_forbidden_call(int signal, siginfo_t *info, void *context)
{
	const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
	char message[512], *to = message, *end = message + sizeof(message) - 1;
	/* The filter's data; SIGSYS that somebody sent has none. */
	unsigned role = info->si_errno;
	const char *name;

	if (info->si_code != 1 /* SYS_SECCOMP */)
		_exit(128 + signal);
	name = info->si_arch == AUDIT_ARCH_X86_64 ? call_name(info->si_syscall) : NULL;
	put_text(&to, end, "vmtally: the sandbox does not let the ");
	put_text(&to, end, role < role_count ? roles[role] : "?");
	put_text(&to, end, " thread make the system call ");
	put_text(&to, end, name ? name : "number ");
	put_text(&to, end, name ? " (" : "");
	put_number(&to, end, (unsigned)info->si_syscall, 10);
	if (info->si_arch == AUDIT_ARCH_X86_64 && info->si_syscall == SYS_ioctl) {
		put_text(&to, end, ", request 0x");
		put_number(&to, end, (uint32_t)registers[REG_RSI], 16);
	}
	put_text(&to, end, name ? ")" : "");
	put_text(&to, end, ", at 0x");
	put_number(&to, end, (uintptr_t)info->si_call_addr, 16);
	put_text(&to, end, "\n");
	put_text(&to, end, advice);
	put_text(&to, end, "\n");
	if (write(STDERR_FILENO, message, to - message) < 0)
		_exit(128 + signal);
	_exit(128 + signal);
}

int vmtally_report_forbidden_calls(const char *const *names, unsigned count, const char *last_line)
{
	struct sigaction action = { .sa_sigaction = report_forbidden_call, .sa_flags = SA_SIGINFO | SA_NODEFER };

	roles = names;
	role_count = count;
	advice = last_line;
	return sigaction(SIGSYS, &action, NULL) ? -errno : 0;
}

void vmtally_unblock_forbidden_calls(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGSYS);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void close_if_inherited(int fd)
{
	int flags = fcntl(fd, F_GETFD);

	/* What is ours is closed on exec. */
	if (flags >= 0 && !(flags & FD_CLOEXEC))
		close(fd);
}

int vmtally_close_inherited(void)
{
	DIR *all = opendir("/proc/self/fd");
	struct dirent *entry;

	if (all) {
		while ((entry = readdir(all))) {
			int fd = atoi(entry->d_name);

			if (fd > STDERR_FILENO)
				close_if_inherited(fd);
		}
		closedir(all);
		return 0;
	}
	/* Where /proc is not there to tell, beyond these nobody's shell has any. */
	for (int fd = STDERR_FILENO + 1; fd < 1024; fd++)
		close_if_inherited(fd);
	return 0;
}

void vmtally_settle_library(void)
{
	static char buffer[BUFSIZ];

	setvbuf(stdout, buffer, isatty(STDOUT_FILENO) ? _IOLBF : _IOFBF, sizeof(buffer));
	vmtally_use_one_arena();
}

void vmtally_use_one_arena(void)
{
	mallopt(M_ARENA_MAX, 1);
}

/* ---- Namespaces --------------------------------------------------------------------------------------------------- */

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), result = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		result = -errno;
	close(fd);
	return result;
}

static pid_t child;

/* What a terminal sends has gone to the child as well. */
static void pass_on(int signal, siginfo_t *info, void *context)
{
	(void)context;
	if (info->si_code <= 0 || (signal != SIGINT && signal != SIGQUIT && signal != SIGHUP))
		kill(child, signal);
}

static _Noreturn void wait_for_child(void)
{
	int status;

	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		_exit(128 + WTERMSIG(status));
	_exit(WEXITSTATUS(status));
}

int vmtally_enter_namespaces(const int *signals, size_t count, const char **step)
{
	uid_t uid = getuid();
	gid_t gid = getgid();
	char map[64];
	int result;

	*step = "unshare";
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID))
		return -errno;
	*step = "/proc/self/setgroups";
	result = write_file("/proc/self/setgroups", "deny");
	if (result)
		return result;
	*step = "/proc/self/uid_map";
	snprintf(map, sizeof(map), "%u %u 1", uid, uid);
	result = write_file("/proc/self/uid_map", map);
	if (result)
		return result;
	*step = "/proc/self/gid_map";
	snprintf(map, sizeof(map), "%u %u 1", gid, gid);
	result = write_file("/proc/self/gid_map", map);
	if (result)
		return result;
	*step = "mount";
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -errno;
	*step = "fork";
	child = fork();
	if (child < 0)
		return -errno;
	if (child) {
		struct sigaction action = { .sa_sigaction = pass_on, .sa_flags = SA_SIGINFO };

		for (size_t i = 0; i < count; i++)
			sigaction(signals[i], &action, NULL);
		wait_for_child();
	}
	*step = "prctl";
	return prctl(PR_SET_PDEATHSIG, SIGKILL) ? -errno : 0;
}

int vmtally_change_root(const char *folder)
{
	if (unshare(CLONE_NEWNET))
		return -errno;
	if (mount(folder, folder, NULL, MS_BIND, NULL))
		return -errno;
	if (mount(NULL, folder, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return -errno;
	if (chdir(folder))
		return -errno;
	if (syscall(SYS_pivot_root, ".", "."))
		return -errno;
	if (umount2(".", MNT_DETACH))
		return -errno;
	return chdir("/") ? -errno : 0;
}
