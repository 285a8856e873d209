/* SPDX-License-Identifier: Apache-2.0 */
#include "GuestCPU.h"

static struct guest_mailbox mailboxes[GUEST_MAX_VCPUS];
static unsigned char text_buffer[GUEST_TEXT_BUFFER_SIZE];
static unsigned char scratch[GUEST_SCRATCH_SIZE] __attribute__((aligned(64)));

/* After its mark, for whoever has the image: how often guest-probe/PageReadings reads, by ring 3 and otherwise. */
static const volatile struct {
	char mark[16] __attribute__((nonstring));
	struct guest_pair plan;
} readings __attribute__((section(".data.readings"))) = { "PageReadingsPlan", { 100000, 100 } };

struct guest_pair guest_readings_plan(void)
{
	return (struct guest_pair){ readings.plan.first, readings.plan.second };
}

unsigned char *guest_text_buffer(void)
{
	return text_buffer;
}

void *guest_scratch(void)
{
	return scratch;
}

struct guest_mailbox *guest_mailbox(uint32_t vcpu)
{
	return &mailboxes[vcpu % GUEST_MAX_VCPUS];
}

/* The four functions that a compiler may call in any freestanding program. Short, not fast. */
void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
	unsigned char *t = to;
	const unsigned char *f = from;

	while (count--)
		*t++ = *f++;
	return to;
}

void *memmove(void *to, const void *from, size_t count)
{
	unsigned char *t = to;
	const unsigned char *f = from;

	if (t < f)
		return memcpy(to, from, count);
	while (count--)
		t[count] = f[count];
	return to;
}

void *memset(void *to, int byte, size_t count)
{
	unsigned char *t = to;

	while (count--)
		*t++ = (unsigned char)byte;
	return to;
}

int memcmp(const void *left, const void *right, size_t count)
{
	const unsigned char *l = left, *r = right;

	for (; count--; l++, r++)
		if (*l != *r)
			return *l - *r;
	return 0;
}
