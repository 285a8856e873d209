/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What ftrace calls at the first instruction of the functions of KVM that must not go through its
 * own trampoline.  On the stack: the address in that function to go on at, then the one that it
 * returns to. They are never called through their addresses, so they have no ENDBR.
 */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/ibt.h>
#include <asm/nospec-branch.h>
#include <asm/unwind_hints.h>

	.text

.macro save_arguments
	push	%rdi
	push	%rsi
	push	%rdx
	push	%rcx
	push	%r8
	push	%r9
.endm

.macro restore_arguments
	pop	%r9
	pop	%r8
	pop	%rcx
	pop	%rdx
	pop	%rsi
	pop	%rdi
.endm

/*
 * kvm_cpuid(vcpu, eax, ebx, ecx, edx, exact_only): our leaves go to vmtally_cpuid(), and when that
 * has answered, to kvm_cpuid()'s caller.  For all others this is four instructions, where a
 * handler of ftrace with IPMODIFY would be sixty.
 */
SYM_CODE_START(vmtally_cpuid_stub)
	ANNOTATE_NOENDBR
	UNWIND_HINT_FUNC
	cmpw	$0x4fff, 2(%rsi)
	je	.Lmaybe_ours
.Lnot_ours:
	RET
.Lmaybe_ours:
	cmpb	$0xff, 1(%rsi)
	jne	.Lnot_ours
	save_arguments
	call	vmtally_cpuid
	restore_arguments
	test	%al, %al
	jnz	.Lanswered
	RET
.Lanswered:
	add	$8, %rsp	/* not to kvm_cpuid() */
	UNWIND_HINT_FUNC
	mov	$1, %eax
	RET
SYM_CODE_END(vmtally_cpuid_stub)

/* kvm_arch_vcpu_postcreate(vcpu), in a context that may sleep, as ftrace's handlers may not. */
SYM_CODE_START(vmtally_created_stub)
	ANNOTATE_NOENDBR
	UNWIND_HINT_FUNC
	save_arguments
	call	vmtally_vcpu_created
	restore_arguments
	RET
SYM_CODE_END(vmtally_created_stub)
