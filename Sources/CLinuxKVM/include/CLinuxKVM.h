/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Swift cannot import from <linux/kvm.h>, and nothing else: ioctl numbers (function-like macros), a variadic
 * ioctl, and single instructions.
 */
#ifndef CLINUXKVM_H
#define CLINUXKVM_H

#include <errno.h>
#include <stdint.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#define VMTALLY_INLINE static inline __attribute__((always_inline))

/* ioctl(2) that returns -errno instead of setting errno. */
VMTALLY_INLINE int vmtally_ioctl(int fd, unsigned long request, unsigned long argument)
{
	int result = ioctl(fd, request, argument);

	return result < 0 ? -errno : result;
}

VMTALLY_INLINE int vmtally_ioctl_pointer(int fd, unsigned long request, void *argument)
{
	return vmtally_ioctl(fd, request, (unsigned long)argument);
}

VMTALLY_INLINE uint64_t vmtally_rdtsc(void)
{
	return __builtin_ia32_rdtsc();
}

#endif
