// SPDX-License-Identifier: GPL-2.0
/*
 * Checks exit accounting from both sides: a guest (guest.c) makes an exact number of exits of one
 * kind and reads its tally with CPUID, and the host compares with what it asked for and with KVM's
 * statistics. Nothing but /dev/kvm is needed, so this runs as init of an emulated host.
 *
 * usage: check counts|time|deadline|capability|off|cost|wrap|nested|emulated|where|shadow [NUMBER]
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
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
#define EXIT_CPUID		0x76740001
#ifndef MAX_VCPUS
#define MAX_VCPUS	4
#endif

#define NR_SLOTS		174

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
	uint64_t last_return;
	uint64_t userspace_exits;
};

struct vm {
	int fd, nr_vcpus;
	void *memory;
	struct vcpu vcpus[MAX_VCPUS];
	uint32_t vendor;
};

static int kvm, failures;
static bool unpatched_is_fine;

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

static struct layout {
	struct kvm_stats_header header;
	int total, exits, cycles, guest, blocked, userspace, reentered, no_entry, vocabulary;
	int l2, l2_cycles, reflected, reason_exits, reason_cycles, nr_slots, kvm_exits, nr_values;
	uint32_t cycles_flags;
} layout;

static void read_layout(int fd)
{
	struct { struct kvm_stats_desc d; char name[128]; } e;
	struct kvm_stats_header *h = &layout.header;

	if (pread(fd, h, sizeof(*h), 0) != sizeof(*h))
		die("header of the statistics");
	layout.reason_exits = layout.kvm_exits = -1;
	for (uint32_t i = 0; i < h->num_desc; i++) {
		size_t size = sizeof(e.d) + h->name_size;

		if (pread(fd, &e, size, h->desc_offset + i * size) != (ssize_t)size)
			die("descriptor of the statistics");
		struct { const char *name; int *at; } names[] = {
			{ "exits", &layout.kvm_exits },
			{ "exit_acct_exits", &layout.total },
			{ "exit_acct_cycles", &layout.cycles },
			{ "exit_acct_guest_cycles", &layout.guest },
			{ "exit_acct_blocked_cycles", &layout.blocked },
			{ "exit_acct_userspace_cycles", &layout.userspace },
			{ "exit_acct_reentered_exits", &layout.reentered },
			{ "exit_acct_no_entry_exits", &layout.no_entry },
			{ "exit_acct_l2_exits", &layout.l2 },
			{ "exit_acct_l2_cycles", &layout.l2_cycles },
			{ "exit_acct_l2_reflected_exits", &layout.reflected },
			{ "exit_acct_vocabulary", &layout.vocabulary },
			{ "exit_acct_reason_exits", &layout.reason_exits },
			{ "exit_acct_reason_cycles", &layout.reason_cycles },
		};
		for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
			if (!strcmp(e.d.name, names[n].name))
				*names[n].at = e.d.offset / 8;
		if (!strcmp(e.d.name, "exit_acct_reason_exits"))
			layout.nr_slots = e.d.size;
		if (!strcmp(e.d.name, "exit_acct_cycles"))
			layout.cycles_flags = e.d.flags;
		layout.nr_values += e.d.size;
	}
	if (unpatched_is_fine && layout.reason_exits < 0)
		return;
	if (layout.reason_exits < 0 || layout.nr_slots != NR_SLOTS ||
	    (size_t)layout.nr_values > sizeof(struct stats) / 8) {
		printf("FAIL: the statistics of exit accounting are not there: is kvm.ko the patched one?\n");
		exit(1);
	}
}

static struct stats stats_of(struct vcpu *v)
{
	struct stats s;

	if (pread(v->stats, s.value, layout.nr_values * 8, layout.header.data_offset) != layout.nr_values * 8)
		die("data of the statistics");
	return s;
}

static struct stats stats_of_vm(struct vm *vm)
{
	struct stats sum = { 0 };

	for (int i = 0; i < vm->nr_vcpus; i++) {
		struct stats s = stats_of(&vm->vcpus[i]);

		for (int n = 0; n < layout.nr_values; n++)
			sum.value[n] += s.value[n];
	}
	return sum;
}

static int slot(uint32_t vendor, uint32_t code)
{
	return vendor == SVM && code >= 0x400 ? 0xa7 + code - 0x400 : code;
}

static uint64_t by_reason(struct vm *vm, const struct stats *s, enum reason r)
{
	return s->value[layout.reason_exits + slot(vm->vendor, reasons[vm->vendor][r])];
}

/* ---- virtual machines ---- */

