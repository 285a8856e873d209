/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `vmtally-benchmarks plain-start FILE`: what a start takes at the least, a VM in plain C whose vCPU has a thread. Before
 * Swift's runtime prepares itself, and out of the same static program: exec is the same.
 */
#define _GNU_SOURCE
#include "CBenchmarks.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static struct {
	uint8_t bytes[65536];
	ssize_t size;
} guest;

static void *run_vcpu(void *unused)
{
	uint8_t serial[4096];

	prctl(PR_SET_NAME, "vcpu0");
	long size = plain_loop_run(guest.bytes, (size_t)guest.size, 16 << 20, serial, sizeof(serial), PLAIN_LOOP_IOCTL, NULL);

	return size > 0 && write(STDOUT_FILENO, serial, (size_t)size) == size ? unused : NULL;
}

__attribute__((constructor(101))) static void plain_start(int argc, char *argv[])
{
	pthread_t thread;
	void *passed = NULL;

	if (argc != 3 || strcmp(argv[1], "plain-start"))
		return;
	int file = open(argv[2], O_RDONLY | O_CLOEXEC);
	guest.size = read(file, guest.bytes, sizeof(guest.bytes));
	if (guest.size > 0 && !pthread_create(&thread, NULL, run_vcpu, &guest))
		pthread_join(thread, &passed);
	_exit(passed ? 0 : 1);
}
