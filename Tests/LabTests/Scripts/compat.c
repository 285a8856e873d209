/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 32-bit program without a C library: two live readings, and a vendor's name of 12 printing characters. Exit status 0
 * when all is right.
 */
typedef unsigned int u32;

static void cpuid(u32 leaf, u32 *r)
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(0));
}

void _start(void)
{
	u32 one[4], two[4], vendor[4];
	u32 right = 1;

	cpuid(0, vendor);
	cpuid(0x4FFFFFFF, one);
	cpuid(0x4FFFFFFF, two);
	for (int n = 1; n < 4; n++)
		for (int shift = 0; shift < 32; shift += 8)
			right &= (vendor[n] >> shift & 0xFF) >= 0x20 && (vendor[n] >> shift & 0xFF) < 0x7F;
	right &= two[0] > one[0];
	__asm__ volatile("int $0x80" : : "a"(1), "b"(!right));
	__builtin_unreachable();
}