static struct {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[256];
} cpuid;

static void create_vcpu(struct vm *vm, int i, bool leaves)
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
	if (!layout.nr_values)
		read_layout(v->stats);
	if (layout.nr_slots)
		vm->vendor = stats_of(v).value[layout.vocabulary];
	v->shared = (void *)((char *)vm->memory + GUEST_SHARED + i * 4096);
	v->shared->vendor = vm->vendor;

	cpuid.head.nent = 256;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid))
		die("KVM_GET_SUPPORTED_CPUID");
	uint32_t n = 0;

	for (uint32_t e = 0; e < cpuid.head.nent; e++) {
		struct kvm_cpuid_entry2 c = cpuid.entries[e];

		if (c.function >> 8 == 0x4fffff && !leaves)
			continue;
		if (c.function == 1) {
			c.ecx |= 1 << 24 | 1 << 21;		/* TSC deadline, x2APIC */
			c.ebx = (c.ebx & 0xffffff) | i << 24;
		}
		cpuid.entries[n++] = c;
	}
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

static struct vm *create_vm(int nr_vcpus, bool leaves, bool to_userspace)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	struct kvm_userspace_memory_region region = { .memory_size = GUEST_MEMORY };

	vm->nr_vcpus = nr_vcpus;
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
	/* Where the two handlers are: right behind the jump at the start of the image. */
	const unsigned char *image = (const unsigned char *)guest_image;
	uint64_t timer = 5, bad = timer;

	while (memcmp(image + bad, "\xba\x02\x05\x00\x00", 5))
		bad++;
	for (int i = 0; i < 256; i++)
		gate(idt, i, GUEST_CODE + (i == 0x40 ? timer : bad));
	memcpy((char *)vm->memory + GUEST_CODE, guest_image, guest_image_end - guest_image);

	for (int i = 0; i < nr_vcpus; i++)
		create_vcpu(vm, i, leaves);
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

static void start(struct vcpu *v, enum command c, enum reason r, uint64_t n)
{
	v->shared->command = c;
	v->shared->n = n;
	v->shared->reason = reasons[v->vm->vendor][r];
	v->shared->interrupt_reason = reasons[v->vm->vendor][INTERRUPT];
	if (pthread_create(&v->thread, NULL, finish_thread, v))
		die("pthread_create");
}

static void leaf(struct vcpu *v, uint32_t function, uint32_t index, uint32_t *r, enum command c)
{
	v->shared->arg[0] = function;
	v->shared->arg[1] = index;
	command(v, c, CPUID, 1);
	for (int i = 0; i < 4; i++)
		r[i] = v->shared->out[i];
}

/* ---- what is checked ---- */

static void check_sums(struct vm *vm, const char *when)
{
	for (int i = 0; i < vm->nr_vcpus; i++) {
		struct stats s = stats_of(&vm->vcpus[i]);
		uint64_t exits = 0, cycles = 0;

		for (int n = 0; n < NR_SLOTS; n++) {
			exits += s.value[layout.reason_exits + n];
			cycles += s.value[layout.reason_cycles + n];
		}
		bool ok = exits == s.value[layout.total] && cycles == s.value[layout.cycles] &&
			  exits == s.value[layout.kvm_exits];

		expect(ok, "%s, vCPU %d: %lu exits by reason, %lu in all, %lu by KVM's own count; cycles by reason %s",
		       when, i, exits, s.value[layout.total], s.value[layout.kvm_exits],
		       cycles == s.value[layout.cycles] ? "add up" : "do not add up");
		expect(s.value[layout.reason_exits + NR_SLOTS - 1] == 0, "%s, vCPU %d: no exit without a slot", when, i);
	}
}

/* The guest's total and KVM's `exits`, of one instant: what came in between is known. */
static void check_instant(struct vm *vm, int at, uint32_t scope)
{
	struct vcpu *v = &vm->vcpus[at];

	v->shared->arg[0] = scope;
	command(v, CMD_TOTAL, INTERRUPT, 1);
	struct stats s = scope ? stats_of(v) : stats_of_vm(vm);
	uint64_t total = v->shared->out[0];
	/* The reading of the interrupts that follows, and the OUT that ends the command. Interrupts are
	 * the VM's: the other vCPUs are parked. */
	struct stats all = stats_of_vm(vm);
	uint64_t later = 2 + by_reason(vm, &all, INTERRUPT) - v->shared->out[1];

	expect(total + later == s.value[layout.kvm_exits], "%s total as vCPU %d reads it: %lu, and %lu after it: KVM counts %lu",
	       scope ? "vCPU's" : "VM's", at, total, later, s.value[layout.kvm_exits]);
}

