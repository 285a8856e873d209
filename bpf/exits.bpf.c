// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Counts and times the exits of every VM of this host, by vCPU and reason.
 *
 * Raw tracepoints, which a process with CAP_BPF and CAP_PERFMON may use. They bring a struct kvm_vcpu and not the
 * reason, which is read where KVM's own get_exit_info reads it. Structures of KVM's modules are not in the kernel's BTF,
 * and modules' BTF by id takes CAP_SYS_ADMIN: so their offsets are found by the loader, from /sys/kernel/btf.
 *
 * kvm_entry and kvm_exit bound the guest's time; kvm_userspace_exit and kvm_fpu(load), the first thing that KVM_RUN does
 * with the vCPU, bound userspace's; kvm_vcpu_wakeup tells how long a halt took, polling included.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <stdbool.h>
#include "exits.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct vmtally_config config;

#define NONE 0xFFFFFFFF

struct task_struct {
	__u64 start_time;
	int tgid;
	struct task_struct *group_leader;
	char comm[16];
} __attribute__((preserve_access_index));

struct thread_vcpu {
	__u64 thread;
	/* 0: the slot of the thread's current vCPU. */
	__u64 vcpu;
};

/* Sizes are the loader's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vmtally_slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vmtally_row);
} rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vmtally_cpu);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, __u32);
} free_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, __u32);
} free_rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct thread_vcpu);
	__type(value, __u32);
} by_thread SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} targets SEC(".maps");

static __always_inline struct vmtally_cpu *this_cpu(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&cpus, &cpu);
}

static __always_inline void lose(void)
{
	struct vmtally_cpu *cpu = this_cpu();

	if (cpu)
		cpu->lost++;
}

static __always_inline bool is_wanted(__u64 thread)
{
	__u32 tgid = thread >> 32;

	if (config.only_tgid)
		return tgid == config.only_tgid;
	return !config.follows_targets || bpf_map_lookup_elem(&targets, &tgid);
}

/* Makes slot `number` the one that events without a vCPU belong to. */
static __always_inline void make_current(struct vmtally_slot *slot, __u32 number, __u64 thread)
{
	struct thread_vcpu key = {.thread = thread};
	__u32 *last = bpf_map_lookup_elem(&by_thread, &key);

	if (last && *last != number) {
		struct vmtally_slot *other = bpf_map_lookup_elem(&slots, last);

		if (other)
			other->current = 0;
	}
	if ((!last || *last != number) && bpf_map_update_elem(&by_thread, &key, &number, BPF_ANY))
		lose();
	slot->current = 1;
}

/* The slot of a vCPU that did not run on this CPU last. */
static __noinline struct vmtally_slot *find_slowly(__u64 thread, __u64 vcpu, struct vmtally_cpu *cpu, bool create)
{
	struct thread_vcpu key = {.thread = thread, .vcpu = vcpu};
	struct vmtally_slot *slot;
	struct task_struct *task;
	__u32 *found, number, previous = 0;

	if (!is_wanted(thread))
		return NULL;
	found = bpf_map_lookup_elem(&by_thread, &key);
	if (found) {
		number = *found;
		slot = bpf_map_lookup_elem(&slots, &number);
		if (!slot)
			return NULL;
		if (vcpu && !slot->current)
			make_current(slot, number, thread);
		cpu->slot = number;
		return slot;
	}
	if (!create)
		return NULL;
	if (vcpu) {
		struct thread_vcpu any = {.thread = thread};

		found = bpf_map_lookup_elem(&by_thread, &any);
		if (found) {
			number = *found;
			slot = bpf_map_lookup_elem(&slots, &number);
			if (slot && !slot->vcpu) /* known from a userspace exit alone */
				goto bind;
			previous = number + 1;
		}
	}
	if (bpf_map_pop_elem(&free_slots, &number)) {
		cpu->lost++;
		return NULL;
	}
	slot = bpf_map_lookup_elem(&slots, &number);
	if (!slot)
		return NULL;
	slot->previous = previous;
	slot->vcpu_id = -1;
	slot->last_owner = thread;
	task = (struct task_struct *)bpf_get_current_task();
	slot->thread_started = BPF_CORE_READ(task, start_time);
	BPF_CORE_READ_INTO(&slot->comm, task, group_leader, comm);
	slot->owner = thread;
	slot->used = 1;
bind:
	if (vcpu) {
		slot->vcpu = vcpu;
		bpf_probe_read_kernel(&slot->vcpu_id, sizeof(slot->vcpu_id), (void *)(vcpu + config.id_offset));
		bpf_probe_read_kernel(&slot->kvm, sizeof(slot->kvm), (void *)(vcpu + config.kvm_offset));
		/* VMX: the address of vmcs01 itself. SVM: what vmcb01 points to. */
		slot->l1_state = vcpu + config.state01_offset;
		if (config.reason_offset_vmcb != NONE)
			bpf_probe_read_kernel(&slot->l1_state, sizeof(slot->l1_state), (void *)slot->l1_state);
		if (bpf_map_update_elem(&by_thread, &key, &number, BPF_ANY))
			cpu->lost++;
	}
	make_current(slot, number, thread);
	cpu->slot = number;
	return slot;
}

