// SPDX-License-Identifier: GPL-2.0
/*
 * The guest that check.c runs: 64-bit mode, one address space, no operating system. It waits for a
 * command, makes exactly the exits that the command says, and reads its own tally around them.
 */
#include "guest.h"

asm(".section .start, \"ax\"\n"
    ".globl _start\n"
    "_start: jmp guest_main\n"
    /* The APIC timer's interrupt: counted, then end of interrupt by x2APIC. */
    ".balign 64\n"				/* GUEST_TIMER */
    "push %rax; push %rcx; push %rdx; incq interrupts\n"
    "mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr\n"
    "pop %rdx; pop %rcx; pop %rax; iretq\n"
    ".balign 64\n"				/* GUEST_NMI */
    "incq nmis; iretq\n"
    ".balign 64\n"				/* GUEST_BAD */
    "mov $0x502, %edx; out %al, %dx; 1: hlt; jmp 1b\n"
    /* The guest's guest. */
    ".globl l2\n"
    "l2: xor %eax, %eax; xor %ecx, %ecx; cpuid\n"
    "mov $0x500, %edx; out %al, %dx; jmp l2\n"
    ".previous");

extern const char l2[];
static volatile uint64_t interrupts, nmis;

static inline void cpuid(uint32_t leaf, uint32_t index, uint32_t *r)
{
	asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
		     : "a"(leaf), "c"(index));
}

static inline void emulated_cpuid(uint32_t leaf, uint32_t index, uint32_t *r)
{
	asm volatile("ud2; .byte 'k', 'v', 'm'; cpuid"
		     : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(index));
}

static inline void out(uint16_t port, uint8_t value)
{
	asm volatile("outb %0, %1" : : "a"(value), "d"(port) : "memory");
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (uint64_t)hi << 32 | lo;
}

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

static inline void hypercall(uint32_t vendor)
{
	uint64_t rax = 0xffff;

	/* KVM would otherwise patch the instruction, which is an exit of another kind. */
	if (vendor == 1)
		asm volatile("vmcall" : "+a"(rax) : : "memory", "rbx", "rcx", "rdx", "rsi");
	else
		asm volatile("vmmcall" : "+a"(rax) : : "memory", "rbx", "rcx", "rdx", "rsi");
}

/* Scope 0: of the VM, 1: of this vCPU. What ECX has is to mean nothing: it is the time. */
static uint64_t total(uint32_t scope)
{
	uint32_t r[4];

	cpuid(scope ? 0x4fffff02 : 0x4fffffff, rdtsc(), r);
	return (uint64_t)r[3] << 32 | r[0];
}

static uint64_t count(uint32_t leaf, uint32_t reason)
{
	uint32_t r[4];

	cpuid(leaf, reason, r);
	return (uint64_t)r[3] << 32 | r[0];
}

static void x2apic(void)
{
	wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
	wrmsr(0x80f, 0x1ff);			/* spurious vector, APIC on */
	wrmsr(0x83e, 0xb);			/* timer: divide by 1 */
}

/*
 * One HLT. The timer is periodic: where the interrupt comes between STI and HLT, as under QEMU (see
 * docs/lab.md), the next one ends the wait.
 */
static void halt_once(uint32_t ticks)
{
	wrmsr(0x838, ticks);
	asm volatile("sti; hlt; cli" : : : "memory");
	wrmsr(0x838, 0);
}

struct segment {
	uint16_t selector, attributes;
	uint32_t limit;
	uint64_t base;
};

