// SPDX-License-Identifier: GPL-2.0
/*
 * Checks exit accounting from both sides: a guest (guest.c) makes an exact number of exits of one
 * kind and reads its tally with CPUID, and the host compares with what it asked for and with KVM's
 * statistics. Nothing but /dev/kvm is needed, so this runs as init of an emulated host.
 *
 * usage: check counts|table|knobs|debugfs|time|preempt|deadline|capability|off|cost|scale|wrap|nested|
 *              emulated|where|shadow [NUMBER]
 */
#include "vm.h"

/* ---- what is checked ---- */

static void check_sums(struct vm *vm, const char *when)
{
	for (int i = 0; i < vm->nr_vcpus; i++) {
		struct stats s = stats_of(&vm->vcpus[i]);
		uint64_t exits = 0, cycles = 0;

		for (int n = 0; n < layout.nr_slots; n++) {
			exits += s.value[layout.reason_exits + n];
			cycles += s.value[layout.reason_cycles + n];
		}
		bool ok = exits == s.value[layout.total] && cycles == s.value[layout.cycles] &&
			  exits == s.value[layout.kvm_exits];

		expect(ok, "%s, vCPU %d: %lu exits by reason, %lu in all, %lu by KVM's own count; cycles by reason %s",
		       when, i, exits, s.value[layout.total], s.value[layout.kvm_exits],
		       cycles == s.value[layout.cycles] ? "add up" : "do not add up");
		expect(s.value[layout.reason_exits + layout.nr_slots - 1] == 0, "%s, vCPU %d: no exit without a slot", when, i);
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
	expect(r[0] == 2 && (r[1] & ~8) == 7 && r[2] && r[3] == vm->vendor, "leaf 0x4FFFFF01: version %u, features %x, TSC %u kHz, vocabulary %u",
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
	leaf(v, 0x4fffffff, 0xdeadbeef, r, CMD_LEAF);
	leaf(v, 0x4fffffff, 0, q, CMD_LEAF);
	expect(q[0] > r[0] && q[0] - r[0] < 100, "leaf 0x4FFFFFFF does not look at ECX: %u exits with 0xdeadbeef, then %u with 0", r[0], q[0]);
	leaf(v, 0x4fffff02, 7, r, CMD_LEAF);
	leaf(v, 0x4fffff02, 0, q, CMD_LEAF);
	expect(r[0] && q[0] > r[0] && q[0] - r[0] < 100, "nor does 0x4FFFFF02: %u exits of this vCPU with 7, then %u with 0", r[0], q[0]);
	leaf(v, 0x4fffff03, 0, r, CMD_LEAF);
	expect(!r[0] && !r[1] && !r[2] && !r[3], "leaf 0x4FFFFF03 is the VMM's, and empty");
	leaf(v, 0x4fffff42, 0, r, CMD_LEAF);
	expect(!r[0] && !r[1] && !r[2] && !r[3], "and so is 0x4FFFFF42");
	leaf(v, 0x4ffffffe, reasons[vm->vendor][CPUID], r, CMD_LEAF);
	expect(r[0] && !r[1] && !r[2] && !r[3], "leaf 0x4FFFFFFE, CPUID: %u exits, EBX and ECX are 0", r[0]);
	command(v, CMD_READ_TWICE, CPUID, 1000);
	expect(v->shared->out[0] == 0, "1000 pairs of readings, each differs in exits and in cycles");
}

/* Two readings of a leaf that counts exits differ, all others do not. */
static bool is_live(struct vcpu *v, uint32_t function, uint32_t *r)
{
	uint32_t q[4], index = reasons[v->vm->vendor][CPUID];

	leaf(v, function, index, q, CMD_LEAF);
	leaf(v, function, index, r, CMD_LEAF);
	return r[0] > q[0];
}

/* What the VMM has put into the vCPU's table is honoured. */
static void check_table(void)
{
#define SIGNATURE(max) { .function = 0x4fffff00, .eax = (max), .ebx = 0x61544d56, .ecx = 0x45796c6c, .edx = 0x73746978 }
#define FEATURES(bits) { .function = 0x4fffff01, .eax = 2, .ebx = (bits), .ecx = 5, .edx = 6 }
#define TABLE(f) { .function = (f), .eax = 11, .ebx = 12, .ecx = 13, .edx = 14 }
	enum kind { END, LIVE, SAME, AS_SET, FEATURE_BITS = 0x100 };	/* the last: or these bits */
	static const struct {
		const char *what;
		struct kvm_cpuid_entry2 entries[4];
		struct { uint32_t leaf, kind; } expected[6];
	} cases[] = {
		{ "a signature of the VMM's own", { TABLE(0x4fffff00), TABLE(0x4fffff01), TABLE(0x4fffffff) },
		  { { 0x4fffff00, AS_SET }, { 0x4fffff01, AS_SET }, { 0x4fffffff, AS_SET }, { 0x4ffffffe, SAME }, { 0x4fffff02, SAME } } },
		{ "a table that is not live", { SIGNATURE(0x4fffffff), FEATURES(6), TABLE(0x4fffffff), TABLE(0x4fffff02) },
		  { { 0x4fffffff, AS_SET }, { 0x4fffff02, AS_SET }, { 0x4ffffffe, SAME }, { 0x4ffffffd, SAME } } },
		{ "a signature without features", { SIGNATURE(0x4fffffff) }, { { 0x4fffffff, SAME }, { 0x4fffff02, SAME }, { 0x4ffffffe, SAME } } },
		{ "the highest leaf is 0x4FFFFF02", { SIGNATURE(0x4fffff02), FEATURES(7) },
		  { { 0x4fffff02, LIVE }, { 0x4fffff01, FEATURE_BITS | 7 }, { 0x4fffffff, SAME }, { 0x4ffffffe, SAME } } },
		{ "the total alone", { SIGNATURE(0x4fffffff), FEATURES(1), TABLE(0x4ffffffe) },
		  { { 0x4fffffff, LIVE }, { 0x4fffff01, FEATURE_BITS | 1 }, { 0x4fffff02, SAME }, { 0x4ffffffe, AS_SET }, { 0x4ffffffd, SAME } } },
		{ "a page of the VMM's", { SIGNATURE(0x4fffffff), FEATURES(~0u), TABLE(0x4fffff03), TABLE(0x4fffffff) },
		  { { 0x4fffff03, AS_SET }, { 0x4fffff01, FEATURE_BITS | 0x17 }, { 0x4fffffff, LIVE }, { 0x4fffff02, LIVE }, { 0x4ffffffd, LIVE } } },
		{ "no signature, but a leaf", { TABLE(0x4fffff02) },
		  { { 0x4fffff02, AS_SET }, { 0x4fffff01, FEATURE_BITS | 7 }, { 0x4fffffff, LIVE } } },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		extra_cpuid = cases[i].entries;
		for (nr_extra_cpuid = 0; nr_extra_cpuid < 4 && extra_cpuid[nr_extra_cpuid].function; nr_extra_cpuid++)
			;
		struct vm *vm = create_vm(1, CYCLES, false);
		struct vcpu *v = &vm->vcpus[0];
		uint32_t r[4];

		for (int e = 0; e < 6 && cases[i].expected[e].leaf; e++) {
			uint32_t f = cases[i].expected[e].leaf, kind = cases[i].expected[e].kind;
			bool live = is_live(v, f, r);
			bool ok = kind == LIVE ? live : kind == SAME ? !live :
				  kind == AS_SET ? r[0] == 11 && r[1] == 12 && r[2] == 13 && r[3] == 14 :
				  r[0] == 2 && r[1] == (kind & 0xff) && r[2] > 5 && r[3] == vm->vendor;

			expect(ok, "%s: leaf 0x%X is %x %x %x %x", cases[i].what, f, r[0], r[1], r[2], r[3]);
		}
		destroy_vm(vm);
	}
	nr_extra_cpuid = 0;
}

static void set_parameter(const char *name, const char *value)
{
	char path[96];

	snprintf(path, sizeof(path), "/sys/module/kvm/parameters/%s", name);
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, value, 1) != 1)
		die(path);
	close(fd);
}

