// SPDX-License-Identifier: GPL-2.0
/*
 * All that runs when a vCPU does.  A vCPU's clock is its account's stamp, and at any time it is in
 * one of five states (enum vmtally_time).  A change of state charges the cycles since the last one
 * to the state that ends; cycles in the kernel, preempted or not, are charged to the last exit's
 * reason, too.
 *
 * Nothing in here sleeps, allocates or locks, but for vmtally_account_add() and _remove(), which
 * take a spinlock.  Nothing in here is traced: the Makefile leaves out the calls.
 */
#include <linux/bitops.h>
#include <linux/hash.h>
#include <linux/nospec.h>
#include <linux/rculist.h>
#include <linux/spinlock.h>

#include "compat.h"
#include "vmtally.h"

#define ACCOUNT_BITS	10

static struct hlist_head accounts[1 << ACCOUNT_BITS];
/* Raw: ftrace's handler, which takes it, may not sleep, not on -rt either. */
static DEFINE_RAW_SPINLOCK(accounts_lock);

struct vmtally_account vmtally_nobody;
struct vmtally_exit_info vmtally_exit_info __read_mostly;
DEFINE_PER_CPU(struct vmtally_cpu, vmtally_cpu);

/* ---- which account ---- */

/* Not by an initializer: a module's per-CPU data is not relocated. */
void __init vmtally_accounts_init(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		per_cpu_ptr(&vmtally_cpu, cpu)->last = &vmtally_nobody;
}

static struct vmtally_account *find_in_table(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *account;

	hlist_for_each_entry_rcu(account, &accounts[hash_ptr(vcpu, ACCOUNT_BITS)], node, true)
		if (READ_ONCE(account->vcpu) == vcpu)
			return account;
	return NULL;
}

/* For those that are called with the vCPU running or about to: remembers what it finds. */
static noinline struct vmtally_account *find_and_remember(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *account = find_in_table(vcpu);

	if (account)
		this_cpu_write(vmtally_cpu.last, account);
	else
		this_cpu_write(vmtally_cpu.ignored, vcpu);
	return account;
}

static __always_inline bool is_ignored(struct kvm_vcpu *vcpu)
{
	return this_cpu_read(vmtally_cpu.ignored) == vcpu;
}

struct vmtally_account *vmtally_find(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *account = this_cpu_read(vmtally_cpu.last);

	return READ_ONCE(account->vcpu) == vcpu ? account : find_in_table(vcpu);
}

void vmtally_account_add(struct vmtally_account *account)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&accounts_lock, flags);
	hlist_add_head_rcu(&account->node, &accounts[hash_ptr(account->vcpu, ACCOUNT_BITS)]);
	raw_spin_unlock_irqrestore(&accounts_lock, flags);
}

/* From now on nobody finds it.  Those who have found it go on using it. */
void vmtally_account_remove(struct vmtally_account *account)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&accounts_lock, flags);
	if (account->vcpu) {
		hlist_del_rcu(&account->node);
		WRITE_ONCE(account->vcpu, NULL);
	}
	raw_spin_unlock_irqrestore(&accounts_lock, flags);
}

void vmtally_forget_ignored(struct kvm_vcpu *vcpu)
{
	int cpu;

	for_each_possible_cpu(cpu)
		cmpxchg(&per_cpu_ptr(&vmtally_cpu, cpu)->ignored, vcpu, NULL);
}

void vmtally_forget_account(struct vmtally_account *account)
{
	int cpu;

	for_each_possible_cpu(cpu)
		cmpxchg(&per_cpu_ptr(&vmtally_cpu, cpu)->last, account, &vmtally_nobody);
}

/* ---- which reason ---- */

static __always_inline u32 exit_code(struct kvm_vcpu *vcpu, u32 vendor)
{
	void *v = vcpu, *vmcb;

	/* The basic reason, without the flags above it. */
	if (likely(vendor == VMTALLY_VMX))
		return *(u16 *)(v + vmtally_exit_info.vmx_reason);
	vmcb = *(void **)(v + vmtally_exit_info.svm_vmcb);
	return *(u32 *)(vmcb + vmtally_exit_info.svm_code);
}

static __always_inline u32 dense_index(u32 code)
{
	if (likely(code < 0x100))
		return code;
	return code - 0x400 < 0x10 ? code - 0x400 + 0x100 : VMTALLY_NR_DENSE;
}

