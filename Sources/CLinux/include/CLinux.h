/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Swift's Glibc module lacks: headers that it leaves out, a variadic ioctl, calls that the C library declares with
 * _GNU_SOURCE only, atomic access to memory that the kernel or a guest shares, and single instructions. The calls are
 * wrapped in CLinux.c: a header that defines _GNU_SOURCE shows fd_set otherwise than other modules do.
 */
#ifndef CLINUX_H
#define CLINUX_H

#include <errno.h>
#include <stdint.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define VMTALLY_INLINE static inline __attribute__((always_inline))

/*
 * ioctl(2) that returns -errno instead of setting errno. Not the C library's: after an exit its return is one that the
 * processor does not foresee.
 */
VMTALLY_INLINE int vmtally_ioctl(int fd, unsigned long request, unsigned long argument)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"((long)SYS_ioctl), "D"((long)fd), "S"(request), "d"(argument)
			 : "rcx", "r11", "memory");
	return (int)result;
}

VMTALLY_INLINE int vmtally_ioctl_pointer(int fd, unsigned long request, void *argument)
{
	return vmtally_ioctl(fd, request, (unsigned long)argument);
}

/* The coalesced ring's indices: KVM writes `last`, we write `first`. */
VMTALLY_INLINE uint32_t vmtally_load_acquire(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

VMTALLY_INLINE void vmtally_store_release(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Indices of a virtqueue, shared with the guest; the fence orders a store before a later load, which x86 does not. */
VMTALLY_INLINE uint16_t vmtally_load_acquire16(const void *word)
{
	return __atomic_load_n((const uint16_t *)word, __ATOMIC_ACQUIRE);
}

VMTALLY_INLINE void vmtally_store_release16(void *word, uint16_t value)
{
	__atomic_store_n((uint16_t *)word, value, __ATOMIC_RELEASE);
}

VMTALLY_INLINE void vmtally_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* "EACCES" and "Permission denied"; NULL for a number that is no error. Unlike strerror(3), safe on any thread. */
const char *vmtally_error_name(int error);
const char *vmtally_error_text(int error);

struct vmtally_cpuid {
	uint32_t eax, ebx, ecx, edx;
};

VMTALLY_INLINE struct vmtally_cpuid vmtally_cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct vmtally_cpuid result;

	__asm__ volatile("cpuid"
			 : "=a"(result.eax), "=b"(result.ebx), "=c"(result.ecx), "=d"(result.edx)
			 : "a"(leaf), "c"(subleaf));
	return result;
}

VMTALLY_INLINE uint64_t vmtally_rdtsc(void)
{
	return __builtin_ia32_rdtsc();
}

/* Linux's own calls. -1 and errno, as ever. */
int vmtally_fallocate(int fd, int mode, off_t offset, off_t count);
ssize_t vmtally_getrandom(void *buffer, size_t count);

/* Names the calling thread, 15 bytes at most, for ps(1) and perf(1). */
void vmtally_name_thread(const char *name);

/* memfd_create(2), closed on exec: a descriptor, or -errno. */
int vmtally_memory_file(const char *name);

/* Keeps room for a file of so many bytes, whatever its size is (fallocate(2)). Returns 0 or -errno. */
int vmtally_reserve(int fd, long bytes);

/* How many names an open file has, or -errno. fstat(2) itself: the C library's is newfstatat(2), which knows paths. */
long vmtally_link_count(int fd);

/* Gives the calling thread a descriptor table of its own, a copy (unshare(2), CLONE_FILES). Returns 0 or -errno. */
int vmtally_unshare_descriptors(void);

/* Keeps the calling thread on one CPU. Returns 0 or -errno. */
int vmtally_pin_thread(int cpu);

/* The CPUs that the calling thread may use, ascending, at most `room` of them; returns how many, or -errno. */
int vmtally_allowed_cpus(int *cpus, int room);

/* The program's arguments as the C library got them; *count of them, the program's name first. */
char **vmtally_arguments(int *count);

/* Writes what stdio has buffered for standard output. Returns 0, or errno when some of the output was not taken. */
int vmtally_flush_stdout(void);

#endif
