/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What /dev/vmtally gives to the host's programs: see "The host's side" in README.md.
 *
 * A descriptor from VMTALLY_OPEN_VM reads as a file of one VM: the header, then vcpu_size bytes
 * for each vCPU (struct vmtally_vcpu and after it nr_reasons of struct vmtally_reason), then the
 * histograms. All places and sizes are in the header: a later version may have larger structures,
 * never other meanings. All integers are of the host's byte order, all times are cycles of the
 * host's TSC.
 */
#ifndef VMTALLY_UAPI_H
#define VMTALLY_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define VMTALLY_DATA_MAGIC	0x31796c6c61544d56ULL	/* "VMTally1" */
#define VMTALLY_DATA_VERSION	1

/*
 * The number of a VM, from the list that /dev/vmtally reads as: a descriptor to pread() its data
 * from.
 */
#define VMTALLY_OPEN_VM		_IOW(0xb7, 0x01, __u64)

enum vmtally_time {
	VMTALLY_TIME_KERNEL,		/* from VM exit to VM entry, less all that follows */
	VMTALLY_TIME_GUEST,		/* from VM entry to VM exit */
	VMTALLY_TIME_BLOCKED,		/* in HLT and the like: KVM polls, or the thread sleeps */
	VMTALLY_TIME_PREEMPTED,		/* could run, and another task did */
	VMTALLY_TIME_USERSPACE,		/* outside of KVM_RUN */
	VMTALLY_NR_TIMES,
};

/* vmtally_header.flags */
#define VMTALLY_VM_JOINED_RUNNING	0x1	/* counting began while the VM was running */
#define VMTALLY_VM_GONE			0x2	/* destroyed or not allowed: it is final */
#define VMTALLY_VM_INCOMPLETE		0x4	/* no memory for a vCPU: not counted */

struct vmtally_header {
	__u64 magic;
	__u32 version;
	__u32 header_size;
	__u64 id;		/* of the VM, never used again until the module is unloaded */
	__u32 flags;
	__s32 pid;		/* of its process, in the reader's namespace; 0: not in it */
	__u32 vocabulary;	/* of the codes: 1 VMX basic exit reasons, 2 SVM exit codes */
	__u32 tsc_khz;		/* 0: unknown */
	__u64 tsc;		/* when the header was read */
	__u32 nr_vcpus;
	__u32 nr_reasons;	/* places for them in each vCPU's block */
	__u64 vcpu_offset;	/* of the first vCPU's block */
	__u32 vcpu_size;	/* of a whole block */
	__u32 reason_offset;	/* of the first struct vmtally_reason inside a block */
	__u32 reason_size;
	__u32 nr_histograms;	/* a vCPU's, those of its first reasons */
	/* vCPU V's histogram N is (V * nr_histograms + N) * nr_buckets * 8 bytes further: */
	__u64 histogram_offset;
	__u32 nr_buckets;	/* __u64 each: exits; larger values are in the last */
	__u32 sub_bucket_bits;	/* 2^5 buckets an octave, exact below 2^6 */
	char comm[16];
};

struct vmtally_vcpu {
	__u32 id;		/* as KVM_CREATE_VCPU had it */
	__u32 state;		/* enum vmtally_time; VMTALLY_NR_TIMES: has not run yet */
	__u64 exits;		/* that kvm_exit showed; the sum of the reasons' counts */
	__u64 unseen;		/* that KVM counted and the tracepoint did not show */
	__u64 base;		/* KVM's own count is this and the two above */
	__u64 resets;		/* how often KVM's count was seen to fall */
	__u64 first;		/* TSC when counting began */
	__u64 stamp;		/* TSC of the last change of state: times add up to stamp - first */
	__u64 time[VMTALLY_NR_TIMES];
	__u32 nr_reasons;	/* places in use: the first ones */
	__u32 reserved;
};

struct vmtally_reason {
	__u32 code;
	__u32 reserved;
	__u64 count;
	__u64 cycles;		/* kernel and preempted time: from VM exit to VM entry */
	__u64 min;		/* cycles of one exit; all ones until there is one that has ended */
	__u64 max;
};

#endif