static __always_inline struct vmtally_slot *find(__u64 vcpu, struct vmtally_cpu **on, bool create)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct vmtally_cpu *cpu;
	struct vmtally_slot *slot;

	/* Or the compiler stores a register that nothing has set, which a verifier refuses. */
	*on = NULL;
	if (config.only_tgid && thread >> 32 != config.only_tgid)
		return NULL;
	cpu = this_cpu();
	if (!cpu)
		return NULL;
	*on = cpu;
	slot = bpf_map_lookup_elem(&slots, &cpu->slot);
	if (slot && slot->owner == thread && (vcpu ? slot->vcpu == vcpu : slot->current))
		return slot;
	return find_slowly(thread, vcpu, cpu, create);
}

/* The number of the row that counts this; NONE when there is none left. */
static __always_inline __u32 row_number(struct vmtally_slot *slot, __u32 class, __u32 code, struct vmtally_cpu *cpu)
{
	__u64 key = (__u64)class << 32 | code;
	__u32 place = code ^ code >> 4 ^ class << 6;
	__u32 number;

	for (int i = 0; i < 8; i++, place++) {
		struct vmtally_place *at = &slot->places[place & (VMTALLY_REASONS - 1)];

		if (at->key == key)
			return at->row;
		if (at->key == 0) {
			struct vmtally_row *row;

			if (bpf_map_pop_elem(&free_rows, &number))
				break;
			row = bpf_map_lookup_elem(&rows, &number);
			if (!row)
				break;
			row->key = key;
			at->row = number;
			at->key = key;
			return number;
		}
	}
	cpu->without_row++;
	return NONE;
}

/* CycleHistogram.bucket(of:), less the first of ours. */
static __always_inline __u32 bucket(__u64 ns)
{
	__u64 cycles = ns > 1ull << 40 ? ~0ull >> 1 : ns * config.cycles_per_ns >> 20;
	__u64 value = cycles | 32;
	__u32 shift = 0, index;

	if (value >> 37)
		return VMTALLY_BUCKETS - 1;
	if (value >> 22) { value >>= 16; shift += 16; }
	if (value >> 14) { value >>= 8; shift += 8; }
	if (value >> 10) { value >>= 4; shift += 4; }
	if (value >> 8) { value >>= 2; shift += 2; }
	if (value >> 7) { value >>= 1; shift += 1; }
	if (value >> 6) { value >>= 1; shift += 1; }
	index = (shift << 5) + (__u32)(cycles >> shift);
	if (index < VMTALLY_FIRST_BUCKET)
		return 0;
	index -= VMTALLY_FIRST_BUCKET;
	return index < VMTALLY_BUCKETS ? index : VMTALLY_BUCKETS - 1;
}

static __always_inline void add_time(struct vmtally_row *row, __u64 ns)
{
	__u32 index = bucket(ns);

	row->timed++;
	row->ns += ns;
	if (~ns > row->inverted_minimum)
		row->inverted_minimum = ~ns;
	if (ns > row->maximum)
		row->maximum = ns;
	if (index < VMTALLY_BUCKETS)
		row->buckets[index]++;
}

/* Userspace has had the vCPU from returned_at until KVM_RUN began again: by now at the latest. */
static __always_inline void end_return(struct vmtally_slot *slot, __u64 now)
{
	__u64 end = slot->resumed_at ? slot->resumed_at : now;
	struct vmtally_row *row = bpf_map_lookup_elem(&rows, &slot->return_row);

	if (row && slot->return_row != NONE)
		add_time(row, end - slot->returned_at);
	slot->userspace_ns += end - slot->returned_at;
	slot->returned_at = 0;
	slot->resumed_at = 0;
}

/*
 * Userspace has put the vCPU to the reset vector (SDM vol. 3A 11.1.4): bit 16 is VCPU_REGS_RIP. Only a vCPU that comes from
 * userspace is asked, so that the others do not pay for it.
 */
static __always_inline bool is_reset(__u64 vcpu)
{
	__u64 rip = 0;
	__u32 dirty = 0;

	if (config.rip_offset == NONE)
		return false;
	bpf_probe_read_kernel(&rip, sizeof(rip), (void *)(vcpu + config.rip_offset));
	if (rip != 0xFFF0)
		return false;
	bpf_probe_read_kernel(&dirty, sizeof(dirty), (void *)(vcpu + config.dirty_offset));
	return dirty & 1 << 16;
}

