// SPDX-License-Identifier: GPL-2.0
/* A livepatch of kvm_cpuid(), to stand beside the module: one of the two must be refused. */
#include <linux/kvm_host.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static bool patched(struct kvm_vcpu *vcpu, u32 *eax, u32 *ebx, u32 *ecx, u32 *edx, bool exact_only)
{
	*eax = 0;
	*ebx = 0;
	*ecx = 0;
	*edx = 0;
	return false;
}

static struct klp_func functions[] = {
	{ .old_name = "kvm_cpuid", .new_func = patched },
	{ }
};

static struct klp_object objects[] = {
	{ .name = "kvm", .funcs = functions },
	{ }
};

static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };

static int __init livepatch_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit livepatch_exit(void)
{
}

module_init(livepatch_init);
module_exit(livepatch_exit);
MODULE_DESCRIPTION("A livepatch of kvm_cpuid() to stand beside vmtally");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
