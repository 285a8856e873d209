/* SPDX-License-Identifier: Apache-2.0 */
/* What Swift cannot say: CPU sets, and a program's run watched from outside. */
#define _GNU_SOURCE
#include "CBenchmarks.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

int pin_to_last_cpu(void)
{
	cpu_set_t allowed, one;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
		return -errno;
	for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--) {
		if (!CPU_ISSET(cpu, &allowed))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		return sched_setaffinity(0, sizeof(one), &one) < 0 ? -errno : cpu;
	}
	return -ENODEV;
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* A line of /proc/PID/status, KiB. */
static long status_kib(pid_t pid, const char *name)
{
	char path[64], line[256];
	long value = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)))
			value = strtol(line + strlen(name) + 1, NULL, 10);
	fclose(file);
	return value;
}

int program_run(char *const argv[], int measure_memory, struct program_run *run)
{
	int ends[2];
	pid_t pid;
	char bytes[4096];
	posix_spawn_file_actions_t actions;

	*run = (struct program_run){ 0 };
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	uint64_t start = now();
	int error = posix_spawn(&pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);
	if (error) {
		close(ends[0]);
		return -error;
	}
	if (measure_memory)
		ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACEEXIT);
	if (read(ends[0], bytes, 1) == 1)
		run->first_byte_ns = now() - start;
	/* Not while it is to be stopped before it closes its end: the pipe holds 64 KiB of what it prints. */
	while (!measure_memory && read(ends[0], bytes, sizeof(bytes)) > 0)
		;
	for (;;) {
		if (waitpid(pid, &run->status, 0) < 0) {
			error = errno;
			break;
		}
		if (!WIFSTOPPED(run->status))
			break;
		int exiting = run->status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8);
		if (exiting) {
			run->peak_kib = status_kib(pid, "VmHWM");
			run->anonymous_kib = status_kib(pid, "RssAnon");
		}
		ptrace(PTRACE_CONT, pid, NULL, exiting ? 0 : WSTOPSIG(run->status));
	}
	run->wall_ns = now() - start;
	close(ends[0]);
	return -error;
}

/* Has the kernel ask whoever holds the descriptor returned, before each KVM_RUN of this process. */
static int watch_kvm_run(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVM_RUN, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	int listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	return listener < 0 ? -errno : listener;
}

/* The child's side: `to` and `from` are pipes to the parent. Does not return. */
static void exec_watched(char *const argv[], int to, int from)
{
	int listener = watch_kvm_run();
	int null = open("/dev/null", O_RDWR);

	/* The parent takes the descriptor over; only then may it close, as it does at exec. */
	if (write(to, &listener, sizeof(listener)) != sizeof(listener) || read(from, &listener, 1) != 1)
		_exit(127);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	uint64_t start = now();
	if (write(to, &start, sizeof(start)) == sizeof(start))
		execve(argv[0], argv, environ);
	_exit(127);
}

/* Is this the thread's name? */
static int is_named(pid_t thread, const char *name)
{
	char path[64], text[32] = "";

	snprintf(path, sizeof(path), "/proc/%d/comm", thread);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return 0;
	ssize_t length = read(file, text, sizeof(text) - 1);
	close(file);
	return length == (ssize_t)strlen(name) + 1 && !strncmp(text, name, strlen(name));
}

/* Lets each KVM_RUN go on until one is by the thread; the time of that, or 0 when the program ends without. */
static uint64_t await_run(int listener, const char *thread)
{
	for (;;) {
		struct seccomp_notif call = { 0 };
		struct pollfd ready = { .fd = listener, .events = POLLIN };

		if (poll(&ready, 1, 10000) <= 0 || !(ready.revents & POLLIN))
			return 0;
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0)
			continue;
		uint64_t time = now();
		if (is_named((pid_t)call.pid, thread))
			return time;
		struct seccomp_notif_resp answer = { .id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

long program_first_run_ns(char *const argv[], const char *thread)
{
	int up[2], down[2], listener = -1, status;
	uint64_t start = 0, first = 0;

	if (pipe2(up, O_CLOEXEC) < 0)
		return -errno;
	if (pipe2(down, O_CLOEXEC) < 0) {
		int error = errno;
		close(up[0]);
		close(up[1]);
		return -error;
	}
	pid_t pid = fork();
	if (!pid)
		exec_watched(argv, up[1], down[0]);
	int error = pid < 0 ? errno : 0;
	close(up[1]);
	close(down[0]);
	if (!error && (read(up[0], &listener, sizeof(listener)) != sizeof(listener) || listener < 0))
		error = listener < -1 ? -listener : EIO;
	if (!error) {
		int process = (int)syscall(SYS_pidfd_open, pid, 0);
		listener = (int)syscall(SYS_pidfd_getfd, process, listener, 0);
		error = listener < 0 ? errno : 0;
		close(process);
	}
	if (!error && (write(down[1], "", 1) != 1 || read(up[0], &start, sizeof(start)) != sizeof(start)))
		error = EIO;
	if (!error)
		first = await_run(listener, thread);
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	}
	if (listener >= 0)
		close(listener);
	close(up[0]);
	close(down[1]);
	if (error)
		return -error;
	return first ? (long)(first - start) : -ESRCH;
}
