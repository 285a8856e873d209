/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Virtual machines that run guest.c, and their statistics: what check.c and storm.c have in common.
 * Nothing but /dev/kvm is needed.
 */
#ifndef VM_H
#define VM_H

#define _GNU_SOURCE	/* CPU_SET */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest.h"

extern const char guest_image[], guest_image_end[];
asm(".section .rodata\n.globl guest_image, guest_image_end\n"
    "guest_image: .incbin \"guest.bin\"\nguest_image_end: .previous");

#define CAP_USER_SPACE_CPUID	0x76740001
#define CAP_EXIT_ACCOUNTING	0x76740002
#define EXIT_CPUID		0x76740001
#ifndef MAX_VCPUS
#define MAX_VCPUS		4
#endif

/* What the VMM asks KVM for: nothing, to count, that the guest may read counts, and cycles. */
enum access { NOTHING = 0, COUNTED = 1, COUNTS = 3, CYCLES = 7 };

enum { VMX = 1, SVM = 2 };
enum reason { IO, CPUID, HALT, WRMSR, VIOLATION, HYPERCALL, MMIO, INTERRUPT, NR_REASONS };
static const char *const reason_names[NR_REASONS] = {
	"I/O", "CPUID", "HLT", "MSR", "page", "hypercall", "MMIO", "interrupt" };
static const uint32_t reasons[3][NR_REASONS] = {
	[VMX] = { 30, 10, 12, 32, 48, 18, 49, 1 },
	[SVM] = { 0x7b, 0x72, 0x78, 0x7c, 0x400, 0x81, 0x400, 0x60 },
};

struct vcpu {
	struct vm *vm;
	int fd, stats, index;
	struct kvm_run *run;
	struct shared *shared;
	pthread_t thread;
	uint64_t userspace_cycles;	/* between two KVM_RUNs, by our own clock */
	uint64_t last_call, last_return;	/* of KVM_RUN */
	uint64_t userspace_exits;
	uint32_t data_offset;		/* of its statistics */
	int nr_values;
	bool accounted;
};

struct vm {
	int fd, nr_vcpus;
	void *memory;
	struct vcpu vcpus[MAX_VCPUS];
	uint32_t vendor;
	enum access access;
};

static int kvm, failures;

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

static void die(const char *what)
{
	printf("FAIL: %s: %s\n", what, strerror(errno));
	exit(1);
}

static bool expect(bool ok, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf(ok ? "ok    " : "FAIL  ");
	vprintf(format, args);
	printf("\n");
	va_end(args);
	failures += !ok;
	return ok;
}

/* ---- statistics, by name ---- */

struct stats {
	uint64_t value[1024];
};

/* Where the values are of a vCPU that is accounted; -1: not there. */
static struct layout {
	int total, exits, cycles, guest, blocked, preempted, userspace, reentered, no_entry, vocabulary;
	int l2, l2_cycles, reflected, reason_exits, reason_cycles, codes, nr_slots, kvm_exits, nr_values;
	uint32_t cycles_flags;
} layout;