static void check_kind(struct vm *vm, enum command c, enum reason r, uint64_t n)
{
	struct vcpu *v = &vm->vcpus[0];
	struct stats before = stats_of(v), after;
	const uint64_t done = r == IO;			/* the OUT that ends the command */

	v->shared->arg[0] = 20000;			/* ticks of the timer until HLT ends */
	command(v, c, r, n);
	after = stats_of(v);
	uint64_t host = by_reason(vm, &after, r) - by_reason(vm, &before, r);
	uint64_t leaf_count = v->shared->by_count, leaf_pair = v->shared->by_pair;

	if (r == CPUID) {				/* the readings are CPUIDs too */
		leaf_count -= 3;
		leaf_pair -= 1;
		host -= 4;
	}
	expect(host - done == n && leaf_count == n && leaf_pair == n, "%lu %s: %lu on the host, %lu and %lu in the guest",
	       n, reason_names[r], host - done, leaf_count, leaf_pair);
	if (c == CMD_HALT)
		expect(v->shared->out[0] >= n, "each ended by the APIC timer, which interrupted %lu times", (unsigned long)v->shared->out[0]);
}

static void check_leaves(struct vm *vm, bool there)
{
	struct vcpu *v = &vm->vcpus[0];
	uint32_t r[4], q[4];

	leaf(v, 0x4fffff00, 0, r, CMD_LEAF);
	bool signature = r[0] == 0x4fffffff && !memcmp(&r[1], "VMTallyExits", 12);

	if (!there) {
		leaf(v, 0x4fffffff, 0, q, CMD_LEAF);
		expect(!signature, "a VM whose VMM did not ask has no signature");
		leaf(v, 0x4fffffff, 0, r, CMD_LEAF);
		expect(!memcmp(r, q, sizeof(r)), "and leaf 0x4FFFFFFF has no tally there: %x %x %x %x, twice", r[0], r[1], r[2], r[3]);
		return;
	}
	expect(signature, "leaf 0x4FFFFF00: %x \"%.12s\"", r[0], (char *)&r[1]);
	leaf(v, 0x4fffff01, 0, r, CMD_LEAF);
	expect(r[0] == 1 && r[1] == 7 && r[2] && r[3] == vm->vendor, "leaf 0x4FFFFF01: version %u, features %x, TSC %u kHz, vocabulary %u",
	       r[0], r[1], r[2], r[3]);

	uint32_t undefined = vm->vendor == VMX ? 35 : 0x300, never = vm->vendor == VMX ? 11 : 0x7f;

	for (uint32_t f = 0x4ffffffd; f <= 0x4ffffffe; f++) {
		leaf(v, f, undefined, r, CMD_LEAF);
		expect(!r[0] && !r[1] && !r[2] && r[3] == ~0u, "leaf 0x%X, reason %u does not exist: %x %x %x %x", f, undefined, r[0], r[1], r[2], r[3]);
		leaf(v, f, ~0u - 1, r, CMD_LEAF);
		expect(!r[0] && !r[1] && !r[2] && r[3] == ~0u, "leaf 0x%X, reason 0xfffffffe does not exist", f);
		leaf(v, f, never, r, CMD_LEAF);
		expect(!r[0] && !r[1] && !r[2] && !r[3], "leaf 0x%X, reason %u has not happened: %x %x %x %x", f, never, r[0], r[1], r[2], r[3]);
	}
	leaf(v, 0x4fffffff, 2, r, CMD_LEAF);
	expect(!r[0] && !r[1] && !r[2] && r[3] == ~0u, "leaf 0x4FFFFFFF, scope 2 does not exist");
	leaf(v, 0x4fffff02, 0, r, CMD_LEAF);
	expect(!r[0] && !r[1] && !r[2] && !r[3], "leaf 0x4FFFFF02 is empty");
	leaf(v, 0x4ffffffe, reasons[vm->vendor][CPUID], r, CMD_LEAF);
	expect(r[0] && !r[1] && !r[2] && !r[3], "leaf 0x4FFFFFFE, CPUID: %u exits, EBX and ECX are 0", r[0]);
	command(v, CMD_READ_TWICE, CPUID, 1000);
	expect(v->shared->out[0] == 0, "1000 pairs of readings, each differs in exits and in cycles");
}