/* The place of a reason that has none by index; makes one if this is its first exit. */
static noinline struct vmtally_place *find_place(struct vmtally_account *account, u32 code)
{
	struct vmtally_place *place;
	u32 index, n = account->nr_reasons, i;

	for (i = 0; i < n; i++)
		if (account->places[i].code == code)
			return &account->places[i];
	if (n == VMTALLY_NR_REASONS)	/* the last is for all that come after it */
		return &account->places[n - 1];
	place = &account->places[n];
	place->code = n == VMTALLY_NR_REASONS - 1 ? ~1u : code;
	place->min = U64_MAX;
	if (n < VMTALLY_NR_HISTOGRAMS)
		place->histogram = account->histograms[n];
	index = dense_index(code);
	if (index < VMTALLY_NR_DENSE)
		WRITE_ONCE(account->place_of[index], place);
	/* Pairs with smp_load_acquire() by readers: the code is there first. */
	smp_store_release(&account->nr_reasons, n + 1);
	return place;
}

/* ---- the clock ---- */

static __always_inline u64 lap(struct vmtally_account *account)
{
	u64 now = rdtsc();
	s64 cycles = now - account->stamp;

	/*
	 * The vCPU may have moved to a CPU whose TSC is behind: the next lap begins where this one
	 * did.
	 */
	if (unlikely(cycles < 0))
		return 0;
	account->stamp = now;
	return cycles;
}

static __always_inline void charge(struct vmtally_account *account)
{
	u64 cycles = lap(account);

	account->time[account->state] += cycles;
	if (account->state == VMTALLY_TIME_KERNEL || account->state == VMTALLY_TIME_PREEMPTED) {
		account->cost += cycles;
		account->reason->cycles += cycles;
	}
}

static __always_inline void change(struct vmtally_account *account, u32 state)
{
	charge(account);
	account->state = state;
}

static void start(struct vmtally_account *account, u32 state)
{
	account->stamp = rdtsc();
	account->first = account->stamp;
	account->state = state;
}

/* ---- KVM's own count ---- */

/*
 * KVM counts exits that its tracepoint does not show (guest state that VMX cannot run, so that KVM
 * emulates; entries that fail; 6.1's fastpath on SVM), and root may set its count to zero.
 */
static noinline void reconcile(struct kvm_vcpu *vcpu, struct vmtally_account *account)
{
	s64 more = vcpu->stat.exits - account->expected;

	account->expected += more;
	if (account->set_expected)
		account->set_expected = false;
	else if (more > 0)
		account->unseen += more;
	else
		account->resets++;
}

/* ---- events ---- */

static __always_inline void ended(struct vmtally_place *place, u64 cost)
{
	u64 *histogram = place->histogram, bucket, shift;

	if (cost < place->min)
		place->min = cost;
	if (cost > place->max)
		place->max = cost;
	if (likely(histogram)) {
		shift = __fls(cost | 32) - VMTALLY_SUB_BUCKET_BITS;
		bucket = (shift << VMTALLY_SUB_BUCKET_BITS) + (cost >> shift);
		if (unlikely(bucket >= VMTALLY_NR_BUCKETS))
			bucket = VMTALLY_NR_BUCKETS - 1;
		histogram[bucket]++;
	}
}

/*
 * The two probes are short where they can be, and go on elsewhere by a jump where they cannot: so
 * they save no register, and the VMs that are not allowed pay for no more than one comparison.
 */

static __always_inline void check_count(struct kvm_vcpu *vcpu, struct vmtally_account *account)
{
	if (unlikely(vcpu->stat.exits != account->expected))
		reconcile(vcpu, account);
}

/*
 * An entry whose exit was not seen, or was before the account, or was not the last thing that
 * happened.
 */
static noinline void odd_entry(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *account = find_and_remember(vcpu);

	if (!account)
		return;
	switch (account->state) {
	case VMTALLY_NOT_STARTED:
		start(account, VMTALLY_TIME_GUEST);
		break;
	case VMTALLY_TIME_GUEST:
		break;
	default:
		charge(account);
		ended(account->reason, account->cost);
		account->state = VMTALLY_TIME_GUEST;
		break;
	}
	check_count(vcpu, account);
}

static noinline void entry(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *account;
	struct vmtally_place *place;
	u64 cycles;

	account = this_cpu_read(vmtally_cpu.last);
	if (unlikely(READ_ONCE(account->vcpu) != vcpu || account->state != VMTALLY_TIME_KERNEL)) {
		odd_entry(vcpu);
		return;
	}
	place = account->reason;
	cycles = lap(account);
	account->time[VMTALLY_TIME_KERNEL] += cycles;
	account->state = VMTALLY_TIME_GUEST;
	place->cycles += cycles;
	ended(place, account->cost + cycles);
	check_count(vcpu, account);
}

