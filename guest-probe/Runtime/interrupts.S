/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts of a local APIC, for guests that take some; others do not link this (AT&T syntax).
 *
 * A handler stamps, acknowledges and counts. It returns without IRETQ, which KVM's emulator lacks in long mode.
 */
        .set    VECTORS, 32
        .set    VECTOR_0, 0x40
        .set    KERNEL_CODE, 0x08
        .set    X2APIC_EOI, 0x80B
        .set    XAPIC_EOI, 0xFEE000B0

        .section .text.interrupts, "ax"
        .globl  guest_install_interrupts, guest_use_x2apic, guest_interrupt_0, guest_interrupt_1
        .type   guest_install_interrupts, @function
guest_install_interrupts:
        subq    $16, %rsp
        sidt    6(%rsp)
        movq    8(%rsp), %rsi           /* the exceptions' gates */
        leaq    interrupt_table(%rip), %rdi
        cmpq    %rsi, %rdi
        je      .Ldone
        movl    $VECTORS * 2, %ecx
        rep movsq
        leaq    interrupt_table + VECTOR_0 * 16(%rip), %rdi
        leaq    handler_0(%rip), %rax
        call    set_interrupt_gate
        addq    $16, %rdi
        leaq    handler_1(%rip), %rax
        call    set_interrupt_gate
        movw    $0x42 * 16 - 1, 6(%rsp)
        leaq    interrupt_table(%rip), %rax
        movq    %rax, 8(%rsp)
        lidt    6(%rsp)
.Ldone: addq    $16, %rsp
        ret

/* The gate at RDI for the handler RAX. */
set_interrupt_gate:
        movw    %ax, (%rdi)
        movw    $KERNEL_CODE, 2(%rdi)
        movw    $0x8E00, 4(%rdi)        /* present, DPL 0, interrupt gate, no IST */
        shrq    $16, %rax
        movw    %ax, 6(%rdi)
        shrq    $16, %rax
        movl    %eax, 8(%rdi)
        movl    $0, 12(%rdi)
        ret

guest_use_x2apic:
        movl    %edi, x2apic(%rip)
        ret

guest_interrupt_0:
        leaq    interrupt_0(%rip), %rax
        ret

guest_interrupt_1:
        leaq    interrupt_1(%rip), %rax
        ret

        .macro  handler name, record
\name:  pushq   %rax
        pushq   %rcx
        pushq   %rdx
        rdtsc
        movl    %eax, \record(%rip)
        movl    %edx, \record + 4(%rip)
        cmpl    $0, x2apic(%rip)
        je      1f
        movl    $X2APIC_EOI, %ecx
        xorl    %eax, %eax
        xorl    %edx, %edx
        wrmsr
        jmp     2f
1:      movl    $XAPIC_EOI, %ecx
        movl    $0, (%rcx)
2:      incl    \record + 8(%rip)
        jmp     return_from_interrupt
        .endm

        handler handler_0, interrupt_0
        handler handler_1, interrupt_1

/*
 * Stack: RDX, RCX, RAX, then RIP, CS, RFLAGS, RSP, SS. RAX, RFLAGS and RIP go below the interrupted RSP, from where POP,
 * POPFQ and RET take them. The processor has pushed its frame from RSP rounded down to 16 on: each is read before what
 * is written could reach it.
 */
return_from_interrupt:
        movq    48(%rsp), %rcx
        subq    $24, %rcx
        movq    24(%rsp), %rax
        movq    40(%rsp), %rdx
        movq    %rax, 16(%rcx)
        movq    %rdx, 8(%rcx)
        movq    16(%rsp), %rax
        movq    %rax, (%rcx)
        movq    %rcx, %rax
        movq    (%rsp), %rdx
        movq    8(%rsp), %rcx
        movq    %rax, %rsp
        popq    %rax
        popfq
        ret

        .section .bss.interrupts, "aw", @nobits
        .balign 64
interrupt_0:
        .skip   64
interrupt_1:
        .skip   64
x2apic: .skip   64
interrupt_table:
        .skip   0x42 * 16
