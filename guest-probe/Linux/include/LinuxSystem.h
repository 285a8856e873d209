/* SPDX-License-Identifier: Apache-2.0 */
/* Linux's system calls and CPUID, for a program without a C library. Calls return -errno. */
#ifndef LINUX_SYSTEM_H
#define LINUX_SYSTEM_H

#include <stddef.h>
#include <stdint.h>

#define SYSTEM_INLINE static inline __attribute__((always_inline))

struct system_registers {
	uint32_t eax, ebx, ecx, edx;
};

struct system_time {
	int64_t seconds;
	int64_t nanoseconds;
};

SYSTEM_INLINE void system_cpuid(uint32_t leaf, uint32_t subleaf, struct system_registers *result)
{
	__asm__ volatile("cpuid"
			 : "=a"(result->eax), "=b"(result->ebx), "=c"(result->ecx), "=d"(result->edx)
			 : "a"(leaf), "c"(subleaf));
}

SYSTEM_INLINE long system_call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
}

SYSTEM_INLINE long system_call6(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

SYSTEM_INLINE long system_read(int fd, void *bytes, size_t count)
{
	return system_call(0, fd, (long)bytes, (long)count, 0);
}

SYSTEM_INLINE long system_open(const char *path, int flags)
{
	return system_call(2, (long)path, flags, 0, 0);
}

SYSTEM_INLINE long system_close(int fd)
{
	return system_call(3, fd, 0, 0, 0);
}

/* A file's bytes from `offset` on, shared and read-only: the address, or -errno. */
SYSTEM_INLINE long system_map(size_t count, int fd, long offset)
{
	return system_call6(9, 0, (long)count, 1, 1, fd, offset);
}

SYSTEM_INLINE long system_write(int fd, const void *bytes, size_t count)
{
	return system_call(1, fd, (long)bytes, (long)count, 0);
}

SYSTEM_INLINE long system_sleep(struct system_time duration)
{
	return system_call(35, (long)&duration, 0, 0, 0);
}

/* The child runs on a copy of this process's memory. */
SYSTEM_INLINE long system_fork(void)
{
	return system_call(57, 0, 0, 0, 0);
}

SYSTEM_INLINE long system_execute(const char *path, char *const *arguments, char *const *environment)
{
	return system_call(59, (long)path, (long)arguments, (long)environment, 0);
}

SYSTEM_INLINE long system_wait(long process, int32_t *status)
{
	return system_call(61, process, (long)status, 0, 0);
}

SYSTEM_INLINE long system_clock(int clock, struct system_time *time)
{
	return system_call(228, clock, (long)time, 0, 0);
}

/* Runs this thread on one processor only. */
SYSTEM_INLINE long system_stay_on(uint32_t processor)
{
	uint64_t mask[128] = { 0 };

	if (processor >= sizeof(mask) * 8)
		return -22;
	mask[processor / 64] = 1UL << processor % 64;
	return system_call(203, 0, sizeof(mask), (long)mask, 0);
}

/* SIG_IGN (1) or SIG_DFL (0) for a signal. */
SYSTEM_INLINE long system_signal(int number, unsigned long handler)
{
	unsigned long action[4] = { handler, 0, 0, 0 };

	return system_call(13, number, (long)action, 0, 8);
}

SYSTEM_INLINE long system_process(void)
{
	return system_call(39, 0, 0, 0, 0);
}

/* Lets this process use one I/O port. */
SYSTEM_INLINE long system_allow_port(uint16_t port)
{
	return system_call(173, port, 1, 1, 0);
}

SYSTEM_INLINE void system_out(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

/* Switches the machine off, as its first process may (reboot(2)). */
SYSTEM_INLINE long system_power_off(void)
{
	return system_call(169, (long)0xFEE1DEAD, 672274793, 0x4321FEDC, 0);
}

SYSTEM_INLINE _Noreturn void system_exit(int status)
{
	for (;;)
		system_call(231, status, 0, 0, 0);
}

/* 64 KiB that are nobody else's: text on its way out, and two snapshots. */
/* Standard output has not taken all: the program's status is 1 unless it is another already. */
void system_note_lost_output(void);

uint8_t *system_text_buffer(void);
uint64_t *system_snapshot(int which);

#define SYSTEM_TEXT_SIZE 32768
/* Numbers in a snapshot: count and cycles of up to 512 reasons. */
#define SYSTEM_SNAPSHOT_SIZE 1024

#endif
