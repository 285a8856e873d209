/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The accounting of an exit in plain C: what ExitStats' TallyWriter does, for codes below 256, with plain words for its
 * atomics. What it takes on this machine at this hour is what ours is held to.
 */
#include "CBenchmarks.h"

#include <sys/mman.h>
#include <x86intrin.h>

enum { DIRECT_SLOTS = 256, BUCKETS = 64 + 35 * 32 };

struct counters {
	uint64_t count;
	uint64_t cycles;
	uint64_t inverted_shortest;
	uint64_t longest;
};

struct tally {
	struct counters total;
	uint64_t pending; /* 1 + index of the last exit's bucket; 0: the bucket has it */
	struct counters slots[DIRECT_SLOTS] __attribute__((aligned(64)));
	uint64_t buckets[1 + DIRECT_SLOTS * BUCKETS] __attribute__((aligned(4096)));
};

static inline size_t bucket_of(uint64_t cycles)
{
	uint64_t shift = 58 - (uint64_t)__builtin_clzll(cycles | 32);
	size_t index = (size_t)((shift << 5) + (cycles >> shift));

	return index < BUCKETS ? index : BUCKETS - 1;
}

/* As the writer's stores are: each is made, in this order. */
static inline void set(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void account(struct tally *tally, struct accounted_exit exit)
{
	struct counters *slot = &tally->slots[exit.code];
	uint64_t ended = tally->pending;

	set(&slot->count, slot->count + 1);
	set(&tally->total.count, tally->total.count + 1);
	set(&tally->pending, 0);
	set(&tally->buckets[ended], tally->buckets[ended] + 1);

	set(&slot->cycles, slot->cycles + exit.cycles);
	if (~(uint64_t)exit.cycles > slot->inverted_shortest)
		set(&slot->inverted_shortest, ~(uint64_t)exit.cycles);
	if (exit.cycles > slot->longest)
		set(&slot->longest, exit.cycles);
	set(&tally->total.cycles, tally->total.cycles + exit.cycles);
	set(&tally->pending, 1 + exit.code * BUCKETS + bucket_of(exit.cycles));
}

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

	for (size_t exit = 0; exit < count; exit++)
		account(tally, exits[(first + exit) & mask]);
	return __rdtsc() - start;
}

uint64_t plain_accounting_count(const void *tally)
{
	return ((const struct tally *)tally)->total.count;
}
