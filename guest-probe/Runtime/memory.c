/* SPDX-License-Identifier: Apache-2.0 */
/* The four functions that a compiler may call in any freestanding program (C11 4, paragraph 6). Short, not fast. */
#include <stddef.h>

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