void vmtally_probe_entry(void *data, struct kvm_vcpu *vcpu)
{
	if (!is_ignored(vcpu))
		entry(vcpu);
}

static __always_inline void count(struct vmtally_account *account, struct vmtally_place *place)
{
	place->count++;
	account->reason = place;
	account->exits++;
	account->expected++;
	account->cost = 0;
}

static noinline void count_code(struct vmtally_account *account, u32 code)
{
	count(account, find_place(account, code));
}

static void begin_exit(struct vmtally_account *account)
{
	if (account->state == VMTALLY_NOT_STARTED)
		start(account, VMTALLY_TIME_KERNEL);
	else
		change(account, VMTALLY_TIME_KERNEL);
}

static noinline void odd_exit(struct kvm_vcpu *vcpu, u32 isa)
{
	struct vmtally_account *account = find_and_remember(vcpu);

	if (!account)
		return;
	begin_exit(account);
	count_code(account, exit_code(vcpu, isa));
}

static noinline void leave(struct kvm_vcpu *vcpu, u32 isa)
{
	struct vmtally_account *account;
	u32 code, index;

	account = this_cpu_read(vmtally_cpu.last);
	if (unlikely(READ_ONCE(account->vcpu) != vcpu || account->state != VMTALLY_TIME_GUEST)) {
		odd_exit(vcpu, isa);
		return;
	}
	code = exit_code(vcpu, isa);
	account->time[VMTALLY_TIME_GUEST] += lap(account);
	account->state = VMTALLY_TIME_KERNEL;
	index = dense_index(code);
	if (likely(index < VMTALLY_NR_DENSE && account->place_of[index]))
		count(account, account->place_of[index]);
	else
		count_code(account, code);
}

void vmtally_probe_exit(void *data, struct kvm_vcpu *vcpu, u32 isa)
{
	if (!is_ignored(vcpu))
		leave(vcpu, isa);
}

/* KVM_RUN is called. */
void vmtally_run_begins(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *account = vmtally_find(vcpu);

	if (account && account->state == VMTALLY_TIME_USERSPACE)
		change(account, VMTALLY_TIME_KERNEL);
}

void vmtally_block_begins(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *account = vmtally_find(vcpu);

	if (account && account->state == VMTALLY_TIME_KERNEL)
		change(account, VMTALLY_TIME_BLOCKED);
}

void vmtally_block_ends(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *account = vmtally_find(vcpu);

	if (account && account->state == VMTALLY_TIME_BLOCKED)
		change(account, VMTALLY_TIME_KERNEL);
}

/* The thread is back on a CPU.  (Or an ioctl of the vCPU begins: then the state is userspace.) */
void vmtally_loaded(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *account = vmtally_find(vcpu);

	if (account && account->state == VMTALLY_TIME_PREEMPTED)
		change(account, VMTALLY_TIME_KERNEL);
}

/* The thread leaves the CPU, or KVM_RUN or another ioctl of the vCPU ends. */
void vmtally_put(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *account = vmtally_find(vcpu);

	if (!account || account->state == VMTALLY_TIME_USERSPACE)
		return;
	switch (vmtally_why_put(vcpu)) {
	case PUT_USERSPACE:
		/*
		 * Not only at entries: there may be none, where KVM emulates all that the guest
		 * does.
		 */
		if (!account->set_expected)
			check_count(vcpu, account);
		if (account->state != VMTALLY_NOT_STARTED)
			change(account, VMTALLY_TIME_USERSPACE);
		break;
	case PUT_PREEMPTED:
		if (account->state == VMTALLY_TIME_KERNEL)
			change(account, VMTALLY_TIME_PREEMPTED);
		break;
	case PUT_SLEEPS:	/* blocked already, or in the kernel, which may sleep */
		break;
	}
}

/* ---- the guest asks ---- */

/*
 * Does the vendor's manual define it?  A reason that has not happened differs from one that
 * cannot.
 */
static bool is_defined(u32 code)
{
	if (vmtally_exit_info.vendor == VMTALLY_VMX) {
		switch (code) {
		case 35:
		case 38:
		case 42:
		case 71:
		case 82:
		case 83:
			return false;
		default:
			return code <= 85;
		}
	}
	switch (code) {
	case 0 ... 0xa6:
	case 0x400 ... 0x403:
	case 0xf0000000:
	case 0xffffffff:
		return true;
	default:
		return false;
	}
}

