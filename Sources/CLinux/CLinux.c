/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <sched.h>
#include "CLinux.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

const char *vmtally_error_name(int error)
{
	return strerrorname_np(error);
}

const char *vmtally_error_text(int error)
{
	return strerrordesc_np(error);
}

int vmtally_fallocate(int fd, int mode, off_t offset, off_t count)
{
	return fallocate(fd, mode, offset, count);
}

ssize_t vmtally_getrandom(void *buffer, size_t count)
{
	return getrandom(buffer, count, 0);
}

void vmtally_name_thread(const char *name)
{
	pthread_setname_np(pthread_self(), name);
}

int vmtally_pin_thread(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) < 0 ? -errno : 0;
}

int vmtally_allowed_cpus(int *cpus, int room)
{
	cpu_set_t set;
	int count = 0;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return -errno;
	for (int cpu = 0; cpu < CPU_SETSIZE && count < room; cpu++)
		if (CPU_ISSET(cpu, &set))
			cpus[count++] = cpu;
	return count;
}

int vmtally_memory_file(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int vmtally_reserve(int fd, long bytes)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, bytes) ? -errno : 0;
}

long vmtally_link_count(int fd)
{
	struct stat status; /* the kernel's and the C library's are one on x86-64 */

	return syscall(SYS_fstat, fd, &status) ? -errno : (long)status.st_nlink;
}

int vmtally_unshare_descriptors(void)
{
	return unshare(CLONE_FILES) < 0 ? -errno : 0;
}
