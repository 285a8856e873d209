/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The accounting of an exit in plain C: what ExitStats' TallyWriter does, for codes below 256, with plain words for its
 * atomics. What it takes on this machine at this hour is what ours is held to.
 */
#ifndef PLAIN_ACCOUNTING_H
#define PLAIN_ACCOUNTING_H

#include <stddef.h>
#include <stdint.h>

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

/* Before the exit is handled. */
static inline struct counters *account_begin(struct tally *tally, uint32_t code)
{
	struct counters *slot = &tally->slots[code];
	uint64_t ended = tally->pending;

	set(&slot->count, slot->count + 1);
	set(&tally->total.count, tally->total.count + 1);
	set(&tally->pending, 0);
	set(&tally->buckets[ended], tally->buckets[ended] + 1);
	return slot;
}

/* And after it. */
static inline void account_end(struct tally *tally, struct counters *slot, uint64_t cycles)
{
	set(&slot->cycles, slot->cycles + cycles);
	if (~cycles > slot->inverted_shortest)
		set(&slot->inverted_shortest, ~cycles);
	if (cycles > slot->longest)
		set(&slot->longest, cycles);
	set(&tally->total.cycles, tally->total.cycles + cycles);
	set(&tally->pending, 1 + (size_t)(slot - tally->slots) * BUCKETS + bucket_of(cycles));
}

#endif