static void read_layout(struct vcpu *v)
{
	struct { struct kvm_stats_desc d; char name[128]; } e;
	struct kvm_stats_header h;
	struct layout l;

	memset(&l, -1, sizeof(l));
	l.nr_slots = l.nr_values = 0;
	if (pread(v->stats, &h, sizeof(h), 0) != sizeof(h))
		die("header of the statistics");
	for (uint32_t i = 0; i < h.num_desc; i++) {
		size_t size = sizeof(e.d) + h.name_size;

		if (pread(v->stats, &e, size, h.desc_offset + i * size) != (ssize_t)size)
			die("descriptor of the statistics");
		struct { const char *name; int *at; } names[] = {
			{ "exits", &l.kvm_exits },
			{ "exit_acct_exits", &l.total },
			{ "exit_acct_cycles", &l.cycles },
			{ "exit_acct_guest_cycles", &l.guest },
			{ "exit_acct_blocked_cycles", &l.blocked },
			{ "exit_acct_preempted_cycles", &l.preempted },
			{ "exit_acct_userspace_cycles", &l.userspace },
			{ "exit_acct_reentered_exits", &l.reentered },
			{ "exit_acct_no_entry_exits", &l.no_entry },
			{ "exit_acct_l2_exits", &l.l2 },
			{ "exit_acct_l2_cycles", &l.l2_cycles },
			{ "exit_acct_l2_reflected_exits", &l.reflected },
			{ "exit_acct_vocabulary", &l.vocabulary },
			{ "exit_acct_codes", &l.codes },
			{ "exit_acct_reason_exits", &l.reason_exits },
			{ "exit_acct_reason_cycles", &l.reason_cycles },
		};
		for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
			if (!strcmp(e.d.name, names[n].name))
				*names[n].at = e.d.offset / 8;
		if (!strcmp(e.d.name, "exit_acct_reason_exits"))
			l.nr_slots = e.d.size;
		if (!strcmp(e.d.name, "exit_acct_cycles"))
			l.cycles_flags = e.d.flags;
		l.nr_values += e.d.size;
	}
	if ((size_t)l.nr_values > sizeof(struct stats) / 8) {
		printf("FAIL: %d values of statistics\n", l.nr_values);
		exit(1);
	}
	v->data_offset = h.data_offset;
	v->nr_values = l.nr_values;
	v->accounted = l.nr_slots;
	if (layout.nr_slots)
		return;
	if (l.nr_slots)
		layout = l;
	else
		layout.kvm_exits = l.kvm_exits;	/* the same place in both */
}

static struct stats stats_of(struct vcpu *v)
{
	struct stats s = { 0 };

	if (pread(v->stats, s.value, v->nr_values * 8, v->data_offset) != v->nr_values * 8)
		die("data of the statistics");
	return s;
}

static struct stats stats_of_vm(struct vm *vm)
{
	struct stats sum = { 0 };

	for (int i = 0; i < vm->nr_vcpus; i++) {
		struct stats s = stats_of(&vm->vcpus[i]);

		for (int n = 0; n < vm->vcpus[i].nr_values; n++)
			sum.value[n] += s.value[n];
	}
	return sum;
}

/* Cycles in which a task had no CPU; nobody else counts them. */
static inline uint64_t preempted_of(const struct stats *s)
{
	return layout.preempted >= 0 ? s->value[layout.preempted] : 0;
}

/* As the codes say that are among the statistics, else as they have always been. */
static int slot(struct vm *vm, uint32_t code)
{
	if (layout.codes < 0)
		return vm->vendor == SVM && code >= 0x400 ? 0xa7 + code - 0x400 : code;

	struct stats s = stats_of(&vm->vcpus[0]);

	for (int i = 0; i < layout.nr_slots; i++)
		if (s.value[layout.codes + i] == code)
			return i;
	printf("FAIL: no slot for exit code 0x%x\n", code);
	exit(1);
}

static uint64_t by_reason(struct vm *vm, const struct stats *s, enum reason r)
{
	return s->value[layout.reason_exits + slot(vm, reasons[vm->vendor][r])];
}

/* ---- virtual machines ---- */

static __thread struct {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[256];
} cpuid;

/* Changes what the vCPUs have for CPUID; called for each entry of ours that a check has put there. */
static const struct kvm_cpuid_entry2 *extra_cpuid;
static int nr_extra_cpuid;

