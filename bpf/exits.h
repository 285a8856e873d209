/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What the programs of exits.bpf.c and their reader (Sources/HostView/Collector) share.
 *
 * A vCPU's thread alone writes its slot and its rows, and a thread is on one CPU at a time: so no counter here has two
 * writers, and plain additions lose nothing. Times are ns of CLOCK_MONOTONIC: BPF has no RDTSC before Linux 6.16.
 */
#ifndef VMTALLY_BPF_EXITS_H
#define VMTALLY_BPF_EXITS_H

#include <linux/types.h>

/* Of ExitStats' CycleHistogram the buckets from 128 cycles on; what lies outside falls into the first and last. */
#define VMTALLY_FIRST_BUCKET 96
#define VMTALLY_BUCKETS 1016
/* Places for rows in a slot; a power of two. */
#define VMTALLY_REASONS 128

/* What a row's code means: upper half of its key. */
enum vmtally_class {
	VMTALLY_FREE = 0,
	/* VM exits, by the hardware's code. */
	VMTALLY_VM_EXIT = 1,
	/* VM exits out of a nested guest, likewise. */
	VMTALLY_NESTED_EXIT = 2,
	/* KVM_EXIT_*. */
	VMTALLY_USERSPACE_EXIT = 3,
};

/* One vCPU's exits of one reason: 8 KiB. */
struct vmtally_row {
	__u64 key;
	__u64 count;
	/* Those that ended, and their time: in the kernel, or for userspace exits in userspace. */
	__u64 timed;
	__u64 ns;
	/* ~(shortest), so that zeroed memory is none; and longest. */
	__u64 inverted_minimum;
	__u64 maximum;
	/* Time halted, and in userspace, until the guest was entered again: not in ns. */
	__u64 halted_ns;
	__u64 userspace_ns;
#ifdef __bpf__ /* Swift makes tuples of arrays: the reader takes what follows the fixed part */
	__u64 buckets[VMTALLY_BUCKETS];
#endif
};

struct vmtally_place {
	__u64 key;
	__u32 row;
	__u32 unused;
};

/* One vCPU. */
struct vmtally_slot {
	/* As bpf_get_current_pid_tgid() gives it; 0 when the thread has ended. */
	__u64 owner;
	/* Addresses of struct kvm_vcpu and struct kvm; 0 where no event tells them (kvm_pvm). */
	__u64 vcpu;
	__u64 kvm;
	/* What is in use while no nested guest runs. */
	__u64 l1_state;
	/* When the thread started, ns since boot; with owner it names the thread for good. */
	__u64 thread_started;
	__u64 last_owner;
	__s32 vcpu_id;
	/* Of the vCPUs that this thread runs, the one that it ran last. */
	__u32 current;
	/* The thread's other vCPU before this one, plus 1. */
	__u32 previous;
	__u32 used;
	/* VM exits and userspace exits, with or without a row. */
	__u64 exits;
	__u64 nested_exits;
	__u64 userspace_exits;
	__u64 guest_ns;
	/* Entries at the reset vector, of vCPU 0, but for its first. */
	__u64 resets;
	/* Since the last VM exit. */
	__u64 exited_at;
	__u64 halted_ns;
	__u64 userspace_ns;
	/* When the guest was last entered. */
	__u64 entered_at;
	/* When KVM_RUN last returned, and began again after that. */
	__u64 returned_at;
	__u64 resumed_at;
	/* Rows of these two exits. */
	__u32 exit_row;
	__u32 return_row;
	/* The process's name. */
	char comm[16];
#ifdef __bpf__
	struct vmtally_place places[VMTALLY_REASONS];
#endif
};

/* A CPU's own cache line. */
struct vmtally_cpu {
	/* Slot of the vCPU that ran here last. */
	__u32 slot;
	__u32 unused;
	/* Events of vCPUs that found no slot. */
	__u64 lost;
	/* Exits that are in a slot and found no row. */
	__u64 without_row;
	__u64 padding[5]; /* the cache line */
};

/* Set before loading. Offsets of 0xFFFFFFFF: there is no such member. */
struct vmtally_config {
	/* TSC cycles in a ns, times 2^20. */
	__u64 cycles_per_ns;
	/* VMX: exit_reason in vcpu_vmx. SVM: none. */
	__u32 reason_offset;
	/* SVM: exit_code in struct vmcb. VMX: none. */
	__u32 reason_offset_vmcb;
	/* loaded_vmcs in vcpu_vmx or vmcb in vcpu_svm: what is in use; vmcs01 or vmcb01: that of L1. */
	__u32 state_offset;
	__u32 state01_offset;
	/* vcpu_id and kvm in kvm_vcpu. */
	__u32 id_offset;
	__u32 kvm_offset;
	/* The guest's RIP as userspace left it, and the bits of what it has written, likewise. */
	__u32 rip_offset;
	__u32 dirty_offset;
	/* The one process whose VMs are counted; 0: all. */
	__u32 only_tgid;
	/* Count processes in `targets` and what they fork. */
	__u32 follows_targets;
};

/* Likewise, of rips.bpf.c: offsets in the record of kvm_exit. */
struct vmtally_rip_config {
	__u32 reason_field;
	__u32 rip_field;
	__u32 only_tgid;
};

/* Exits by the guest's RIP. */
struct vmtally_rip_key {
	__u64 rip;
	__u32 tgid;
	__u32 code;
};

#endif
