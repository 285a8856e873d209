/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ring 3 asks for the tally while ring 0 changes the way that #GP takes; -DCHANGE says how. The run's status is
 * (v << 1) | 1: v 0, all went right; 1, a #GP of CPUID came to the guest; 2, a reading did not grow; 3, a #GP of its own
 * did not come.
 *
 *	1  nothing changes		4  the IDT is emptied, and filled again
 *	2  LIDT of another IDT		5  LIDT of another IDT, where gate 13 is written later
 *	3  gate 13 is written		6  gate 13 leads through another mapping of the handler: its upper half changes
 */
#if CHANGE == 5
#define CHANGED other
#define HANDLER fault
#else
#define CHANGED idt
#define HANDLER fault2
#endif
	.set	KERNEL, 0x08
	.set	USER_CODE, 0x23
	.set	USER_DATA, 0x1b
	.set	ALIAS, 1 << 39			/* where the first 512 GiB are mapped again */

	.globl	_start
_start:	mov	%cr3, %rsi			/* ring 3 may use all: PML4, PDPT, four page directories */
	mov	$6 * 512, %ecx
	mov	%rsi, %rdi
1:	testb	$1, (%rdi)
	jz	2f
	orb	$4, (%rdi)
2:	add	$8, %rdi
	loop	1b
	mov	(%rsi), %rax
	mov	%rax, 8(%rsi)
	mov	%rsi, %cr3

	lea	tss(%rip), %rax			/* below 4 GiB */
	mov	%eax, %edx
	shl	$16, %rdx
	mov	$0x0000890000000067, %rcx
	or	%rdx, %rcx
	mov	%rcx, tss_descriptor(%rip)
	lea	stack_end(%rip), %rcx
	mov	%rcx, tss + 4(%rip)
	lgdt	gdtr(%rip)
	mov	$0x28, %eax
	ltr	%ax

	lea	idt(%rip), %rdi
	lea	fault(%rip), %rax
	call	fill
	lea	other(%rip), %rdi
	lea	fault2(%rip), %rax
	call	fill
	lidt	idtr(%rip)

	push	$USER_DATA
	lea	user_stack_end(%rip), %rax
	push	%rax
	push	$0x3002				/* IOPL 3 */
	push	$USER_CODE
	lea	user(%rip), %rax
	push	%rax
	iretq

/* Gates 13, to RAX, and 0x80 of the IDT at RDI. */
fill:	mov	$13, %ecx
	mov	$0x8e, %edx
	call	gate
	lea	service(%rip), %rax
	mov	$0x80, %ecx
	mov	$0xee, %edx
gate:	shl	$4, %ecx
	add	%rdi, %rcx
	mov	%ax, (%rcx)
	movw	$KERNEL, 2(%rcx)
	mov	%dl, 5(%rcx)
	shr	$16, %rax
	mov	%ax, 6(%rcx)
	shr	$16, %rax
	mov	%eax, 8(%rcx)
	ret

/* #GP: those that ring 3 means to raise, by HLT, are counted. */
fault2:	nop
fault:	add	$8, %rsp
	mov	(%rsp), %r8
	cmpb	$0xf4, (%r8)
	mov	$1, %al
	jne	end
	incq	(%rsp)
	incl	faults(%rip)
	iretq

/* INT 0x80: what -DCHANGE says. */
service:
#if CHANGE == 2 || CHANGE == 5
	lidt	other_idtr(%rip)
#endif
#if CHANGE == 3 || CHANGE == 5
	lea	CHANGED(%rip), %rdi
	lea	HANDLER(%rip), %rax
	mov	$13, %ecx
	mov	$0x8e, %edx
	call	gate
#endif
#if CHANGE == 4
	lea	idt(%rip), %rdi
	mov	$512, %ecx
	xor	%eax, %eax
	rep stosq
	lea	idt(%rip), %rdi
	lea	fault2(%rip), %rax
	call	fill
#endif
#if CHANGE == 6
	lea	idt(%rip), %rdi
	lea	fault(%rip), %rax
	mov	$ALIAS, %rcx
	add	%rcx, %rax
	mov	$13, %ecx
	mov	$0x8e, %edx
	call	gate
#endif
	iretq

user:	mov	$0x4fffff01, %eax		/* until it is live */
	xor	%ecx, %ecx
	cpuid
	test	$1, %ebx
	jz	user
	mov	$100, %r12d
1:	call	growing
	hlt
	cmpl	$1, faults(%rip)
	mov	$3, %al
	jne	end
	movl	$0, faults(%rip)
	cmp	$50, %r12d
	jne	2f
	int	$0x80
2:	dec	%r12d
	jnz	1b
	xor	%eax, %eax
end:	out	%al, $0xf4

growing:
	mov	$0x4fffffff, %eax
	xor	%ecx, %ecx
	cpuid
	mov	last(%rip), %r9d
	mov	%eax, last(%rip)
	cmp	%r9d, %eax
	mov	$2, %al
	jbe	end
	ret

	.data
	.balign	8
gdt:	.quad	0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff
tss_descriptor:
	.quad	0, 0
gdtr:	.word	. - gdt - 1
	.quad	gdt
idtr:	.word	4095
	.quad	idt
other_idtr:
	.word	4095
	.quad	other
faults:	.long	0
last:	.long	0

	.bss
	.balign	4096
idt:	.space	4096
other:	.space	4096
tss:	.space	4096
	.space	4096
stack_end:
	.space	4096
user_stack_end:
