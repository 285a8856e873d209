// SPDX-License-Identifier: GPL-2.0
/*
 * What the module hooks into, and how it makes sure that it is what it takes it for.
 *
 * Hooks are there only while root allows something: two tracepoints, two functions by ftrace's
 * direct calls and a few by an ordinary handler of ftrace.  All of ftrace's are PERMANENT:
 * kernel.ftrace_enabled=0 is refused beside them, and they beside it, so that no answer goes
 * missing in silence.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/static_call.h>
#include <linux/tracepoint.h>

#include <asm/svm.h>

#include "compat.h"
#include "vmtally.h"

/*
 * KVM exports these two; that modpost links them pins kvm.ko, all of whose code may be hooked
 * then.
 */
extern struct tracepoint __tracepoint_kvm_entry, __tracepoint_kvm_exit;

/* Not exported everywhere, and called directly: its address may be behind ENDBR or sealed. */
DEFINE_STATIC_CALL_NULL(vmtally_file_is_kvm, file_is_kvm);

enum {
	CPUID,
	CREATED,
	DESTROYED,
	RUN,
	LOAD,
	PUT,
	HALT,
	BLOCK,
	ACCEPT,
	IS_VM,
	NR_FUNCTIONS
};

static struct {
	const char *name;
	const char *proto;	/* as vmtally_btf_check_function() spells it */
	unsigned long address;
} functions[NR_FUNCTIONS] = {
	[CPUID] = { "kvm_cpuid", "bool(kvm_vcpu*,u32*,u32*,u32*,u32*,bool)" },
	[CREATED] = { "kvm_arch_vcpu_postcreate", "void(kvm_vcpu*)" },
	[DESTROYED] = { "kvm_arch_vcpu_destroy", "void(kvm_vcpu*)" },
	[RUN] = { "kvm_arch_vcpu_ioctl_run", "int(kvm_vcpu*)" },
	[LOAD] = { "kvm_arch_vcpu_load", "void(kvm_vcpu*,int)" },
	[PUT] = { "kvm_arch_vcpu_put", "void(kvm_vcpu*)" },
	[HALT] = { "kvm_vcpu_halt", "void(kvm_vcpu*)" },
	[BLOCK] = { "kvm_vcpu_block", "bool(kvm_vcpu*)" },
	[ACCEPT] = { "kvm_apic_accept_events", "int(kvm_vcpu*)" },
	[IS_VM] = { "file_is_kvm", "bool(file*)" },
};

#define FIELD(structure, member) { #structure, #member, offsetof(struct structure, member) }

/* All that the module reads of KVM's, where the headers that it was built with have it. */
static const struct {
	const char *structure, *member;
	int offset;
} fields[] = {
	FIELD(kvm_vcpu, kvm),
	FIELD(kvm_vcpu, vcpu_id),
	FIELD(kvm_vcpu, vcpu_idx),
	FIELD(kvm_vcpu, preempted),
	FIELD(kvm_vcpu, arch.cpuid_nent),
	FIELD(kvm_vcpu, arch.cpuid_entries),
	FIELD(kvm_vcpu, stat.exits),
	FIELD(kvm, mm),
	FIELD(kvm, vcpu_array),
	FIELD(kvm, online_vcpus),
};

bool vmtally_file_is_vm(struct file *file)
{
	return static_call(vmtally_file_is_kvm)(file);
}

/* ---- before anything is hooked ---- */