/* Who says that a VM is counted, and what its guest may read. */
static void check_knobs(void)
{
	static const uint64_t bad[] = { 0, 2, 3 | 8, 4, 5, 6, 1ull << 32 };
	struct vm *vm = create_vm(1, NOTHING, false);
	uint32_t r[4];
	bool listed = false;

	for (uint32_t i = 0; i < cpuid.head.nent; i++)
		listed |= cpuid.entries[i].function >> 8 == 0x4fffff;
	expect(!listed, "KVM_GET_SUPPORTED_CPUID does not list the leaves");
	check_leaves(vm, false);
	expect(!vm->vcpus[0].accounted, "a VM whose VMM did not ask has no statistics of it");
	expect(ioctl(vm->fd, KVM_CHECK_EXTENSION, CAP_EXIT_ACCOUNTING) == 7, "KVM_CHECK_EXTENSION knows the flags");

	struct kvm_enable_cap cap = { .cap = CAP_EXIT_ACCOUNTING, .args = { COUNTED } };

	expect(ioctl(vm->fd, KVM_ENABLE_CAP, &cap) == -1 && errno == EINVAL, "it cannot ask any more once there is a vCPU");
	destroy_vm(vm);
	int fd = ioctl(kvm, KVM_CREATE_VM, 0);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cap.args[0] = bad[i];
		expect(ioctl(fd, KVM_ENABLE_CAP, &cap) == -1 && errno == EINVAL, "flags 0x%lx are refused", bad[i]);
	}
	close(fd);

	vm = create_vm(1, COUNTED, false);
	check_leaves(vm, false);
	check_sums(vm, "a VM that is counted, with nothing for the guest");
	destroy_vm(vm);

	vm = create_vm(1, COUNTS, false);
	struct vcpu *v = &vm->vcpus[0];
	bool live = is_live(v, 0x4fffffff, r);

	expect(live && !r[1] && !r[2], "counts and no cycles: the total is %u, %x %x", r[0], r[1], r[2]);
	live = is_live(v, 0x4fffff02, r);
	expect(live && !r[1] && !r[2], "the vCPU's is %u, %x %x", r[0], r[1], r[2]);
	live = is_live(v, 0x4ffffffd, r);
	expect(live && !r[1] && !r[2], "CPUIDs are %u, %x %x", r[0], r[1], r[2]);
	leaf(v, 0x4fffff01, 0, r, CMD_LEAF);
	expect(r[0] == 2 && r[1] == 7 && !r[2], "and the frequency of their clock is not there: %x", r[2]);
	destroy_vm(vm);

	set_parameter("exit_accounting", "Y");
	vm = create_vm(1, NOTHING, false);
	expect(vm->vcpus[0].accounted, "kvm.exit_accounting: a VM whose VMM did not ask is counted");
	check_leaves(vm, false);
	destroy_vm(vm);
	set_parameter("exit_accounting", "N");

	set_parameter("exit_accounting_guests", "Y");
	vm = create_vm(1, NOTHING, false);
	printf("      kvm.exit_accounting_guests: a VM whose VMM did not ask\n");
	check_leaves(vm, true);
	check_sums(vm, "of it");
	destroy_vm(vm);
	vm = create_vm(1, COUNTED, false);
	printf("      and one whose VMM says what the guest may read: nothing\n");
	check_leaves(vm, false);
	destroy_vm(vm);
	set_parameter("exit_accounting_guests", "N");
}

