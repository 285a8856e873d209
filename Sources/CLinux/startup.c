/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Before Swift's runtime starts. It finds a program's arguments by way of /proc/self/maps, and has none where that cannot
 * be read; and it looks for its own folder by way of /proc/self/exe, and aborts where there is none. A bare initramfs and a
 * chroot have no /proc: what the C library hands over at the start does for both. And standard output at the end, which
 * Swift 6 does not let a program name.
 */
#include "CLinux.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int argument_count;
static char **arguments;

__attribute__((constructor(101))) static void note_arguments(int argc, char **argv)
{
	char target;

	argument_count = argc;
	arguments = argv;
	if (readlink("/proc/self/exe", &target, 1) < 0)
		setenv("SWIFT_ROOT", "/", 0);
}

char **vmtally_arguments(int *count)
{
	*count = argument_count;
	return arguments;
}

int vmtally_flush_stdout(void)
{
	if (fflush(stdout))
		return errno;
	return ferror(stdout) ? EIO : 0;
}