/* A kprobe that is never armed: it is the exported way to an address. */
static int find_function(const char *name, unsigned long *address)
{
	static struct kprobe probe;
	char symbol[64];
	int r;

	snprintf(symbol, sizeof(symbol), "kvm:%s", name);
	memset(&probe, 0, sizeof(probe));
	probe.symbol_name = symbol;
	probe.flags = KPROBE_FLAG_DISABLED;
	r = register_kprobe(&probe);
	if (r) {
		pr_err("kvm has no function %s that can be hooked (%d): this kernel is not supported\n",
		       name, r);
		return r;
	}
	*address = (unsigned long)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

static int check_kvm(void)
{
	struct vmtally_btf *btf = vmtally_btf_open("kvm");
	int i, r = 0;

	if (IS_ERR(btf)) {
		pr_err("cannot read the types of kvm in /sys/kernel/btf (%ld): without them nothing is hooked\n",
		       PTR_ERR(btf));
		return PTR_ERR(btf);
	}
	for (i = 0; i < NR_FUNCTIONS && !r; i++) {
		r = vmtally_btf_check_function(btf, functions[i].name, functions[i].proto);
		if (r)
			pr_err("kvm's %s is not %s (%d): this kernel is not supported\n",
			       functions[i].name, functions[i].proto, r);
		else
			r = find_function(functions[i].name, &functions[i].address);
	}
	for (i = 0; i < ARRAY_SIZE(fields) && !r; i++) {
		int offset = vmtally_btf_offset(btf, fields[i].structure, fields[i].member);

		if (offset != fields[i].offset) {
			pr_err("struct %s has %s at %d, and %d was expected: built with the headers of another kernel\n",
			       fields[i].structure, fields[i].member, offset, fields[i].offset);
			r = -ENOEXEC;
		}
	}
	vmtally_btf_close(btf);
	return r;
}

static int check_vendor(const char *module, struct vmtally_exit_info *info)
{
	struct vmtally_btf *btf = vmtally_btf_open(module);
	int r = -ENOEXEC, offset;

	if (IS_ERR(btf))
		return PTR_ERR(btf);
	if (!strcmp(module, "kvm_intel")) {
		info->vendor = VMTALLY_VMX;
		offset = vmtally_btf_offset(btf, "vcpu_vmx", "exit_reason");
		if (offset < 0)
			offset = vmtally_btf_offset(btf, "vcpu_vmx", "vt.exit_reason");
		info->vmx_reason = offset;
		if (offset > 0 && !vmtally_btf_offset(btf, "vcpu_vmx", "vcpu"))
			r = 0;
	} else {
		info->vendor = VMTALLY_SVM;
		offset = vmtally_btf_offset(btf, "vcpu_svm", "vmcb");
		info->svm_vmcb = offset;
		/* The processor's own. */
		info->svm_code = offsetof(struct vmcb, control.exit_code);
		if (offset > 0 && !vmtally_btf_offset(btf, "vcpu_svm", "vcpu"))
			r = 0;
	}
	vmtally_btf_close(btf);
	if (r)
		pr_err("%s keeps its exit reasons where they are not expected: this kernel is not supported\n",
		       module);
	return r;
}

/* Only one vendor's module can be loaded.  It may come after this one, and go before. */
int vmtally_know_vendor(void)
{
	struct vmtally_exit_info info = { 0 };
	int r;

	if (vmtally_exit_info.vendor)
		return 0;
	r = check_vendor("kvm_intel", &info);
	if (r == -ENOENT)
		r = check_vendor("kvm_amd", &info);
	if (!r)
		vmtally_exit_info = info;
	return r;
}

static int vendor_goes(struct notifier_block *block, unsigned long event, void *data)
{
	const struct module *module = data;

	/* All of its VMs are gone: they held it. */
	if (event == MODULE_STATE_GOING &&
	    (!strcmp(module->name, "kvm_intel") || !strcmp(module->name, "kvm_amd")))
		vmtally_exit_info.vendor = 0;
	return NOTIFY_OK;
}

static struct notifier_block vendor_notifier = { .notifier_call = vendor_goes };

/* ---- hooks ---- */

static void at_function(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
			struct ftrace_regs *fregs)
{
	struct kvm_vcpu *vcpu = vmtally_first_argument(fregs);

	/* ftrace's ip is that of its call, a few bytes into the function. */
	if (ip - functions[LOAD].address < 16)
		vmtally_loaded(vcpu);
	else if (ip - functions[PUT].address < 16)
		vmtally_put(vcpu);
	else if (ip - functions[RUN].address < 16)
		vmtally_run_begins(vcpu);
	else if (ip - functions[ACCEPT].address < 16)
		vmtally_block_ends(vcpu);
	else if (ip - functions[HALT].address < 16 || ip - functions[BLOCK].address < 16)
		vmtally_block_begins(vcpu);
	else if (ip - functions[DESTROYED].address < 16)
		vmtally_vcpu_destroyed(vcpu);
}

static struct ftrace_ops handler_ops = { .func = at_function, .flags = FTRACE_OPS_FL_PERMANENT };
static struct ftrace_ops cpuid_ops = { .flags = FTRACE_OPS_FL_PERMANENT };
static struct ftrace_ops created_ops = { .flags = FTRACE_OPS_FL_PERMANENT };
static bool hooked;

static const int handled[] = { DESTROYED, RUN, LOAD, PUT, HALT, BLOCK, ACCEPT };

/* ftrace does not clear what it has set when it refuses, and refuses what is set. */
static int register_direct(struct ftrace_ops *ops, unsigned long stub)
{
	int r = vmtally_register_direct(ops, stub);

	if (r) {
		ops->func = NULL;
		ops->trampoline = 0;
	}
	return r;
}

/*
 * The order matters: what ends a state or an account first.  -EBUSY is ftrace's for a function
 * that a livepatch or a BPF trampoline has, and for kernel.ftrace_enabled=0.
 */
int vmtally_hooks_on(void)
{
	int r;

	if (hooked)
		return 0;
	r = register_ftrace_function(&handler_ops);
	if (r)
		goto out;
	r = register_direct(&created_ops, (unsigned long)vmtally_created_stub);
	if (r)
		goto no_created;
	r = register_direct(&cpuid_ops, (unsigned long)vmtally_cpuid_stub);
	if (r)
		goto no_cpuid;
	r = tracepoint_probe_register(&__tracepoint_kvm_entry, vmtally_probe_entry, NULL);
	if (r)
		goto no_entry;
	r = tracepoint_probe_register(&__tracepoint_kvm_exit, vmtally_probe_exit, NULL);
	if (r)
		goto no_exit;
	hooked = true;
	return 0;

no_exit:
	tracepoint_probe_unregister(&__tracepoint_kvm_entry, vmtally_probe_entry, NULL);
	tracepoint_synchronize_unregister();
no_entry:
	vmtally_unregister_direct(&cpuid_ops, (unsigned long)vmtally_cpuid_stub);
no_cpuid:
	vmtally_unregister_direct(&created_ops, (unsigned long)vmtally_created_stub);
no_created:
	unregister_ftrace_function(&handler_ops);
out:
	pr_err("cannot hook into kvm (%d)\n", r);
	if (r == -EBUSY)
		pr_err("kernel.ftrace_enabled is 0, or a livepatch or a BPF program has one of the functions\n");
	return r;
}

/*
 * ftrace's waits for all tasks that may be in its trampolines or in what they call, but not for
 * sleepers.
 */
void vmtally_hooks_off(void)
{
	if (!hooked)
		return;
	hooked = false;
	tracepoint_probe_unregister(&__tracepoint_kvm_exit, vmtally_probe_exit, NULL);
	tracepoint_probe_unregister(&__tracepoint_kvm_entry, vmtally_probe_entry, NULL);
	tracepoint_synchronize_unregister();
	vmtally_unregister_direct(&cpuid_ops, (unsigned long)vmtally_cpuid_stub);
	vmtally_unregister_direct(&created_ops, (unsigned long)vmtally_created_stub);
	unregister_ftrace_function(&handler_ops);
}

static int set_filters(void)
{
	int i, r;

	r = ftrace_set_filter_ip(&cpuid_ops, functions[CPUID].address, 0, 1);
	if (!r)
		r = ftrace_set_filter_ip(&created_ops, functions[CREATED].address, 0, 1);
	for (i = 0; i < ARRAY_SIZE(handled) && !r; i++)
		r = ftrace_set_filter_ip(&handler_ops, functions[handled[i]].address, 0, !i);
	if (r)
		pr_err("ftrace cannot hook kvm's functions (%d)\n", r);
	return r;
}

static void free_filters(void)
{
	ftrace_free_filter(&cpuid_ops);
	ftrace_free_filter(&created_ops);
	ftrace_free_filter(&handler_ops);
}

int vmtally_hooks_init(void)
{
	int r = check_kvm();

	if (r)
		return r;
	static_call_update(vmtally_file_is_kvm, (void *)functions[IS_VM].address);
	r = set_filters();
	if (!r)
		r = register_module_notifier(&vendor_notifier);
	if (r) {
		free_filters();
		return r;
	}
	r = vmtally_know_vendor();
	if (r && r != -ENOENT) {
		vmtally_hooks_exit();
		return r;
	}
	return 0;
}

void vmtally_hooks_exit(void)
{
	vmtally_hooks_off();
	unregister_module_notifier(&vendor_notifier);
	free_filters();
}