/* Two vCPUs, as their VM's file in debugfs has them. */
static void check_debugfs(void)
{
	struct vm *vm = create_vm(2, COUNTED, false), *silent = create_vm(1, NOTHING, false);
	char path[128], line[128], word[32];
	unsigned long long a, b;
	int reasons_seen = 0, wrong = 0, totals = 0;
	uint64_t exits = 0, cycles = 0;

	for (int i = 0; i < 2; i++)
		command(&vm->vcpus[i], CMD_CPUID, CPUID, 1000);
	struct stats s = stats_of_vm(vm), one = stats_of(&vm->vcpus[0]);

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/exit_accounting", getpid(), vm->fd);
	FILE *f = fopen(path, "r");

	if (!f)
		die(path);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "reason %llx %llu %llu", (unsigned long long *)&exits, &a, &b) == 3) {
			int at = slot(vm, exits);

			wrong += s.value[layout.reason_exits + at] != a || s.value[layout.reason_cycles + at] != b;
			cycles += b;
			reasons_seen++;
		} else if (sscanf(line, "vocabulary %31s", word) == 1) {
			totals += !strcmp(word, vm->vendor == VMX ? "vmx" : "svm") && one.value[layout.vocabulary] == vm->vendor;
		} else if (sscanf(line, "%31s %llu", word, &a) == 2) {
			const struct { const char *name; int at; } names[] = { { "exits", layout.total }, { "cycles", layout.cycles },
				{ "guest_cycles", layout.guest }, { "userspace_cycles", layout.userspace } };

			for (size_t i = 0; i < 4; i++)
				if (!strcmp(word, names[i].name))
					totals += s.value[names[i].at] == a;
		}
	}
	fclose(f);
	expect(reasons_seen >= 3 && !wrong && cycles == s.value[layout.cycles],
	       "debugfs has %d reasons of two vCPUs, %d of them not as in the statistics", reasons_seen, wrong);
	expect(totals == 5, "and their totals, and the vocabulary of one vCPU: %d of 5", totals);
	*strrchr(path, '/') = 0;
	strcat(path, "/exit_acct_exits");
	expect(access(path, F_OK) && errno == ENOENT, "no file sums up what must not be summed");
	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/exit_accounting", getpid(), silent->fd);
	f = fopen(path, "r");
	expect(f && !fgets(line, sizeof(line), f), "of a VM that is not counted it is empty");
	if (f)
		fclose(f);
	destroy_vm(silent);
	destroy_vm(vm);
}

