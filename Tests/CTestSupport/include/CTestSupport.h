/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests need of Linux that Swift cannot call: variadic functions, and those of GNU. */
#ifndef CTESTSUPPORT_H
#define CTESTSUPPORT_H

/*
 * From now on an ioctl of this request on the calling thread does not reach the kernel: it returns 0, or -1 with errno
 * set to `error` if that is not 0. For good: let the thread end. Returns 0, or an errno.
 */
int ctest_answer_ioctl(unsigned long request, int error);

/* A file of `size` zero bytes that has no name, or -1. */
int ctest_memory_file(long size);

/* A system call by its number, with arguments that mean nothing. Returns what it returns. */
long ctest_call(long number);

/* What a CPUID is answered with: EAX to EDX, which hold EAX and ECX of the question at first. */
typedef void (*ctest_cpuid)(void *context, unsigned int *registers);

/*
 * Runs a program step by step (ptrace(2)) and answers each of its CPUID instructions, those of its children not. What it
 * writes goes to `output`. Returns its status as waitpid(2) has it, or -1.
 */
int ctest_run_answering_cpuid(const char *path, char *const *arguments, int output, ctest_cpuid answer, void *context);

#endif
