// SPDX-License-Identifier: Apache-2.0
/*
 * A guest that reads its own tally and then makes no exit any more: 1,000 times OUT and CPUID; the counts of OUT's
 * reason (KVM, VMX, SVM), of CPUID's (VMX, SVM) and of all; each of the six as four bytes to the UART; then it halts for
 * good (needs --irqchip kernel).
 *
 * gcc -nostdlib -static -no-pie -Wl,-Ttext=0x100000 -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096
 */
	.globl _start
_start:
	mov $1000, %r12d
1:	mov $0x510, %dx
	out %al, %dx
	xor %eax, %eax
	xor %ecx, %ecx
	cpuid
	dec %r12d
	jnz 1b
	xor %r12d, %r12d
2:	mov leaves(,%r12,8), %eax
	mov leaves+4(,%r12,8), %ecx
	.globl query
query:	cpuid
	mov %eax, counts(,%r12,4)
	inc %r12d
	cmp $6, %r12d
	jb 2b
	xor %r12d, %r12d
	mov $0x3F8, %dx
3:	mov counts(%r12), %al
	out %al, %dx
	inc %r12d
	cmp $24, %r12d
	jb 3b
4:	hlt
	jmp 4b

	.balign 8
leaves:
	.long 0x4FFFFFFD, 2, 0x4FFFFFFD, 30, 0x4FFFFFFD, 0x7B, 0x4FFFFFFD, 10, 0x4FFFFFFD, 0x72, 0x4FFFFFFF, 0
	.bss
counts:
	.skip 24