static void *spin_on_first_cpu(void *v)
{
	cpu_set_t first;

	CPU_ZERO(&first);
	CPU_SET(0, &first);
	if (sched_setaffinity(0, sizeof(first), &first))
		die("sched_setaffinity");
	finish(v);
	return NULL;
}

/* Two guests that only spin share one CPU: the time without it is no exit's. */
static void check_preempt(void)
{
	struct vm *vms[2] = { create_vm(1, COUNTED, false), create_vm(1, COUNTED, false) };
	uint64_t began = rdtsc();

	for (int i = 0; i < 2; i++) {
		struct vcpu *v = &vms[i]->vcpus[0];

		v->shared->command = CMD_SPIN;
		if (pthread_create(&v->thread, NULL, spin_on_first_cpu, v))
			die("pthread_create");
	}
	sleep(2);
	for (int i = 0; i < 2; i++)
		vms[i]->vcpus[0].shared->stop = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(vms[i]->vcpus[0].thread, NULL);
	uint64_t wall = rdtsc() - began;

	for (int i = 0; i < 2; i++) {
		struct stats s = stats_of(&vms[i]->vcpus[0]);
		uint64_t n = by_reason(vms[i], &s, INTERRUPT);
		uint64_t y = s.value[layout.reason_cycles + slot(vms[i], reasons[vms[i]->vendor][INTERRUPT])];

		expect(preempted_of(&s) > s.value[layout.guest] / 4 && s.value[layout.cycles] < preempted_of(&s) / 2,
		       "one of two spinning guests on a CPU: guest %.1f %%, preempted %.1f %%, kernel %.1f %% of the time; %lu interrupts of %lu cycles each",
		       100.0 * s.value[layout.guest] / wall, 100.0 * preempted_of(&s) / wall, 100.0 * s.value[layout.cycles] / wall, n, n ? y / n : 0);
		check_sums(vms[i], "spinning");
		destroy_vm(vms[i]);
	}
}

