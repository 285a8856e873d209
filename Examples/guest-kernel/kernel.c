// SPDX-License-Identifier: Apache-2.0
/*
 * A kernel of one page that prints its own tally: how often this machine left the guest, for what, and how long that took.
 * How it is entered is in docs/guests.md; vmtally.h says what CPUID answers.
 */
#include <stdint.h>

#include "vmtally.h"

enum { UART = 0x3F8, POST = 0x80, UNUSED_MEMORY = 0xD0000000 };
/* KVM_EXIT_* of linux/kvm.h: vocabulary 0. */
enum { EXIT_IO = 2, EXIT_MMIO = 6 };

static void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void print(const char *text)
{
	while (*text)
		out8(UART, *text++);
}

static void print_number(uint64_t value)
{
	char digits[21];
	int place = 20;

	digits[20] = 0;
	do
		digits[--place] = '0' + value % 10;
	while (value /= 10);
	print(digits + place);
}

/*
 * The kernel's only CPUID, and its address in .vmtally.sites: in ring 0 a VMM answers live where it knows of the
 * instruction, and has three breakpoints for that.
 */
static __attribute__((noinline)) struct vmtally_registers ask(uint32_t leaf, uint32_t subleaf)
{
	struct vmtally_registers r;

	__asm__ volatile("1: cpuid\n\t"
			 ".pushsection .vmtally.sites, \"\", @progbits\n\t"
			 ".quad 1b\n\t"
			 ".popsection"
			 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
			 : "0"(leaf), "2"(subleaf)
			 : "memory");
	return r;
}

static void report(const char *what, uint32_t leaf, uint32_t reason, struct vmtally_pair before)
{
	struct vmtally_pair now = vmtally_decode_pair(ask(leaf, reason));

	print(what);
	print_number(now.count - before.count);
	print(" exits, ");
	print_number(now.cycles - before.cycles);
	print(" cycles\n");
}

void _start(void)
{
	volatile uint32_t *unused = (volatile uint32_t *)UNUSED_MEMORY;
	struct vmtally_pair io, mmio;

	if (!vmtally_is_signature(ask(VMTALLY_LEAF_SIGNATURE, 0))) {
		print("this VMM keeps no tally\n");
		goto end;
	}
	if (!(vmtally_decode_features(ask(VMTALLY_LEAF_FEATURES, 0)).flags & VMTALLY_LIVE))
		print("the tally is a snapshot from before the start\n");

	io = vmtally_decode_pair(ask(VMTALLY_LEAF_REASON, EXIT_IO));
	mmio = vmtally_decode_pair(ask(VMTALLY_LEAF_REASON, EXIT_MMIO));
	for (int i = 0; i < 1000; i++)
		out8(POST, i);
	for (int i = 0; i < 10; i++)
		(void)*unused;
	report("1,000 OUTs:       ", VMTALLY_LEAF_REASON, EXIT_IO, io);
	report("10 loads of MMIO: ", VMTALLY_LEAF_REASON, EXIT_MMIO, mmio);
	report("since the start:  ", VMTALLY_LEAF_TOTAL, 0, (struct vmtally_pair){ 0, 0 });
end:
	for (;;)
		__asm__ volatile("hlt");
}
