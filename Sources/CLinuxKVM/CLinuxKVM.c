/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinuxKVM.h"

#include <fcntl.h>
#include <sys/random.h>

int vmtally_fallocate(int fd, int mode, int64_t offset, int64_t count)
{
	return fallocate(fd, mode, offset, count);
}

int64_t vmtally_getrandom(void *buffer, uint64_t count)
{
	return getrandom(buffer, count, 0);
}