/* L2 is us in a loop: the same address space, no nested paging. Only CPUID and VMRUN are intercepted. */
static void nested(struct shared *s)
{
	uint8_t *vmcb = (uint8_t *)GUEST_VMCB, *save = vmcb + 0x400;
	const struct segment code = { 0x08, 0xa9b, ~0u, 0 }, data = { 0x10, 0xc93, ~0u, 0 };
	uint64_t cr0, cr3, cr4;
	uint64_t *rip = (uint64_t *)(save + 0x178);
	struct { uint16_t limit; uint64_t base; } __attribute__((packed)) gdt, idt;

	for (int i = 0; i < 4096; i++)
		vmcb[i] = 0;
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1 << 12);		/* EFER.SVME */
	wrmsr(0xc0010117, GUEST_VMCB + 4096);			/* VM_HSAVE_PA */
	asm volatile("mov %%cr0, %0; mov %%cr3, %1; mov %%cr4, %2" : "=r"(cr0), "=r"(cr3), "=r"(cr4));
	asm volatile("sgdt %0; sidt %1" : "=m"(gdt), "=m"(idt));

	*(uint32_t *)(vmcb + 0x00c) = 1u << 18;			/* CPUID */
	*(uint32_t *)(vmcb + 0x010) = 1;			/* VMRUN */
	*(uint32_t *)(vmcb + 0x058) = 1;			/* ASID */
	for (int i = 0; i < 6; i++)
		((struct segment *)save)[i] = i == 1 ? code : data;
	*(struct segment *)(save + 0x60) = (struct segment){ 0, 0, gdt.limit, gdt.base };
	*(struct segment *)(save + 0x80) = (struct segment){ 0, 0, idt.limit, idt.base };
	*(uint64_t *)(save + 0x0d0) = rdmsr(0xc0000080);
	*(uint64_t *)(save + 0x148) = cr4;
	*(uint64_t *)(save + 0x150) = cr3;
	*(uint64_t *)(save + 0x158) = cr0;
	*(uint64_t *)(save + 0x160) = 0x400;
	*(uint64_t *)(save + 0x168) = 0xffff0ff0;
	*(uint64_t *)(save + 0x170) = 2;
	*(uint64_t *)(save + 0x1d8) = GUEST_STACKS - 0x2000;
	*(uint64_t *)(save + 0x268) = 0x0007040600070406;
	*rip = (uint64_t)l2;

	s->out[0] = s->out[1] = 0;
	while (s->out[0] < s->n && s->out[1] < 1000) {
		asm volatile("push %%rbp; push %%rbx; vmrun %%rax; pop %%rbx; pop %%rbp" : : "a"(vmcb)
			     : "memory", "cc", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
		if (*(uint64_t *)(vmcb + 0x070) == 0x72) {
			s->out[0]++;
			*rip += 2;
		} else {
			s->out[2] = *(uint64_t *)(vmcb + 0x070);
			s->out[1]++;
		}
	}
	asm volatile("stgi");
}

/* A bit of everything. A long step of the TSC is time that this code did not run. */
static void mix(struct shared *s)
{
	const uint64_t start = rdtsc(), step = s->arg[0];
	uint64_t now = start, last = start, guest = 0, turns = 0;
	uint32_t r[4], i;

	while (now - start < s->n) {
		for (i = 0; i < 3000; i++) {
			now = rdtsc();
			if (now - last < step)
				guest += now - last;
			last = now;
		}
		cpuid(0, 0, r);
		switch (turns++ % 8) {
		case 0:
			out(PORT_DATA, 0);
			break;
		case 1:
			halt_once(s->arg[1]);
			break;
		case 2:
			*(volatile uint32_t *)GUEST_MMIO = 0;
			break;
		case 3:
			wrmsr(0x3b, 0);
			break;
		}
	}
	s->out[0] = guest;
	s->out[1] = now - start;
}