static const struct vmtally_place *look_up(const struct vmtally_account *account, u32 code)
{
	u32 index = dense_index(code), n, i;

	if (index < VMTALLY_NR_DENSE) {
		index = array_index_nospec(index, VMTALLY_NR_DENSE);
		return READ_ONCE(account->place_of[index]);
	}
	n = smp_load_acquire(&account->nr_reasons);	/* pairs with find_place() */
	for (i = 0; i < n; i++)
		if (account->places[i].code == code)
			return &account->places[i];
	return NULL;
}

struct sum {
	u64 exits, cycles;
};

static void add_total(struct sum *sum, const struct vmtally_account *account)
{
	sum->exits += READ_ONCE(account->exits) + READ_ONCE(account->unseen);
	sum->cycles += READ_ONCE(account->time[VMTALLY_TIME_KERNEL]) +
		       READ_ONCE(account->time[VMTALLY_TIME_PREEMPTED]);
}

static void add_reason(struct sum *sum, const struct vmtally_account *account, u32 code)
{
	const struct vmtally_place *place = look_up(account, code);

	if (place) {
		sum->exits += READ_ONCE(place->count);
		sum->cycles += READ_ONCE(place->cycles);
	}
}

/* Calls add_total() or add_reason() for each account of a VM. */
static void add_all_of(struct sum *sum, const struct vmtally_vm *vm, bool one_reason, u32 code)
{
	u32 n = smp_load_acquire(&vm->nr_vcpus);	/* pairs with add_vcpu() */
	u32 i;

	for (i = 0; i < n; i++) {
		const struct vmtally_account *account = READ_ONCE(vm->vcpus[i]);

		if (!account)
			continue;
		if (one_reason)
			add_reason(sum, account, code);
		else
			add_total(sum, account);
	}
}

/* The bit of leaf 0x4fffff03 is the VMM's: whether its table has that leaf. */
static u32 page_feature(struct kvm_vcpu *vcpu)
{
	const struct kvm_cpuid_entry2 *e;
	bool ours = false, page = false;
	int i;

	for (i = 0; i < vcpu->arch.cpuid_nent; i++) {
		e = &vcpu->arch.cpuid_entries[i];
		if (e->function == 0x4fffff00)
			ours = e->ebx == 0x61544d56 && e->ecx == 0x45796c6c && e->edx == 0x73746978;
		if (e->function == 0x4fffff01)
			page = e->ebx & BIT(4);
	}
	return ours && page ? BIT(4) : 0;
}

/*
 * Called instead of kvm_cpuid(), or before it if this returns false: see cpuid_stub.S.  The vCPU
 * is the caller's, so its account has no other writer now.
 */
bool vmtally_cpuid(struct kvm_vcpu *vcpu, u32 *eax, u32 *ebx, u32 *ecx, u32 *edx)
{
	struct vmtally_account *account = vmtally_find(vcpu);
	u32 leaf = *eax, code = *ecx;
	struct sum sum = { 0 };
	struct vmtally_vm *vm;

	if (!account || leaf == 0x4fffff03)
		return false;
	vm = account->vm;
	if (account->state == VMTALLY_NOT_STARTED) {	/* allowed after this very exit */
		begin_exit(account);
		count_code(account, exit_code(vcpu, vmtally_exit_info.vendor));
	} else if (!account->set_expected && vcpu->stat.exits != account->expected) {
		reconcile(vcpu, account);
	}

	switch (leaf) {
	case 0x4fffff00:
		*eax = 0x4fffffff;
		*ebx = 0x61544d56;	/* "VMTa" */
		*ecx = 0x45796c6c;	/* "llyE" */
		*edx = 0x73746978;	/* "xits" */
		return true;
	case 0x4fffff01:
		*eax = 2;
		*ebx = 7 | page_feature(vcpu);
		if (READ_ONCE(vm->flags) & VMTALLY_VM_JOINED_RUNNING)
			*ebx |= BIT(3);
		*ecx = tsc_khz;
		*edx = vmtally_exit_info.vendor;
		return true;
	case 0x4fffff02:
		add_total(&sum, account);
		break;
	case 0x4fffffff:
		add_all_of(&sum, vm, false, 0);
		break;
	case 0x4ffffffd:
	case 0x4ffffffe:
		if (!is_defined(code)) {
			*eax = *ebx = *ecx = 0;
			*edx = ~0u;
			return true;
		}
		add_all_of(&sum, vm, true, code);
		if (leaf == 0x4ffffffe)
			sum.cycles = 0;
		break;
	default:
		break;
	}
	*eax = sum.exits;
	*edx = sum.exits >> 32;
	*ecx = sum.cycles;
	*ebx = sum.cycles >> 32;
	return true;
}