SEC("raw_tp/kvm_exit")
int on_exit(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 vcpu = ctx->args[0], state = 0;
	struct vmtally_cpu *cpu;
	struct vmtally_slot *slot = find(vcpu, &cpu, true);
	struct vmtally_row *row;
	__u32 code = 0, class = VMTALLY_VM_EXIT;

	if (!slot)
		return 0;
	if (config.reason_offset_vmcb == NONE) {
		bpf_probe_read_kernel(&code, sizeof(code), (void *)(vcpu + config.reason_offset));
		bpf_probe_read_kernel(&state, sizeof(state), (void *)(vcpu + config.state_offset));
	} else {
		bpf_probe_read_kernel(&state, sizeof(state), (void *)(vcpu + config.state_offset));
		bpf_probe_read_kernel(&code, sizeof(code), (void *)(state + config.reason_offset_vmcb));
	}
	if (state != slot->l1_state) {
		class = VMTALLY_NESTED_EXIT;
		slot->nested_exits++;
	}
	slot->exits++;
	if (slot->entered_at)
		slot->guest_ns += now - slot->entered_at;
	slot->entered_at = 0;
	slot->exited_at = now;
	slot->halted_ns = 0;
	slot->userspace_ns = 0;
	slot->exit_row = row_number(slot, class, code, cpu);
	row = bpf_map_lookup_elem(&rows, &slot->exit_row);
	if (row)
		row->count++;
	return 0;
}

SEC("raw_tp/kvm_entry")
int on_entry(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 now = bpf_ktime_get_ns();
	struct vmtally_cpu *cpu;
	struct vmtally_slot *slot = find(ctx->args[0], &cpu, true);

	if (!slot)
		return 0;
	if (slot->returned_at) {
		end_return(slot, now);
		if (!slot->vcpu_id && slot->exits && is_reset(ctx->args[0]))
			slot->resets++;
	}
	if (slot->exited_at) {
		struct vmtally_row *row = bpf_map_lookup_elem(&rows, &slot->exit_row);
		__u64 away = slot->halted_ns + slot->userspace_ns, all = now - slot->exited_at;

		if (row) {
			row->halted_ns += slot->halted_ns;
			row->userspace_ns += slot->userspace_ns;
			add_time(row, all > away ? all - away : 0);
		}
		slot->exited_at = 0;
	}
	slot->entered_at = now;
	return 0;
}

SEC("raw_tp/kvm_userspace_exit")
int on_return(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 now = bpf_ktime_get_ns();
	struct vmtally_cpu *cpu;
	struct vmtally_slot *slot = find(0, &cpu, true);
	struct vmtally_row *row;
	/* An error of KVM_RUN, EINTR as a rule, leaves exit_reason as it was: KVM_EXIT_INTR. */
	__u32 code = (int)ctx->args[1] < 0 ? 10 : (__u32)ctx->args[0];

	if (!slot)
		return 0;
	if (slot->returned_at)
		end_return(slot, now);
	slot->userspace_exits++;
	slot->returned_at = now;
	slot->resumed_at = 0;
	slot->return_row = row_number(slot, VMTALLY_USERSPACE_EXIT, code, cpu);
	row = bpf_map_lookup_elem(&rows, &slot->return_row);
	if (row)
		row->count++;
	return 0;
}

SEC("raw_tp/kvm_fpu")
int on_fpu(struct bpf_raw_tracepoint_args *ctx)
{
	struct vmtally_cpu *cpu;
	struct vmtally_slot *slot;

	if (!(int)ctx->args[0])
		return 0;
	slot = find(0, &cpu, false);
	if (slot && slot->returned_at)
		slot->resumed_at = bpf_ktime_get_ns();
	return 0;
}

SEC("raw_tp/kvm_vcpu_wakeup")
int on_wakeup(struct bpf_raw_tracepoint_args *ctx)
{
	struct vmtally_cpu *cpu;
	struct vmtally_slot *slot = find(0, &cpu, false);

	if (slot)
		slot->halted_ns += ctx->args[0];
	return 0;
}

/* A thread's number may be given to another: its slots are its own no more. */
SEC("raw_tp/sched_process_exit")
int on_thread_end(struct bpf_raw_tracepoint_args *ctx)
{
	struct thread_vcpu key = {.thread = bpf_get_current_pid_tgid()};
	__u32 *found = bpf_map_lookup_elem(&by_thread, &key);
	__u32 number;

	if (!found)
		return 0;
	number = *found;
	bpf_map_delete_elem(&by_thread, &key);
	for (int i = 0; i < 64; i++) {
		struct vmtally_slot *slot = bpf_map_lookup_elem(&slots, &number);

		if (!slot)
			break;
		key.vcpu = slot->vcpu;
		if (key.vcpu)
			bpf_map_delete_elem(&by_thread, &key);
		number = slot->previous - 1;
		slot->current = 0;
		slot->owner = 0;
	}
	return 0;
}

SEC("raw_tp/sched_process_fork")
int on_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *child = (struct task_struct *)ctx->args[1];
	__u32 parent = bpf_get_current_pid_tgid() >> 32, tgid, one = 1;

	if (!bpf_map_lookup_elem(&targets, &parent))
		return 0;
	tgid = BPF_CORE_READ(child, tgid);
	if (tgid != parent && bpf_map_update_elem(&targets, &tgid, &one, BPF_ANY))
		lose();
	return 0;
}
