/* SPDX-License-Identifier: Apache-2.0 */
/* Where the program starts, and what a compiler may call in any freestanding program. */
#include "LinuxSystem.h"

int probe_main(long count, char **arguments, char **environment);

__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov (%rsp), %rdi\n"
	"	lea 8(%rsp), %rsi\n"
	"	lea 16(%rsp, %rdi, 8), %rdx\n"
	"	and $-16, %rsp\n"
	"	call probe_status\n"
	"	mov %eax, %edi\n"
	"	mov $231, %eax\n"
	"	syscall\n");

static int output_is_lost;

void system_note_lost_output(void)
{
	output_is_lost = 1;
}

/* A reading that nobody got is no success. */
__attribute__((used)) int probe_status(long count, char **arguments, char **environment)
{
	int status = probe_main(count, arguments, environment);

	return status == 0 && output_is_lost ? 1 : status;
}

static uint8_t text_buffer[SYSTEM_TEXT_SIZE];
static uint64_t snapshots[2][SYSTEM_SNAPSHOT_SIZE];

uint8_t *system_text_buffer(void)
{
	return text_buffer;
}

uint64_t *system_snapshot(int which)
{
	return snapshots[which & 1];
}

void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
	void *result = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
	return result;
}

void *memmove(void *to, const void *from, size_t count)
{
	uint8_t *t = to;
	const uint8_t *f = from;

	if (t <= f || t >= f + count)
		return memcpy(to, from, count);
	while (count--)
		t[count] = f[count];
	return to;
}

void *memset(void *to, int byte, size_t count)
{
	void *result = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(byte) : "memory");
	return result;
}

int memcmp(const void *left, const void *right, size_t count)
{
	const uint8_t *l = left, *r = right;

	for (; count--; l++, r++)
		if (*l != *r)
			return *l - *r;
	return 0;
}

/* The program allocates nothing after its start; what the language's start-up takes is never given back. */
int posix_memalign(void **pointer, size_t alignment, size_t size)
{
	static uint8_t heap[16384] __attribute__((aligned(64)));
	static size_t used;

	used = (used + alignment - 1) & ~(alignment - 1);
	if (size > sizeof(heap) || used > sizeof(heap) - size)
		return 12;
	*pointer = heap + used;
	used += size;
	return 0;
}

void free(void *pointer)
{
	(void)pointer;
}
