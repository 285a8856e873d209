// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "CTestSupport.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

int ctest_answer_ioctl(unsigned long request, int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned int)request, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned int)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		return errno;
	return 0;
}

int ctest_memory_file(long size)
{
	int file = memfd_create("test", MFD_CLOEXEC);

	if (file >= 0 && ftruncate(file, size)) {
		close(file);
		return -1;
	}
	return file;
}

long ctest_call(long number)
{
	return syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
}

/* A CPUID that is about to run: answered instead. Nonzero when it was one. */
static int answer_cpuid(pid_t child, ctest_cpuid answer, void *context)
{
	struct user_regs_struct registers;
	unsigned int words[4];

	if (ptrace(PTRACE_GETREGS, child, 0, &registers))
		return 0;
	if ((ptrace(PTRACE_PEEKTEXT, child, (void *)registers.rip, 0) & 0xFFFF) != 0xA20F)
		return 0;
	words[0] = (unsigned int)registers.rax;
	words[1] = 0;
	words[2] = (unsigned int)registers.rcx;
	words[3] = 0;
	answer(context, words);
	registers.rax = words[0];
	registers.rbx = words[1];
	registers.rcx = words[2];
	registers.rdx = words[3];
	registers.rip += 2;
	return ptrace(PTRACE_SETREGS, child, 0, &registers) == 0;
}

int ctest_run_answering_cpuid(const char *path, char *const *arguments, int output, ctest_cpuid answer, void *context)
{
	int status, signal = 0;
	pid_t child = fork();

	if (child == 0) {
		dup2(output, 1);
		dup2(output, 2);
		if (ptrace(PTRACE_TRACEME, 0, 0, 0) == 0)
			execv(path, arguments);
		_exit(127);
	}
	if (child < 0)
		return -1;
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
		signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
		if (signal == 0)
			while (answer_cpuid(child, answer, context))
				;
		if (ptrace(PTRACE_SINGLESTEP, child, 0, (void *)(long)signal))
			break;
	}
	return status;
}
