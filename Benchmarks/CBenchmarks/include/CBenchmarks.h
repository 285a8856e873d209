/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CBENCHMARKS_H
#define CBENCHMARKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How a VMM in plain C calls KVM_RUN, and what it does beside handling exits. */
enum plain_loop {
	PLAIN_LOOP_IOCTL,  /* by the C library's ioctl(2) */
	PLAIN_LOOP_INLINE, /* a system call in the loop's own code */
	PLAIN_LOOP_COUNTS, /* likewise, and counts and times every exit in a `tally` of plain_accounting_new() */
};

/*
 * Runs a bare-metal guest (docs/guests.md: a static ELF64 in long mode) to its end on a VMM in plain C. What the guest sends
 * to the UART goes to `serial`. Returns how many bytes that was, or -errno.
 */
long plain_loop_run(const void *elf, size_t elf_size, size_t memory_size, uint8_t *serial, size_t capacity,
		    enum plain_loop loop, void *tally);

/* An exit that is only accounted. */
struct accounted_exit {
	uint32_t code; /* below 256 */
	uint32_t cycles;
};

/* Counters in plain C; NULL without memory. */
void *plain_accounting_new(void);
void plain_accounting_free(void *tally);
/* Accounts `count` exits out of an array of mask + 1, from `first` on: the time, TSC cycles. */
uint64_t plain_accounting_run(void *tally, const struct accounted_exit *exits, size_t mask, size_t first, size_t count);
/* Exits accounted. */
uint64_t plain_accounting_count(const void *tally);

/* The compiler of the C code. */
const char *plain_loop_compiler(void);

/* Keeps the calling thread, and those that it starts, on one CPU: the last that it may use. Returns it, or -errno. */
int pin_to_last_cpu(void);

/* One run of a program: how long it took to its first byte on standard output, and how large it grew. */
struct program_run {
	uint64_t first_byte_ns; /* from just before fork; 0 if nothing came */
	uint64_t wall_ns;
	long peak_kib;      /* VmHWM as the program exits; 0 unless asked for */
	long anonymous_kib; /* RssAnon at that moment */
	int status;         /* as wait(2) gives it */
};

/*
 * Runs argv[0]. With `measure_memory` it is stopped once, as it exits, and its peak resident size read: ru_maxrss
 * would not do, for it starts from what the parent had at fork. Returns 0 or -errno.
 */
int program_run(char *const argv[], int measure_memory, struct program_run *run);

/*
 * Runs argv[0] until a thread of that name calls KVM_RUN for the first time, and kills it there: the time from just before
 * exec, ns, or -errno; -ESRCH when it ended without. A seccomp filter stops the calls of KVM_RUN, those of other threads as
 * well (10 us each), and costs every other system call some 50 ns.
 */
long program_first_run_ns(char *const argv[], const char *thread);

#endif