static void check_emulator(struct vm *vm)
{
	char c = 'N';
	int fd = open("/sys/module/kvm/parameters/force_emulation_prefix", O_RDONLY);
	uint32_t r[4], q[4];

	if (fd < 0 || read(fd, &c, 1) != 1 || c == 'N' || c == '0') {
		printf("skip  the instruction emulator's CPUID: kvm.force_emulation_prefix is off\n");
		return;
	}
	close(fd);
	leaf(&vm->vcpus[0], 0x4fffffff, 0, r, CMD_LEAF);
	leaf(&vm->vcpus[0], 0x4fffffff, 0, q, CMD_EMULATED_LEAF);
	expect(q[0] > r[0] && q[0] - r[0] < 100 && q[3] == r[3], "the instruction emulator's CPUID continues the tally: %u, then %u exits", r[0], q[0]);
}

static void check_counts(unsigned int scale)
{
	struct vm *vm = create_vm(1, true, false);
	struct vcpu *v = &vm->vcpus[0];

	expect((layout.cycles_flags & KVM_STATS_UNIT_MASK) == KVM_STATS_UNIT_CYCLES, "the unit of the statistic is cycles");
	printf("      vocabulary %u\n", vm->vendor);
	command(v, CMD_NOTHING, IO, 0);
	check_leaves(vm, true);
	check_emulator(vm);
	check_kind(vm, CMD_OUT, IO, 100000 / scale);
	check_kind(vm, CMD_CPUID, CPUID, 100000 / scale);
	check_kind(vm, CMD_HALT, HALT, 1000);
	check_kind(vm, CMD_WRMSR, WRMSR, 10000);
	check_kind(vm, CMD_TOUCH, VIOLATION, 10000);
	check_kind(vm, CMD_HYPERCALL, HYPERCALL, 10000);
	check_kind(vm, CMD_MMIO, MMIO, 10000);
	check_instant(vm, 0, 0);
	check_instant(vm, 0, 1);
	check_sums(vm, "one vCPU");
	destroy_vm(vm);

	/* Four vCPUs at once, each with work of its own. */
	vm = create_vm(4, true, false);
	for (int i = 0; i < 4; i++)
		command(&vm->vcpus[i], CMD_NOTHING, IO, 0);
	const struct { enum command c; enum reason r; uint64_t n; } work[] = {
		{ CMD_OUT, IO, 10007 }, { CMD_CPUID, CPUID, 10009 }, { CMD_WRMSR, WRMSR, 10037 }, { CMD_HYPERCALL, HYPERCALL, 10039 } };
	struct stats before = stats_of_vm(vm), after;

	for (int i = 0; i < 4; i++)
		start(&vm->vcpus[i], work[i].c, work[i].r, work[i].n);
	for (int i = 0; i < 4; i++)
		pthread_join(vm->vcpus[i].thread, NULL);
	after = stats_of_vm(vm);
	/* Besides: an OUT each at the end, four readings each. */
	expect(by_reason(vm, &after, IO) - by_reason(vm, &before, IO) == 10007 + 4 &&
	       by_reason(vm, &after, CPUID) - by_reason(vm, &before, CPUID) == 10009 + 16 &&
	       by_reason(vm, &after, WRMSR) - by_reason(vm, &before, WRMSR) == 10037 &&
	       by_reason(vm, &after, HYPERCALL) - by_reason(vm, &before, HYPERCALL) == 10039,
	       "four vCPUs: 10007 OUTs, 10009 CPUIDs, 10037 MSR writes, 10039 hypercalls at once");
	for (int i = 0; i < 4; i++) {
		check_instant(vm, i, 0);
		check_instant(vm, i, 1);
	}
	for (uint32_t scope = 0; scope < 2; scope++) {
		for (int i = 0; i < 4; i++) {
			vm->vcpus[i].shared->arg[0] = scope;
			start(&vm->vcpus[i], CMD_MONOTONIC, CPUID, 10000);
		}
		uint64_t back = 0;

		for (int i = 0; i < 4; i++) {
			pthread_join(vm->vcpus[i].thread, NULL);
			back += vm->vcpus[i].shared->out[0];
		}
		expect(!back, "four vCPUs read 10000 times each at once, scope %u: %lu readings went backwards", scope, back);
	}
	check_sums(vm, "four vCPUs");

	/* A second VM at the same time, and one that asked for nothing. */
	struct vm *other = create_vm(1, true, false), *silent = create_vm(1, false, false);

	command(&other->vcpus[0], CMD_NOTHING, IO, 0);
	start(&other->vcpus[0], CMD_CPUID, CPUID, 30011);
	start(&vm->vcpus[1], CMD_CPUID, CPUID, 20011);
	pthread_join(other->vcpus[0].thread, NULL);
	pthread_join(vm->vcpus[1].thread, NULL);
	expect(other->vcpus[0].shared->by_pair == 30011 + 1 && vm->vcpus[1].shared->by_pair == 20011 + 1,
	       "two VMs side by side: %lu CPUIDs in one, %lu in the other", other->vcpus[0].shared->by_pair - 1, vm->vcpus[1].shared->by_pair - 1);
	check_instant(other, 0, 0);
	check_instant(vm, 0, 0);
	check_leaves(silent, false);
	destroy_vm(silent);
	destroy_vm(other);
	destroy_vm(vm);
}

