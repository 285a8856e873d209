/* SPDX-License-Identifier: Apache-2.0 */
/* Exits that are only accounted, and the memory for that. */
#include "CBenchmarks.h"
#include "plain-accounting.h"

#include <sys/mman.h>
#include <x86intrin.h>

void *plain_accounting_new(void)
{
	void *tally = mmap(NULL, sizeof(struct tally), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (tally == MAP_FAILED)
		return NULL;
	/* As ours has it. */
	madvise(tally, sizeof(struct tally), MADV_NOHUGEPAGE);
	return tally;
}

void plain_accounting_free(void *tally)
{
	munmap(tally, sizeof(struct tally));
}

uint64_t plain_accounting_run(void *tally, const struct accounted_exit *exits, size_t mask, size_t first, size_t count)
{
	uint64_t start = __rdtsc();

	for (size_t exit = 0; exit < count; exit++) {
		struct accounted_exit made = exits[(first + exit) & mask];

		account_end(tally, account_begin(tally, made.code), made.cycles);
	}
	return __rdtsc() - start;
}

uint64_t plain_accounting_count(const void *tally)
{
	return ((const struct tally *)tally)->total.count;
}
