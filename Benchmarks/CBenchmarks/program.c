/* SPDX-License-Identifier: Apache-2.0 */
/* What Swift cannot say: CPU sets, and a program's run watched from outside. */
#define _GNU_SOURCE
#include "CBenchmarks.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
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
