/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Where the kernels that this module is built for differ: 6.1, 6.12, 7.3.  Kbuild looks into the
 * headers: distributions' kernels have more than their number says.
 */
#ifndef VMTALLY_COMPAT_H
#define VMTALLY_COMPAT_H

#include <linux/ftrace.h>
#include <linux/kvm_host.h>
#include <linux/sched.h>

#if !defined(CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS) || !defined(CONFIG_DYNAMIC_FTRACE_WITH_ARGS)
#error "vmtally needs CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS and CONFIG_DYNAMIC_FTRACE_WITH_ARGS"
#endif
#if !defined(CONFIG_KPROBES) || !defined(CONFIG_DEBUG_INFO_BTF_MODULES)
#error "vmtally needs CONFIG_KPROBES and CONFIG_DEBUG_INFO_BTF_MODULES"
#endif

#include <linux/slab.h>
#ifndef kzalloc_obj
#define kzalloc_obj(object, gfp)	kzalloc(sizeof(object), gfp)
#define kvzalloc_obj(object, gfp)	kvzalloc(sizeof(object), gfp)
#endif

/* rdtsc() moved. */
#include <asm/msr.h>
#include <asm/tsc.h>

#ifdef VMTALLY_DIRECT_MULTI
#define vmtally_register_direct(ops, addr)	register_ftrace_direct_multi(ops, addr)
#define vmtally_unregister_direct(ops, addr)	unregister_ftrace_direct_multi(ops, addr)
#else
#define vmtally_register_direct(ops, addr)	register_ftrace_direct(ops, addr)
#define vmtally_unregister_direct(ops, addr)	unregister_ftrace_direct(ops, addr, false)
#endif

static __always_inline struct kvm_vcpu *vmtally_first_argument(struct ftrace_regs *fregs)
{
#ifdef arch_ftrace_regs
	return (struct kvm_vcpu *)arch_ftrace_regs(fregs)->regs.di;
#else
	return (struct kvm_vcpu *)fregs->regs.di;
#endif
}

enum vmtally_put { PUT_USERSPACE, PUT_PREEMPTED, PUT_SLEEPS };

/*
 * Why kvm_arch_vcpu_put() is called: KVM_RUN ends, or the scheduler takes the thread off the CPU.
 */
static __always_inline enum vmtally_put vmtally_why_put(struct kvm_vcpu *vcpu)
{
	if (READ_ONCE(vcpu->preempted))
		return PUT_PREEMPTED;
#ifdef VMTALLY_SCHEDULED_OUT
	return READ_ONCE(vcpu->scheduled_out) ? PUT_SLEEPS : PUT_USERSPACE;
#else
	return current->on_rq ? PUT_USERSPACE : PUT_SLEEPS;
#endif
}

#endif