static void run(struct shared *s)
{
	uint32_t r[4], q[4];
	uint64_t i, a, b;

	switch (s->command) {
	case CMD_OUT:
		for (i = 0; i < s->n; i++)
			out(PORT_DATA, i);
		break;
	case CMD_CPUID:
		for (i = 0; i < s->n; i++)
			cpuid(0, 0, r);
		break;
	case CMD_HALT:
		interrupts = 0;
		for (i = 0; i < s->n; i++)
			halt_once(s->arg[0]);
		s->out[0] = interrupts;
		break;
	case CMD_WRMSR:
		for (i = 0; i < s->n; i++)
			wrmsr(0x3b, 0);
		break;
	case CMD_TOUCH:
		for (i = 0; i < s->n; i++)
			*(volatile uint64_t *)(GUEST_FRESH + i * 4096) = i;
		break;
	case CMD_HYPERCALL:
		for (i = 0; i < s->n; i++)
			hypercall(s->vendor);
		break;
	case CMD_MMIO:
		for (i = 0; i < s->n; i++)
			*(volatile uint32_t *)GUEST_MMIO = i;
		break;
	case CMD_DEADLINE:
		for (i = 0; i < s->n; i++)
			wrmsr(0x6e0, rdtsc() + (1ull << 36) + i);
		break;
	case CMD_LEAF:
	case CMD_EMULATED_LEAF:
		if (s->command == CMD_LEAF)
			cpuid(s->arg[0], s->arg[1], r);
		else
			emulated_cpuid(s->arg[0], s->arg[1], r);
		for (i = 0; i < 4; i++)
			s->out[i] = r[i];
		break;
	case CMD_TOTAL:
		/* With no interrupt in between, so that the host can add up what follows. */
		do {
			a = count(0x4ffffffe, s->interrupt_reason);
			s->out[0] = total(s->arg[0]);
			b = count(0x4ffffffe, s->interrupt_reason);
		} while (a != b);
		s->out[1] = b;
		break;
	case CMD_READ_TWICE:
		s->out[0] = 0;
		for (i = 0; i < s->n; i++) {
			cpuid(0x4fffffff, 0, r);
			cpuid(0x4fffffff, 0, q);
			s->out[0] += r[0] == q[0] || (r[1] == q[1] && r[2] == q[2]);
		}
		break;
	case CMD_MONOTONIC:
		s->out[0] = 0;
		a = b = 0;
		for (i = 0; i < s->n; i++) {
			uint64_t exits, cycles;

			cpuid(s->arg[0] ? 0x4fffff02 : 0x4fffffff, i, r);
			exits = (uint64_t)r[3] << 32 | r[0];
			cycles = (uint64_t)r[1] << 32 | r[2];
			s->out[0] += exits <= a || cycles < b;
			a = exits;
			b = cycles;
		}
		break;
	case CMD_NESTED:
		nested(s);
		break;
	case CMD_TICKS:
		s->out[0] = s->out[1] = ~0ull;
		for (i = 0; i < s->n; i++) {
			int k;

			a = rdtsc();
			for (k = 0; k < 50; k++)
				cpuid(0, 0, r);
			b = rdtsc();
			s->out[0] = b - a < s->out[0] ? b - a : s->out[0];
			a = rdtsc();
			for (k = 0; k < 50; k++)
				wrmsr(0x3b, 0);
			b = rdtsc();
			s->out[1] = b - a < s->out[1] ? b - a : s->out[1];
		}
		break;
	case CMD_MIX:
		mix(s);
		break;
	case CMD_LEAF_TICKS:
		s->out[0] = ~0ull;
		for (i = 0; i < s->n; i++) {
			a = rdtsc();
			for (int k = 0; k < 64; k++)
				cpuid(s->arg[0], s->arg[1], r);
			b = rdtsc();
			s->out[0] = b - a < s->out[0] ? b - a : s->out[0];
		}
		break;
	case CMD_STORM:
		s->out[0] = s->out[1] = 0;
		while (!s->stop) {
			cpuid(0, 0, r);
			s->out[0]++;
			out(PORT_DATA, 0);
			s->out[1]++;
		}
		break;
	case CMD_HALT_NMI:
		s->out[0] = s->out[1] = 0;
		nmis = 0;
		while (!s->stop) {
			asm volatile("hlt" : : : "memory");
			s->out[0]++;
			cpuid(0, 0, r);
			s->out[1]++;
		}
		s->out[2] = nmis;
		break;
	case CMD_SPIN:
		/* With interrupts on: Bochs takes no host interrupt out of a guest that was entered with them off. */
		asm volatile("sti");
		while (!s->stop)
			;
		asm volatile("cli");
		break;
	case CMD_READ:
		s->out[0] = s->out[1] = a = b = 0;
		while (!s->stop) {
			uint64_t exits, cycles;

			cpuid(0x4fffffff, 0, r);
			exits = (uint64_t)r[3] << 32 | r[0];
			cycles = (uint64_t)r[1] << 32 | r[2];
			s->out[0] += exits <= a || cycles < b;
			s->out[1]++;
			a = exits;
			b = cycles;
		}
		s->out[2] = a;
		break;
	}
}

void __attribute__((used)) guest_main(struct shared *s)
{
	uint64_t c, p;

	x2apic();
	*(volatile uint32_t *)GUEST_MMIO = 0;	/* from now on, each access is one exit of one kind */
	for (;;) {
		if (s->command == CMD_HALT || s->command == CMD_MIX)
			wrmsr(0x832, 0x20040);		/* periodic, vector 0x40 */
		if (s->command == CMD_DEADLINE)
			wrmsr(0x832, 0x40040);		/* TSC deadline */

		if (s->command < CMD_LEAF) {
			/* The pair is read inside, so that it does not see the other's CPUID. */
			c = count(0x4ffffffe, s->reason);
			p = count(0x4ffffffd, s->reason);
			run(s);
			s->by_pair = count(0x4ffffffd, s->reason) - p;
			s->by_count = count(0x4ffffffe, s->reason) - c;
		} else {
			run(s);
		}
		if (s->command == CMD_HALT || s->command == CMD_MIX || s->command == CMD_DEADLINE) {
			wrmsr(0x838, 0);
			wrmsr(0x832, 0x10000);		/* off */
		}
		out(PORT_DONE, 0);
	}
}