/* What a reading costs when there are many vCPUs; where a tick is an instruction. */
static void check_scale(int most)
{
	static const uint32_t leaves[] = { 0, 0x4fffffff, 0x4ffffffd };
	struct vm *vm = create_vm(1, CYCLES, false);
	struct vcpu *v = &vm->vcpus[0];
	uint64_t ticks[2][3];

	for (int turn = 0; turn < 2; turn++) {
		for (int i = turn ? 1 : most; i < most; i++)
			if (ioctl(vm->fd, KVM_CREATE_VCPU, i) < 0)
				die("KVM_CREATE_VCPU");
		for (int i = 0; i < 3; i++) {
			v->shared->arg[0] = leaves[i];
			v->shared->arg[1] = reasons[vm->vendor][CPUID];
			command(v, CMD_LEAF_TICKS, CPUID, 20);
			ticks[turn][i] = v->shared->out[0] / 64;
		}
		printf("      %4d vCPUs: CPUID 0 %lu ticks, 0x4FFFFFFF %lu, 0x4FFFFFFD %lu\n", turn ? most : 1, ticks[turn][0], ticks[turn][1], ticks[turn][2]);
	}
	for (int i = 1; i < 3; i++) {
		double each = (double)(ticks[1][i] - ticks[0][i]) / (most - 1);

		expect(each <= 16, "leaf 0x%X takes %.1f ticks more a vCPU, at most 16", leaves[i], each);
	}
	destroy_vm(vm);
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
	struct vm *vm = create_vm(1, CYCLES, false);
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
	vm = create_vm(4, CYCLES, false);
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
	struct vm *other = create_vm(1, CYCLES, false), *silent = create_vm(1, NOTHING, false);

	command(&other->vcpus[0], CMD_NOTHING, IO, 0);
	start(&other->vcpus[0], CMD_CPUID, CPUID, 30011);
	start(&vm->vcpus[1], CMD_CPUID, CPUID, 20011);
	pthread_join(other->vcpus[0].thread, NULL);
	pthread_join(vm->vcpus[1].thread, NULL);
	expect(other->vcpus[0].shared->by_pair == 30011 + 1 && vm->vcpus[1].shared->by_pair == 20011 + 1,
	       "two VMs side by side: %lu CPUIDs in one, %lu in the other", other->vcpus[0].shared->by_pair - 1, vm->vcpus[1].shared->by_pair - 1);
	check_instant(other, 0, 0);
	check_instant(vm, 0, 0);
	/* A module answers all VMs of a process that is allowed. */
	if (!getenv("ALLOWED"))
		check_leaves(silent, false);
	destroy_vm(silent);
	destroy_vm(other);
	destroy_vm(vm);
}

/* The capability: userspace answers. */
static void check_capability(void)
{
	struct vm *vm = create_vm(1, NOTHING, true);
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
	const struct { uint64_t first, count; bool ok; } ranges[] = {
		{ 0xffffff00, 0x100, true }, { 0xffffff00, 0x101, false }, { 0xffffff00, 0x200, false },
		{ 1ull << 32, 1, false }, { 0x4fffff00, ~0ull, false } };
	int other = ioctl(kvm, KVM_CREATE_VM, 0);

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		cap.args[0] = ranges[i].first;
		cap.args[1] = ranges[i].count;
		int e = ioctl(other, KVM_ENABLE_CAP, &cap);

		expect(ranges[i].ok ? !e : e == -1 && errno == EINVAL, "0x%lx leaves from 0x%lx are %s", ranges[i].count,
		       ranges[i].first, ranges[i].ok ? "taken" : "refused");
	}
	close(other);
	expect(ioctl(vm->fd, KVM_CHECK_EXTENSION, CAP_USER_SPACE_CPUID) == 1, "KVM_CHECK_EXTENSION knows it");
	destroy_vm(vm);
}