/* The capability: userspace answers. */
static void check_capability(void)
{
	struct vm *vm = create_vm(1, true, true);
	uint32_t r[4];

	leaf(&vm->vcpus[0], 0x4fffff42, 7, r, CMD_LEAF);
	expect(cpuid_exits == 1 && r[0] == (0x4fffff42 ^ 7) && r[3] == 1, "CPUID 0x4FFFFF42, 7 went to userspace and came back with its answer");
	leaf(&vm->vcpus[0], 0x4fffffff, 0, r, CMD_LEAF);
	expect(cpuid_exits == 2 && r[3] == 2, "CPUID 0x4FFFFFFF as well");
	leaf(&vm->vcpus[0], 0x4ffffeff, 0, r, CMD_LEAF);
	leaf(&vm->vcpus[0], 0x50000000, 0, r, CMD_LEAF);
	leaf(&vm->vcpus[0], 0, 0, r, CMD_LEAF);
	expect(cpuid_exits == 2, "the leaves beside the range did not");

	char c = 'N';
	int fd = open("/sys/module/kvm/parameters/force_emulation_prefix", O_RDONLY);

	if (fd >= 0 && read(fd, &c, 1) == 1 && c != 'N' && c != '0') {
		leaf(&vm->vcpus[0], 0x4fffff43, 9, r, CMD_EMULATED_LEAF);
		expect(cpuid_exits == 3 && r[0] == (0x4fffff43 ^ 9) && r[3] == 3, "the instruction emulator's CPUID takes the same way");
	} else {
		printf("skip  the instruction emulator's CPUID: kvm.force_emulation_prefix is off\n");
	}

	struct kvm_enable_cap cap = { .cap = CAP_USER_SPACE_CPUID };

	expect(ioctl(vm->fd, KVM_ENABLE_CAP, &cap) == -1 && errno == EINVAL, "the range is fixed once there is a vCPU");
	expect(ioctl(vm->fd, KVM_CHECK_EXTENSION, CAP_USER_SPACE_CPUID) == 1, "KVM_CHECK_EXTENSION knows it");
	destroy_vm(vm);
}

/* Where the time goes: four counters of the kernel against three clocks that are not the kernel's. */
static void check_time(unsigned int seconds)
{
	struct vm *vm = create_vm(1, true, false);
	struct vcpu *v = &vm->vcpus[0];
	uint32_t r[4];

	leaf(v, 0x4fffff01, 0, r, CMD_LEAF);
	uint64_t ticks = (uint64_t)r[2] * 1000 * seconds;

	v->shared->arg[0] = 300;		/* a longer step of the TSC is an exit */
	v->shared->arg[1] = 200000;		/* of the timer, until HLT ends */
	struct stats a = stats_of(v), b;
	uint64_t userspace = v->userspace_cycles, began = v->last_return, runs = v->userspace_exits;

	command(v, CMD_MIX, IO, ticks);
	b = stats_of(v);
	uint64_t wall = v->last_return - began;

	userspace = v->userspace_cycles - userspace;
#define DELTA(x) (b.value[layout.x] - a.value[layout.x])
	uint64_t kernel = DELTA(cycles), guest = DELTA(guest), blocked = DELTA(blocked), user = DELTA(userspace);
	uint64_t exits = DELTA(total);

	printf("      wall %lu ticks (%.1f s), %lu exits: kernel %lu, guest %lu, blocked %lu, userspace %lu\n",
	       wall, wall / (r[2] * 1000.0), exits, kernel, guest, blocked, user);
	printf("      %lu KVM_RUNs, %.0f ticks each in the system call's own code\n", v->userspace_exits - runs,
	       (double)(user - userspace) / (v->userspace_exits - runs));
	double sum = 100.0 * (kernel + guest + blocked + user) / wall - 100;
	double own = 100.0 * (kernel + v->shared->out[0] + blocked + userspace) / wall - 100;

	expect(sum > -2 && sum < 2, "the kernel's four counters differ by %.3f %% from the VMM's own wall time", sum);
	expect(own > -2 && own < 2, "kernel %lu + the VMM's own time %lu + the guest's own time %lu + halted %lu differ by %.3f %% from it",
	       kernel, userspace, (unsigned long)v->shared->out[0], blocked, own);
	expect(wall >= (uint64_t)r[2] * 10000, "the run took %.1f s of the ground's time", wall / (r[2] * 1000.0));
	check_sums(vm, "mixed work");
	destroy_vm(vm);
}