static void create_vcpu(struct vm *vm, int i)
{
	struct vcpu *v = &vm->vcpus[i];
	struct kvm_mp_state mp = { KVM_MP_STATE_RUNNABLE };
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs;

	v->vm = vm;
	v->index = i;
	v->fd = ioctl(vm->fd, KVM_CREATE_VCPU, i);
	if (v->fd < 0)
		die("KVM_CREATE_VCPU");
	v->run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED)
		die("mmap of the vCPU");
	v->stats = ioctl(v->fd, KVM_GET_STATS_FD, NULL);
	if (v->stats < 0)
		die("KVM_GET_STATS_FD");
	read_layout(v);
	if (v->accounted)
		vm->vendor = stats_of(v).value[layout.vocabulary];
	if (vm->access && !v->accounted) {
		printf("FAIL: the statistics of exit accounting are not there: is kvm.ko the patched one?\n");
		exit(1);
	}
	v->shared = (void *)((char *)vm->memory + GUEST_SHARED + i * 4096);
	v->shared->vendor = vm->vendor;

	cpuid.head.nent = 256;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid))
		die("KVM_GET_SUPPORTED_CPUID");
	uint32_t n = 0;

	for (uint32_t e = 0; e < cpuid.head.nent; e++) {
		struct kvm_cpuid_entry2 c = cpuid.entries[e];

		if (c.function == 1) {
			c.ecx |= 1 << 24 | 1 << 21;		/* TSC deadline, x2APIC */
			c.ebx = (c.ebx & 0xffffff) | i << 24;
		}
		cpuid.entries[n++] = c;
	}
	for (int e = 0; e < nr_extra_cpuid; e++)
		cpuid.entries[n++] = extra_cpuid[e];
	cpuid.head.nent = n;
	if (ioctl(v->fd, KVM_SET_CPUID2, &cpuid))
		die("KVM_SET_CPUID2");

	if (ioctl(v->fd, KVM_SET_MP_STATE, &mp))
		die("KVM_SET_MP_STATE");
	if (ioctl(v->fd, KVM_GET_SREGS, &sregs))
		die("KVM_GET_SREGS");
	sregs.cr0 = 0x80000021;
	sregs.cr3 = GUEST_PML4;
	sregs.cr4 = 0x20;
	sregs.efer = 0x500;
	sregs.gdt = (struct kvm_dtable){ .base = GUEST_GDT, .limit = 0x17 };
	sregs.idt = (struct kvm_dtable){ .base = GUEST_IDT, .limit = 0xfff };
	sregs.cs = (struct kvm_segment){ .limit = ~0u, .selector = 0x08, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	sregs.ss = (struct kvm_segment){ .limit = ~0u, .selector = 0x10, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss;
	if (ioctl(v->fd, KVM_SET_SREGS, &sregs))
		die("KVM_SET_SREGS");
	regs.rip = GUEST_CODE;
	regs.rsp = GUEST_STACKS + i * 0x4000 - 8;
	regs.rdi = GUEST_SHARED + i * 4096;
	regs.rflags = 2;
	if (ioctl(v->fd, KVM_SET_REGS, &regs))
		die("KVM_SET_REGS");
}

static void gate(uint64_t *idt, int vector, uint64_t address)
{
	idt[vector * 2] = (address & 0xffff) | 0x08 << 16 | 0x8e00ull << 32 | (address >> 16 & 0xffff) << 48;
	idt[vector * 2 + 1] = address >> 32;
}

static struct vm *create_vm(int nr_vcpus, enum access access, bool to_userspace)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	struct kvm_userspace_memory_region region = { .memory_size = GUEST_MEMORY };

	vm->nr_vcpus = nr_vcpus;
	vm->access = access;
	vm->fd = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		die("KVM_CREATE_VM");
	/* Small pages, so that each first touch is an exit. */
	vm->memory = mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	madvise(vm->memory, GUEST_MEMORY, MADV_NOHUGEPAGE);
	region.userspace_addr = (uintptr_t)vm->memory;
	if (ioctl(vm->fd, KVM_SET_TSS_ADDR, 0xfffbd000) || ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) ||
	    ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region))
		die("setting up the VM");
	/* Where the kernel lacks it, something else may count. */
	if (access && ioctl(vm->fd, KVM_CHECK_EXTENSION, CAP_EXIT_ACCOUNTING) > 0) {
		struct kvm_enable_cap cap = { .cap = CAP_EXIT_ACCOUNTING, .args = { access } };

		if (ioctl(vm->fd, KVM_ENABLE_CAP, &cap))
			die("KVM_CAP_X86_EXIT_ACCOUNTING");
	}
	if (to_userspace) {
		struct kvm_enable_cap cap = { .cap = CAP_USER_SPACE_CPUID, .args = { 0x4fffff00, 0x100 } };

		if (ioctl(vm->fd, KVM_ENABLE_CAP, &cap))
			die("KVM_CAP_X86_USER_SPACE_CPUID");
	}

	uint64_t *gdt = (void *)((char *)vm->memory + GUEST_GDT);
	uint64_t *pml4 = (void *)((char *)vm->memory + GUEST_PML4);
	uint64_t *idt = (void *)((char *)vm->memory + GUEST_IDT);

	gdt[1] = 0x00af9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	pml4[0] = (GUEST_PML4 + 0x1000) | 3;
	for (uint64_t i = 0; i < 4; i++)
		pml4[512 + i] = (GUEST_PML4 + 0x2000 + i * 0x1000) | 3;
	for (uint64_t i = 0; i < 2048; i++)
		pml4[1024 + i] = i << 21 | 0x83;
	/* The guest's handlers are at the start of its image, 64 bytes each. */
	for (int i = 0; i < 256; i++)
		gate(idt, i, GUEST_CODE + (i == 0x40 ? GUEST_TIMER : i == 2 ? GUEST_NMI : GUEST_BAD));
	memcpy((char *)vm->memory + GUEST_CODE, guest_image, guest_image_end - guest_image);

	for (int i = 0; i < nr_vcpus; i++)
		create_vcpu(vm, i);
	return vm;
}

