/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libbpf, what our BPF programs share with their reader, and two system calls that Swift cannot make: syscall(2) takes
 * variable arguments.
 */
#ifndef VMTALLY_CBPF_SHIM_H
#define VMTALLY_CBPF_SHIM_H

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "../exits.h"

/* The kernel's own idea of the TSC (perf_event_mmap_page): ns = cycles * mult >> shift. 0, or -errno. */
static inline int vmtally_tsc_scale(uint32_t *mult, uint16_t *shift)
{
	struct perf_event_attr attributes = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attributes),
		.config = PERF_COUNT_SW_DUMMY,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};
	int event = (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	int result = -EOPNOTSUPP;
	void *page;

	if (event < 0)
		return -errno;
	page = mmap(0, 4096, PROT_READ, MAP_SHARED, event, 0);
	if (page == MAP_FAILED) {
		result = -errno;
	} else {
		const volatile struct perf_event_mmap_page *times = page;

		if (times->cap_user_time) {
			*mult = times->time_mult;
			*shift = times->time_shift;
			result = 0;
		}
		munmap(page, 4096);
	}
	close(event);
	return result;
}

/* The TSC and CLOCK_MONOTONIC, ns, at one moment. */
static inline uint64_t vmtally_tsc_now(uint64_t *nanoseconds)
{
	struct timespec now;
	uint64_t before = __builtin_ia32_rdtsc();

	clock_gettime(CLOCK_MONOTONIC, &now);
	*nanoseconds = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	return before + (__builtin_ia32_rdtsc() - before) / 2;
}

#endif