/* Exits that the fastpath re-enters from. The caller counts independently. */
static void check_deadline(uint64_t n)
{
	struct vm *vm = create_vm(1, true, false);
	struct vcpu *v = &vm->vcpus[0];
	struct stats a, b;

	command(v, CMD_NOTHING, IO, 0);
	a = stats_of(v);
	command(v, CMD_DEADLINE, WRMSR, n);
	b = stats_of(v);
	printf("      %lu writes of the TSC deadline: %lu exits, %lu of them re-entered by the fastpath\n", n, DELTA(total), DELTA(reentered));
	printf("TOTALS exits=%lu reentered=%lu no_entry=%lu\n", b.value[layout.total], b.value[layout.reentered], b.value[layout.no_entry]);
	expect(v->shared->by_pair >= n && v->shared->by_pair <= n + 1, "MSR writes as the guest reads them: %lu", v->shared->by_pair);
	check_sums(vm, "deadline");
	destroy_vm(vm);
}

/* What an exit costs, in ticks of the TSC; the caller compares. The guest is in it, about five instructions. */
static void check_cost(void)
{
	uint64_t least[2] = { ~0ull, ~0ull };

	unpatched_is_fine = true;
	for (int turn = 0; turn < 4; turn++) {
		struct vm *vm = create_vm(1, false, false);
		struct vcpu *v = &vm->vcpus[0];

		command(v, CMD_TICKS, CPUID, 40);
		for (int i = 0; i < 2; i++)
			if (v->shared->out[i] < least[i])
				least[i] = v->shared->out[i];
		destroy_vm(vm);
	}
	printf("COST cpuid=%lu wrmsr=%lu\n", least[0], least[1]);
}

/* Counters that start 500 below 2^32, by modules built for this check. */
static void check_wrap(void)
{
	struct vm *vm = create_vm(1, true, false);
	struct vcpu *v = &vm->vcpus[0];
	const uint32_t leaves[] = { 0x4fffffff, 0x4ffffffe, 0x4ffffffd };
	uint64_t before[3], after[3], cycles[2];
	uint32_t r[4];

	command(v, CMD_NOTHING, IO, 0);
	for (int i = 0; i < 3; i++) {
		leaf(v, leaves[i], i ? reasons[vm->vendor][CPUID] : 1, r, CMD_LEAF);
		before[i] = (uint64_t)r[3] << 32 | r[0];
		cycles[0] = (uint64_t)r[1] << 32 | r[2];
	}
	command(v, CMD_CPUID, CPUID, 1000);
	for (int i = 0; i < 3; i++) {
		leaf(v, leaves[i], i ? reasons[vm->vendor][CPUID] : 1, r, CMD_LEAF);
		after[i] = (uint64_t)r[3] << 32 | r[0];
		cycles[1] = (uint64_t)r[1] << 32 | r[2];
	}
	expect(before[0] < 1ull << 32 && after[0] >= 1ull << 32, "total: 0x%lx exits, then 0x%lx", before[0], after[0]);
	/* Between two readings of a leaf: 1000 CPUIDs, four readings in the guest, three here. */
	for (int i = 1; i < 3; i++)
		expect(before[i] < 1ull << 32 && after[i] == before[i] + 1007, "leaf 0x%X: 0x%lx CPUIDs, then 0x%lx, 1007 more", leaves[i], before[i], after[i]);
	expect(cycles[0] >= (1ull << 32) - 500 && cycles[1] > cycles[0] && cycles[1] < 1ull << 40, "cycles: 0x%lx, then 0x%lx", cycles[0], cycles[1]);
	destroy_vm(vm);
}