static void destroy_vm(struct vm *vm)
{
	for (int i = 0; i < vm->nr_vcpus; i++) {
		close(vm->vcpus[i].stats);
		munmap(vm->vcpus[i].run, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
		close(vm->vcpus[i].fd);
	}
	close(vm->fd);
	munmap(vm->memory, GUEST_MEMORY);
	free(vm);
}

/* KVM_EXIT_X86_CPUID's part of kvm_run; the header here need not have it. */
struct cpuid_exit {
	uint32_t function, index, eax, ebx, ecx, edx;
};

static uint64_t cpuid_exits;

/* Runs the vCPU until the guest has done what it was told. */
static void finish(struct vcpu *v)
{
	for (;;) {
		if (v->last_return)
			v->userspace_cycles += rdtsc() - v->last_return;
		v->last_call = rdtsc();
		int r = ioctl(v->fd, KVM_RUN, 0);

		v->last_return = rdtsc();
		if (r && errno != EINTR)
			die("KVM_RUN");
		if (r)
			continue;
		v->userspace_exits++;
		if (v->run->exit_reason == KVM_EXIT_IO) {
			if (v->run->io.port == PORT_DONE)
				return;
			if (v->run->io.port == PORT_DATA)
				continue;
		} else if (v->run->exit_reason == KVM_EXIT_MMIO) {
			continue;
		} else if (v->run->exit_reason == EXIT_CPUID) {
			struct cpuid_exit *c = (void *)&v->run->hw;

			cpuid_exits++;
			c->eax = c->function ^ c->index;
			c->edx = cpuid_exits;
			continue;
		}
		struct kvm_regs regs;

		ioctl(v->fd, KVM_GET_REGS, &regs);
		printf("FAIL: vCPU %d: exit reason %u, port 0x%x, suberror %u, RIP 0x%llx, command %u\n", v->index,
		       v->run->exit_reason, v->run->io.port, v->run->internal.suberror, regs.rip, v->shared->command);
		exit(1);
	}
}

static void *finish_thread(void *v)
{
	finish(v);
	return NULL;
}

static void command(struct vcpu *v, enum command c, enum reason r, uint64_t n)
{
	struct shared *s = v->shared;

	s->command = c;
	s->n = n;
	s->reason = v->vm->vendor ? reasons[v->vm->vendor][r] : 0;
	s->interrupt_reason = v->vm->vendor ? reasons[v->vm->vendor][INTERRUPT] : 0;
	finish(v);
}

static inline void start(struct vcpu *v, enum command c, enum reason r, uint64_t n)
{
	v->shared->command = c;
	v->shared->n = n;
	v->shared->reason = reasons[v->vm->vendor][r];
	v->shared->interrupt_reason = reasons[v->vm->vendor][INTERRUPT];
	if (pthread_create(&v->thread, NULL, finish_thread, v))
		die("pthread_create");
}

static inline void leaf(struct vcpu *v, uint32_t function, uint32_t index, uint32_t *r, enum command c)
{
	v->shared->arg[0] = function;
	v->shared->arg[1] = index;
	command(v, c, CPUID, 1);
	for (int i = 0; i < 4; i++)
		r[i] = v->shared->out[i];
}

#endif
