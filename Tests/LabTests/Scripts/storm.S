// SPDX-License-Identifier: Apache-2.0
/*
 * A guest of as many exits as the build says: CPUIDS times CPUID, OUTS times OUT to a port that no device claims, then a
 * write of 0 to port 0xF4, which ends the run; with IDLE it halts for good instead (needs --irqchip kernel).
 *
 * gcc -nostdlib -static -no-pie -Wl,-Ttext=0x100000 -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096
 */
	.globl _start
_start:
	mov $CPUIDS, %r12d
1:	xor %eax, %eax
	xor %ecx, %ecx
	cpuid
	dec %r12d
	jnz 1b
	mov $OUTS, %r12d
	mov $0x510, %dx
2:	out %al, %dx
	dec %r12d
	jnz 2b
#ifndef IDLE
	xor %eax, %eax
	mov $0xF4, %dx
	out %eax, %dx
#endif
3:	hlt
	jmp 3b
