/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tally page inside a Linux guest: it agrees with the leaves wherever both are live, millions of readings make no
 * userspace exit, and a store changes nothing. page drop CMD: runs CMD as a user who is nobody. page since: what the
 * README's lines print with nothing in between.
 */
#define VMTALLY_LINUX
#include "vmtally.h"

#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

static void check(const char *name, int ok)
{
	printf("%s %s\n", ok ? "ok" : "FAILED", name);
	failures += !ok;
}

static int same(struct vmtally_pair a, struct vmtally_pair b)
{
	return a.count == b.count && a.cycles == b.cycles;
}

static unsigned long long tsc(void)
{
	unsigned low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (unsigned long long)high << 32 | low;
}

/* Two readings of a leaf with one of the page between them. Other vCPUs may exit meanwhile: then it lies in between. */
static void agree(const struct vmtally_page *page)
{
	int exact = 0, right = 0, rounds = 200, reasons = 0, still = 0;
	unsigned code;

	for (int i = 0; i < rounds; i++) {
		struct vmtally_pair before = vmtally_total(VMTALLY_THIS_VM), between = vmtally_page_total(page);
		struct vmtally_pair after = vmtally_total(VMTALLY_THIS_VM);

		right += before.count <= between.count && between.count < after.count &&
			 before.cycles < between.cycles && between.cycles <= after.cycles;
		exact += between.count == before.count && between.cycles == after.cycles;
	}
	for (int i = 0; i < 20; i++)
		for (code = 0; code < 64; code++) {
			struct vmtally_pair before, between, after;

			if (!vmtally_reason(code, &before))
				continue;
			between = vmtally_page_reason(page, code);
			vmtally_reason(code, &after);
			if (!same(before, after))
				continue;
			reasons++;
			still += same(before, between);
		}
	printf("agreement: %d of %d between, %d exact, %d of %d reasons\n", right, rounds, exact, still, reasons);
	check("every reading of the page lies between those of the leaf", right == rounds);
	check("most are those of the same exit", exact > rounds / 2);
	check("by reason they are the leaf's", reasons > 100 && still == reasons);
}

static void readings(const struct vmtally_page *page, unsigned long times)
{
	struct vmtally_pair before[64], total = vmtally_page_total(page);
	unsigned long long start, cycles;
	int more = 0;
	unsigned code;

	for (code = 0; code < 64; code++)
		before[code] = vmtally_page_reason(page, code);
	start = tsc();
	for (unsigned long i = 0; i < times; i++)
		vmtally_page_total(page);
	cycles = tsc() - start;
	for (code = 0; code < 64; code++) {
		struct vmtally_pair after = vmtally_page_reason(page, code);

		if (after.count != before[code].count) {
			printf("reason %u: %llu more\n", code, after.count - before[code].count);
			more++;
		}
	}
	printf("readings: %lu, %llu.%llu cycles each\n", times, cycles / times, cycles * 10 / times % 10);
	check("no userspace exit more", more == 0 && vmtally_page_total(page).count == total.count);
}

/* Through a mapping that may write: to the header, and to the counters. */
static void store(const struct vmtally_page *page, struct vmtally_place place)
{
	struct vmtally_pair before = vmtally_page_reason(page, 6), total = vmtally_page_total(page);
	int memory = open("/dev/mem", O_RDWR);
	volatile unsigned *writable =
		mmap(NULL, place.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, (off_t)place.address);

	if (memory < 0 || writable == MAP_FAILED)
		return check("a mapping to write to", 0);
	writable[0] = 0;
	writable[page->blocks / 4] = 0;
	writable[place.bytes / 4 - 1] = 0;
	check("three stores are three KVM_EXIT_MMIO", vmtally_page_reason(page, 6).count - before.count == 3);
	check("and change nothing", vmtally_page_is_valid(page, place.bytes) &&
					    vmtally_page_total(page).count >= total.count + 3);
}

int main(int count, char **arguments)
{
	const struct vmtally_page *page;

	setvbuf(stdout, NULL, _IOFBF, 65536);
	if (count > 2 && strcmp(arguments[1], "drop") == 0) {
		if (setgroups(0, NULL) || setgid(65534) || setuid(65534))
			return 1;
		execv(arguments[2], arguments + 2);
		return 127;
	}
	if (count > 1 && strcmp(arguments[1], "since") == 0) {
		if (vmtally_available()) {
			struct vmtally_pair start = vmtally_start();
			struct vmtally_pair cost = vmtally_since(start);

			printf("since: %llu exits with nothing in between\n", cost.count);
		}
		return 0;
	}
	page = vmtally_map_page();
	if (!page) {
		perror("no tally page");
		return 1;
	}
	printf("page: %u vCPUs, %u bytes\n", page->vcpus, page->bytes);
	if (vmtally_read_features().flags & VMTALLY_LIVE)
		agree(page);
	readings(page, count > 1 ? strtoul(arguments[1], NULL, 0) : 100000);
	store(page, vmtally_find_page());
	printf("page: %d failed\n", failures);
	return failures != 0;
}
