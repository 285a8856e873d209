// SPDX-License-Identifier: Apache-2.0
/*
 * What a few system calls cost this virtual machine in exits. For a Linux guest: build it statically, put it into the
 * guest and run it there.
 */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "vmtally.h"

static void nothing(void) {}

static void get_parent(void)
{
	getppid();
}

static void sleep_a_millisecond(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static void write_a_line(void)
{
	if (write(STDOUT_FILENO, "one line to wherever this prints\n", 33) < 0)
		perror("write");
}

static void measure(const char *name, void (*work)(void))
{
	struct vmtally_pair before = vmtally_total(VMTALLY_THIS_VM), after;

	work();
	after = vmtally_total(VMTALLY_THIS_VM);
	printf("%-24s %8llu exits %12llu cycles\n", name, after.count - before.count, after.cycles - before.cycles);
	fflush(stdout);
}

int main(void)
{
	struct vmtally_features features;

	if (!vmtally_available()) {
		fprintf(stderr, "no tally here: this is no guest of vmtally's, or CPUID in programs is not answered\n");
		return 1;
	}
	features = vmtally_read_features();
	if (!(features.flags & VMTALLY_LIVE)) {
		fprintf(stderr, "the tally is a snapshot from before the start: run the guest with --live-cpuid fault\n");
		return 1;
	}
	/* The reading itself: what of the others is not theirs. */
	measure("nothing", nothing);
	measure("getppid", get_parent);
	measure("nanosleep, 1 ms", sleep_a_millisecond);
	measure("write, 33 bytes", write_a_line);
	return 0;
}
