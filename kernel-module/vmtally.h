/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of the module share. */
#ifndef VMTALLY_H
#define VMTALLY_H

#include <linux/kref.h>
#include <linux/kvm_host.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/seq_file.h>

#include "vmtally_uapi.h"

#define VMTALLY_LEAF_BASE	0x4fffff00u

/*
 * KVM's own numbers for the vendors, as its tracepoints have them, and ours for the vocabularies.
 */
#define VMTALLY_VMX		1
#define VMTALLY_SVM		2

/*
 * A place for each reason that a vCPU had, in the order of their first exits.  More places than
 * either vendor has reasons, and a few for those that are yet to be invented.  Histograms are
 * large, so only as many as a vCPU is likely to need: 370 KiB.
 */
#define VMTALLY_NR_REASONS	192
#define VMTALLY_NR_HISTOGRAMS	40
#define VMTALLY_SUB_BUCKET_BITS	5
#define VMTALLY_NR_BUCKETS	(64 + 35 * 32)

/* Codes that find their place by an index: 0 to 0xff and 0x400 to 0x40f. */
#define VMTALLY_NR_DENSE	0x110

typedef u64 vmtally_histogram_t[VMTALLY_NR_BUCKETS];

/* vmtally_account.state, beside enum vmtally_time */
#define VMTALLY_NOT_STARTED	VMTALLY_NR_TIMES

/*
 * What a vCPU had for one reason: struct vmtally_reason, and where its histogram is, if it has
 * one.
 */
struct vmtally_place {
	u32 code;
	u64 count, cycles, min, max;
	u64 *histogram;
};

/*
 * A vCPU's account.  Its only writer is the task that runs the vCPU; readers may be anywhere, and
 * get each counter whole.  Whoever finds one by way of vmtally_find() may use it until it sleeps
 * or returns to userspace: it is freed after a grace period of RCU tasks.
 */
struct vmtally_account {
	struct kvm_vcpu *vcpu;		/* whose; NULL once it is nobody's any more */
	u64 stamp;			/* TSC of the last change of state */
	u64 expected;			/* what KVM's own count of exits should be */
	struct vmtally_place *reason;	/* of the last exit, never NULL */
	u64 cost;			/* cycles of the exit in progress */
	u64 exits, unseen;
	u32 state;
	u32 nr_reasons;
	u64 time[VMTALLY_NR_TIMES];
	vmtally_histogram_t *histograms;

	bool set_expected;		/* from KVM's count, at the next entry */
	u64 resets, first;
	struct vmtally_place *place_of[VMTALLY_NR_DENSE];
	struct vmtally_place places[VMTALLY_NR_REASONS];
	struct vmtally_place none;	/* for time in the kernel before the first exit */

	struct vmtally_vm *vm;
	struct hlist_node node;		/* in vmtally_accounts */
	u32 id;
};

/* A VM that root allowed.  Not KVM's: that one may go while this is read. */
struct vmtally_vm {
	struct kref ref;
	struct list_head node;		/* in vmtally_vms */
	struct llist_node reap;
	struct kvm *kvm;		/* to compare with, never to look into */
	struct mm_struct *mm;
	struct pid *pid;
	u64 id;
	u32 flags;
	u32 nr_vcpus, nr_alive;
	u32 vocabulary;
	char comm[16];
	struct vmtally_account **vcpus;
};

struct vmtally_cpu {
	struct vmtally_account *last;	/* the account last used on this CPU, never NULL */
	struct kvm_vcpu *ignored;	/* the vCPU last found to have none */
};

DECLARE_PER_CPU(struct vmtally_cpu, vmtally_cpu);

/* How to find an exit's reason; vendor is 0 until it is known. */
struct vmtally_exit_info {
	u32 vendor;
	u32 vmx_reason;			/* offset of the exit reason in struct vcpu_vmx */
	u32 svm_vmcb;			/* of the VMCB's address in struct vcpu_svm */
	u32 svm_code;			/* of the code in the VMCB */
};

extern struct vmtally_exit_info vmtally_exit_info;

/* account.c: all that runs when a vCPU does */
extern struct vmtally_account vmtally_nobody;
void vmtally_accounts_init(void);
struct vmtally_account *vmtally_find(struct kvm_vcpu *vcpu);
void vmtally_account_add(struct vmtally_account *account);
void vmtally_account_remove(struct vmtally_account *account);
void vmtally_forget_ignored(struct kvm_vcpu *vcpu);
void vmtally_forget_account(struct vmtally_account *account);

void vmtally_probe_entry(void *data, struct kvm_vcpu *vcpu);
void vmtally_probe_exit(void *data, struct kvm_vcpu *vcpu, u32 isa);
void vmtally_run_begins(struct kvm_vcpu *vcpu);
void vmtally_block_begins(struct kvm_vcpu *vcpu);
void vmtally_block_ends(struct kvm_vcpu *vcpu);
void vmtally_loaded(struct kvm_vcpu *vcpu);
void vmtally_put(struct kvm_vcpu *vcpu);
void vmtally_cpuid_stub(void);
void vmtally_created_stub(void);
bool vmtally_cpuid(struct kvm_vcpu *vcpu, u32 *eax, u32 *ebx, u32 *ecx, u32 *edx);

/* vms.c: who is allowed */
extern struct mutex vmtally_lock;	/* rules, and the list of VMs */
extern struct list_head vmtally_vms;
int vmtally_allow_pid(pid_t nr);
int vmtally_allow_all(void);
int vmtally_allow_name(const char *name);
int vmtally_disallow_pid(pid_t nr);
int vmtally_disallow_name(const char *name);
void vmtally_allow_none(void);
void vmtally_vcpu_created(struct kvm_vcpu *vcpu);
void vmtally_vcpu_destroyed(struct kvm_vcpu *vcpu);
void vmtally_vm_put(struct vmtally_vm *vm);
void vmtally_show_rules(struct seq_file *m);
void vmtally_vms_exit(void);

/* hooks.c: what the module hooks into, and how it makes sure of it */
int vmtally_hooks_init(void);
void vmtally_hooks_exit(void);
int vmtally_hooks_on(void);
void vmtally_hooks_off(void);
int vmtally_know_vendor(void);
bool vmtally_file_is_vm(struct file *file);

/* btf.c */
struct vmtally_btf;
struct vmtally_btf *vmtally_btf_open(const char *module);
void vmtally_btf_close(struct vmtally_btf *btf);
int vmtally_btf_offset(struct vmtally_btf *btf, const char *structure, const char *path);
int vmtally_btf_check_function(struct vmtally_btf *btf, const char *name, const char *proto);

/* device.c */
int vmtally_device_init(void);
void vmtally_device_exit(void);

#endif
