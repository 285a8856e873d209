/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <sched.h>
#include "CLinuxKVM.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

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

int vmtally_unshare_descriptors(void)
{
	return unshare(CLONE_FILES) < 0 ? -errno : 0;
}