/* A guest with a guest of its own: who handles which exit is told apart. */
static void check_nested(uint64_t n)
{
	struct vm *vm = create_vm(1, true, false);
	struct vcpu *v = &vm->vcpus[0];
	struct stats a, b;

	command(v, CMD_NOTHING, IO, 0);
	command(v, CMD_NESTED, CPUID, 10);
	a = stats_of(v);
	command(v, CMD_NESTED, CPUID, n);
	b = stats_of(v);
	uint64_t io = by_reason(vm, &b, IO) - by_reason(vm, &a, IO), cpuids = by_reason(vm, &b, CPUID) - by_reason(vm, &a, CPUID);
	uint64_t interrupts = by_reason(vm, &b, INTERRUPT) - by_reason(vm, &a, INTERRUPT);
	uint64_t vmruns = b.value[layout.reason_exits + 0x80] - a.value[layout.reason_exits + 0x80];

	printf("      %lu exits: %lu VMRUN, %lu CPUID, %lu I/O, %lu interrupts; %lu from L2 (%lu of %lu cycles), %lu of them reflected to L1\n",
	       DELTA(total), vmruns, cpuids, io, interrupts, DELTA(l2), DELTA(l2_cycles), DELTA(cycles), DELTA(reflected));
	expect(v->shared->out[0] == n && !v->shared->out[1], "L1 saw %lu CPUIDs of L2 and %lu other exits", v->shared->out[0], v->shared->out[1]);
	expect(vmruns == n, "L1 entered L2 %lu times, each VMRUN an exit from L1", vmruns);
	expect(cpuids == n && DELTA(reflected) == n, "L2's %lu CPUIDs are exits to L0, all reflected to L1", cpuids);
	expect(io == n - 1 + 1, "L2's %lu OUTs are exits too, which L0 handles and L1 does not see; one more OUT is L1's last", io - 1);
	/* Interrupts of the host may come in L1 or in L2. */
	expect(DELTA(l2) >= 2 * n - 1 && DELTA(l2) <= 2 * n - 1 + interrupts, "exits from L2: %lu, that is %lu and up to %lu by interrupts",
	       DELTA(l2), 2 * n - 1, interrupts);
	expect(DELTA(l2_cycles) > 0 && DELTA(l2_cycles) < DELTA(cycles), "cycles after exits from L2 are some of all");
	check_sums(vm, "nested");
	destroy_vm(vm);
}

/* How much of an exit is inside the vendor's handle_exit, by modules built for this check. */
static void check_where(void)
{
	const struct { enum command c; enum reason r; } kinds[] = {
		{ CMD_CPUID, CPUID }, { CMD_WRMSR, WRMSR }, { CMD_HYPERCALL, HYPERCALL }, { CMD_MMIO, MMIO }, { CMD_OUT, IO } };
	struct vm *vm = create_vm(1, true, false);
	struct vcpu *v = &vm->vcpus[0];

	command(v, CMD_NOTHING, IO, 0);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct stats a = stats_of(v), b;

		command(v, kinds[i].c, kinds[i].r, 2000);
		b = stats_of(v);
		printf("      %s: %lu cycles an exit, %lu of them (%.0f %%) inside handle_exit\n", reason_names[kinds[i].r],
		       DELTA(cycles) / DELTA(total), DELTA(l2_cycles) / DELTA(total), 100.0 * DELTA(l2_cycles) / DELTA(cycles));
	}
	destroy_vm(vm);
}

/* Guest state that VMX cannot run without "unrestricted guest": KVM emulates instead of entering. */
static void check_emulated(void)
{
	/* mov dx, 0x500; mov cx, 1000; out dx, al; loop; mov dx, 0x501; out dx, al */
	static const unsigned char code[] = { 0xba, 0x00, 0x05, 0xb9, 0xe8, 0x03, 0xee, 0xe2, 0xfd, 0xba, 0x01, 0x05, 0xee };
	struct vm *vm = create_vm(1, true, false);
	struct vcpu *v = &vm->vcpus[0];
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rflags = 2 };
	struct stats s;

	memcpy((char *)vm->memory + GUEST_FRESH, code, sizeof(code));
	if (ioctl(v->fd, KVM_GET_SREGS, &sregs))
		die("KVM_GET_SREGS");
	sregs.cr0 = 0x60000010;
	sregs.cr4 = sregs.efer = 0;
	/* Real mode with a base that no selector gives. */
	sregs.cs = (struct kvm_segment){ .base = GUEST_FRESH, .limit = 0xffff, .selector = 0xf000, .type = 11, .present = 1, .s = 1 };
	sregs.ss = (struct kvm_segment){ .limit = 0xffff, .type = 3, .present = 1, .s = 1 };
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss;
	if (ioctl(v->fd, KVM_SET_SREGS, &sregs) || ioctl(v->fd, KVM_SET_REGS, &regs))
		die("setting real mode");
	finish(v);
	s = stats_of(v);
	uint64_t reason33 = s.value[layout.reason_exits + 33], none = s.value[layout.no_entry];

	expect(none >= 1000 && none == reason33, "1001 OUTs emulated because the processor cannot enter: %lu exits without entry, %lu of reason 33, %lu in all",
	       none, reason33, s.value[layout.total]);
	check_sums(vm, "emulated");
	destroy_vm(vm);
}

