// SPDX-License-Identifier: Apache-2.0
/*
 * A BIOS of 64 KiB that starts the machine three times: it counts in a byte of CMOS memory that nothing clears, and asks
 * the keyboard controller for a reset, at last QEMU's isa-debug-exit for the end.
 *
 * gcc -nostdlib -static -no-pie -Wl,--oformat=binary -Wl,-Ttext=0 -Wl,--build-id=none
 */
	.code16
	.globl _start
_start:
	mov $0x40, %al
	out %al, $0x70
	in $0x71, %al
	inc %al
	mov %al, %bl
	mov $0x40, %al
	out %al, $0x70
	mov %bl, %al
	out %al, $0x71
	cmp $3, %bl
	jae 2f
	mov $0xFE, %al
	out %al, $0x64
1:	hlt
	jmp 1b
2:	xor %eax, %eax
	mov $0xF4, %dx
	out %eax, %dx
	jmp 1b

	.org 0xFFF0		/* the reset vector */
	jmp _start
	.org 0x10000
