/* SPDX-License-Identifier: GPL-2.0 */
/* What check.c and the guest that it runs agree on. */
#ifndef GUEST_H
#define GUEST_H

#include <stdint.h>

#define GUEST_MEMORY	(192ul << 20)
#define GUEST_GDT	0x1000ul
#define GUEST_PML4	0x2000ul	/* then the PDPT and four PDs */
#define GUEST_IDT	0x9000ul
#define GUEST_SHARED	0x10000ul	/* a page for each vCPU */
#define GUEST_VMCB	0x20000ul	/* for the guest's own guest; then the save area of VMRUN */
#define GUEST_STACKS	0x80000ul	/* 16 KiB for each vCPU, this is the first one's top */
#define GUEST_CODE	0x100000ul
#define GUEST_TIMER	64		/* handlers, from the start of the code */
#define GUEST_NMI	128
#define GUEST_BAD	192
#define GUEST_FRESH	(64ul << 20)	/* pages that nobody has touched */
#define GUEST_MMIO	0xd0000000ul	/* no memory here */

#define PORT_DATA	0x500		/* swallows anything */
#define PORT_DONE	0x501		/* end of a command */
#define PORT_BAD	0x502		/* an exception that nobody expects */

enum command {
	CMD_NOTHING,
	CMD_OUT,		/* n OUTs */
	CMD_CPUID,		/* n CPUIDs of leaf 0 */
	CMD_HALT,		/* n HLTs, each ended by the APIC timer */
	CMD_WRMSR,		/* n writes of an MSR that KVM emulates */
	CMD_TOUCH,		/* n pages for the first time */
	CMD_HYPERCALL,		/* n hypercalls that KVM does not know */
	CMD_MMIO,		/* n writes to an address that is not memory */
	CMD_DEADLINE,		/* n writes of a TSC deadline that is far away */
	CMD_LEAF,		/* CPUID of leaf arg[0], arg[1]: out[0..3] */
	CMD_EMULATED_LEAF,	/* the same by KVM's instruction emulator */
	CMD_TOTAL,		/* out[0] = total exits, out[1] = those by interrupts */
	CMD_READ_TWICE,		/* n pairs of readings, out[0] = those that did not differ */
	CMD_MONOTONIC,		/* n readings of scope arg[0], out[0] = those that went back */
	CMD_NESTED,		/* an L2 guest: n CPUIDs that we intercept, an OUT that we do not between two of
				   them; out[0] = CPUIDs seen, out[1] = other exits seen (SVM) */
	CMD_TICKS,		/* n batches of 50 CPUIDs and 50 MSR writes, out[] = ticks of the fastest batch */
	CMD_MIX,		/* everything for n TSC ticks, out[0] = ticks in the guest */
	CMD_LEAF_TICKS,		/* n batches of 64 CPUIDs of leaf arg[0], arg[1]: out[0] = ticks of the fastest */

	/* Until `stop` is set: */
	CMD_STORM,		/* CPUID of leaf 0 and OUT: out[0], out[1] = how many */
	CMD_HALT_NMI,		/* HLT ended by NMI, and CPUID: out[0], out[1] = how many, out[2] = NMIs */
	CMD_SPIN,		/* no exits of its own */
	CMD_READ,		/* the VM's total: out[0] = how often it went back, out[1] = readings, out[2] = the last */
};

struct shared {
	uint32_t command, vendor;
	uint64_t n, arg[2];
	uint32_t reason, interrupt_reason;
	uint64_t by_count, by_pair;	/* exits for `reason` during the command, by either leaf */
	uint64_t out[8];
	volatile uint32_t stop;
};

#endif