/*
 * A property of the processor, not of KVM: does VM entry keep the interrupt shadow that an interrupt of
 * the host has cut short? Where it does not, STI; HLT can miss the interrupt that HLT is to wait for.
 */
static void check_shadow(void)
{
	/* inc ebx, four times; mov dx, 0x501; out dx, al: entered in a shadow with an interrupt waiting */
	static const unsigned char code[] = { 0xff, 0xc3, 0xff, 0xc3, 0xff, 0xc3, 0xff, 0xc3, 0x66, 0xba, 0x01, 0x05, 0xee };
	/* mov esi, ebx; iretq */
	static const unsigned char handler[] = { 0x89, 0xde, 0x48, 0xcf };
	const struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x41 };
	struct kvm_vcpu_events events;
	struct kvm_regs regs;

	unpatched_is_fine = true;
	struct vm *vm = create_vm(1, false, false);
	struct vcpu *v = &vm->vcpus[0];

	command(v, CMD_NOTHING, IO, 0);			/* its APIC is on */
	v->run->immediate_exit = 1;			/* the OUT that ended it is over */
	if (ioctl(v->fd, KVM_RUN, 0) != -1 || errno != EINTR)
		die("KVM_RUN with immediate_exit");
	v->run->immediate_exit = 0;
	memcpy((char *)vm->memory + GUEST_FRESH, code, sizeof(code));
	memcpy((char *)vm->memory + GUEST_FRESH + 64, handler, sizeof(handler));
	gate((uint64_t *)((char *)vm->memory + GUEST_IDT), msi.data, GUEST_FRESH + 64);
	if (ioctl(v->fd, KVM_GET_REGS, &regs) || ioctl(v->fd, KVM_GET_VCPU_EVENTS, &events))
		die("reading the vCPU");
	regs.rip = GUEST_FRESH;
	regs.rflags = 0x202;
	regs.rbx = 0;
	regs.rsi = ~0ull;
	events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	events.flags = KVM_VCPUEVENT_VALID_SHADOW;
	if (ioctl(v->fd, KVM_SET_REGS, &regs) || ioctl(v->fd, KVM_SET_VCPU_EVENTS, &events) ||
	    ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) != 1)
		die("an interrupt in the shadow");
	finish(v);
	if (ioctl(v->fd, KVM_GET_REGS, &regs))
		die("KVM_GET_REGS");
	expect(regs.rsi <= 1 && regs.rbx == 4, "the interrupt came after %lld of 4 instructions: VM entry %s the interrupt shadow",
	       regs.rsi, regs.rsi ? "keeps" : "loses");
	destroy_vm(vm);
}

/* The module parameter is off: no leaves, no counts, statistics all zero. */
static void check_off(void)
{
	struct vm *vm = create_vm(1, true, false);
	struct stats s;

	command(&vm->vcpus[0], CMD_NOTHING, IO, 0);
	check_leaves(vm, false);
	s = stats_of(&vm->vcpus[0]);
	expect(s.value[layout.kvm_exits] && !s.value[layout.total] && !s.value[layout.cycles] && !s.value[layout.vocabulary],
	       "KVM counts %lu exits, exit accounting none", s.value[layout.kvm_exits]);
	destroy_vm(vm);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "counts";
	unsigned int number = argc > 2 ? atoi(argv[2]) : 0;

	setbuf(stdout, NULL);
	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		die("/dev/kvm");
	if (!strcmp(what, "counts"))
		check_counts(number ? number : 1);
	else if (!strcmp(what, "time"))
		check_time(number ? number : 10);
	else if (!strcmp(what, "deadline"))
		check_deadline(number ? number : 200);
	else if (!strcmp(what, "capability"))
		check_capability();
	else if (!strcmp(what, "off"))
		check_off();
	else if (!strcmp(what, "nested"))
		check_nested(number ? number : 1000);
	else if (!strcmp(what, "where"))
		check_where();
	else if (!strcmp(what, "emulated"))
		check_emulated();
	else if (!strcmp(what, "shadow"))
		check_shadow();
	else if (!strcmp(what, "wrap"))
		check_wrap();
	else if (!strcmp(what, "cost"))
		check_cost();
	else
		return 64;
	printf("%s: %s, %d failures\n", failures ? "FAILED" : "PASSED", what, failures);
	return failures != 0;
}