/* Where the time goes: five counters of the kernel against three clocks that are not the kernel's. */
static void check_time(unsigned int seconds)
{
	struct vm *vm = create_vm(1, CYCLES, false);
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
	uint64_t preempted = preempted_of(&b) - preempted_of(&a);
	uint64_t kernel = DELTA(cycles), guest = DELTA(guest), blocked = DELTA(blocked), user = DELTA(userspace);
	uint64_t exits = DELTA(total);

	printf("      wall %lu ticks (%.1f s), %lu exits: kernel %lu, guest %lu, blocked %lu, preempted %lu, userspace %lu\n",
	       wall, wall / (r[2] * 1000.0), exits, kernel, guest, blocked, preempted, user);
	printf("      %lu KVM_RUNs, %.0f ticks each in the system call's own code\n", v->userspace_exits - runs,
	       (double)(user - userspace) / (v->userspace_exits - runs));
	double sum = 100.0 * (kernel + guest + blocked + preempted + user) / wall - 100;
	double own = 100.0 * (kernel + v->shared->out[0] + blocked + preempted + userspace) / wall - 100;

	expect(sum > -2 && sum < 2, "the kernel's five counters differ by %.3f %% from the VMM's own wall time", sum);
	expect(own > -2 && own < 2, "kernel %lu + the VMM's own time %lu + the guest's own time %lu + halted %lu differ by %.3f %% from it",
	       kernel, userspace, (unsigned long)v->shared->out[0], blocked, own);
	expect(wall >= (uint64_t)r[2] * 10000, "the run took %.1f s of the ground's time", wall / (r[2] * 1000.0));
	check_sums(vm, "mixed work");
	destroy_vm(vm);
}

/* Exits that the fastpath re-enters from. The caller counts independently. */
static void check_deadline(uint64_t n)
{
	struct vm *vm = create_vm(1, CYCLES, false);
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

	for (int turn = 0; turn < 4; turn++) {
		struct vm *vm = create_vm(1, NOTHING, false);
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
	struct vm *vm = create_vm(1, CYCLES, false);
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
	struct vm *vm = create_vm(1, CYCLES, false);
	struct vcpu *v = &vm->vcpus[0];
	struct stats a, b;

	command(v, CMD_NOTHING, IO, 0);
	command(v, CMD_NESTED, CPUID, 10);
	a = stats_of(v);
	command(v, CMD_NESTED, CPUID, n);
	b = stats_of(v);
	uint64_t io = by_reason(vm, &b, IO) - by_reason(vm, &a, IO), cpuids = by_reason(vm, &b, CPUID) - by_reason(vm, &a, CPUID);
	uint64_t interrupts = by_reason(vm, &b, INTERRUPT) - by_reason(vm, &a, INTERRUPT);
	uint64_t vmruns = b.value[layout.reason_exits + slot(vm, 0x80)] - a.value[layout.reason_exits + slot(vm, 0x80)];

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
	struct vm *vm = create_vm(1, CYCLES, false);
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
	struct vm *vm = create_vm(1, CYCLES, false);
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

	struct vm *vm = create_vm(1, NOTHING, false);
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

/* Accounts that the kernel has memory for; -1: its slab allocator does not say. */
static long accounts(void)
{
	char line[256];
	FILE *f = fopen("/proc/slabinfo", "r");
	long n = -1;

	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "kvm_exit_account %*d %ld", &n);
	if (f)
		fclose(f);
	return n;
}

/* Nobody asked: no leaves, no counts, no statistics, no memory. */
static void check_off(void)
{
	struct vm *vm = create_vm(1, NOTHING, false);
	struct stats s;

	command(&vm->vcpus[0], CMD_NOTHING, IO, 0);
	check_leaves(vm, false);
	s = stats_of(&vm->vcpus[0]);
	expect(s.value[layout.kvm_exits] && !layout.nr_slots, "KVM counts %lu exits, and no statistics are there of exit accounting",
	       s.value[layout.kvm_exits]);
	destroy_vm(vm);
	if (accounts() < 0) {
		printf("skip  the memory of accounts: it is not in /proc/slabinfo\n");
		return;
	}
	expect(!accounts(), "nor is there memory for any");
	vm = create_vm(1, COUNTED, false);
	expect(accounts() > 0, "as there is once a VMM asks");
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
	else if (!strcmp(what, "table"))
		check_table();
	else if (!strcmp(what, "knobs"))
		check_knobs();
	else if (!strcmp(what, "debugfs"))
		check_debugfs();
	else if (!strcmp(what, "preempt"))
		check_preempt();
	else if (!strcmp(what, "scale"))
		check_scale(number ? number : 1000);
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
