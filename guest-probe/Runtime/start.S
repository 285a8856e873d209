/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entry, descriptor tables and exceptions of a bare-metal guest (AT&T syntax).
 *
 * Every vCPU enters at _start in 64-bit mode, CPL 0, interrupts off, with the first 4 GiB identity-mapped:
 *   RDI  physical address of the boot information ("VMTALLY1")
 *   RSI  index of the vCPU; 0 is the one that starts the others
 *   RSP  top of a 64 KiB stack of its own, 16-byte aligned
 *
 * On kvm-pvm every ring-0 instruction goes through KVM's emulator, so there are only plain ones: no SSE, no INT3, no
 * XSAVE, no IRETQ within ring 0.
 */

        .set    KERNEL_CODE, 0x08
        .set    KERNEL_DATA, 0x10
        .set    USER_DATA, 0x18 | 3
        .set    USER_CODE, 0x20 | 3
        .set    TASK, 0x28

        .set    VECTORS, 32             /* exceptions (SDM vol. 3A, 6.3.1) */
        .set    STUB_SIZE, 16           /* bytes between two exception stubs */
        .set    VECTOR_BP, 3
        .set    VECTOR_UD, 6
        .set    VECTOR_GP, 13
        .set    MSR_MISC_FEATURES_ENABLES, 0x140

        .section .text.start, "ax"
        .globl  _start, gdt_pointer
        .type   _start, @function
_start:
        cld
        test    %esi, %esi
        jnz     .Lwait

        call    build_tables
        movl    $1, tables_ready(%rip)
        jmp     .Lload

.Lwait: sti                             /* another vCPU: vCPU 0 has the tables still to build */
        nop                             /* interrupts on for a moment: see guest_yield */
        pause
        cli
        cmpl    $0, tables_ready(%rip)
        je      .Lwait

.Lload: lgdt    gdt_pointer(%rip)
        pushq   $KERNEL_CODE
        leaq    .Lreload(%rip), %rax
        pushq   %rax
        lretq
.Lreload:
        movl    $KERNEL_DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        xorl    %eax, %eax
        movl    %eax, %fs
        movl    %eax, %gs
        lidt    idt_pointer(%rip)

        test    %esi, %esi              /* only vCPU 0 visits ring 3, so one TSS is enough */
        jnz     .Lenter
        movl    $TASK, %eax
        ltr     %ax

.Lenter:
        /*
         * The IDT is final. Say so as Linux does at this point of its boot, by clearing CPUID faulting and the ring 3
         * MONITOR/MWAIT bit: a VMM that answers CPUID by faulting takes this write as the moment to arm itself. A
         * processor without the MSR raises #GP, which guest_write_msr survives.
         */
        pushq   %rdi
        pushq   %rsi
        movl    $MSR_MISC_FEATURES_ENABLES, %edi
        xorl    %esi, %esi
        call    guest_write_msr
        popq    %rsi
        popq    %rdi

        xorl    %ebp, %ebp
        call    guest_main              /* (boot information, vCPU index), in Swift; does not return */
        ud2

/* ---- Descriptor tables -------------------------------------------------------------------------------------------- */

        .text
        .type   build_tables, @function
/* Fills in the IDT and the TSS descriptor, and opens the ring-3 page to ring 3. Keeps RDI and RSI. */
build_tables:
        pushq   %rdi
        pushq   %rsi

        leaq    idt(%rip), %rdi
        leaq    exception_stubs(%rip), %rsi
        movl    $VECTORS, %ecx
.Lgate: movb    $0x8E, %dl              /* present, DPL 0, interrupt gate */
        call    set_gate
        addq    $STUB_SIZE, %rsi
        addq    $16, %rdi
        decl    %ecx
        jnz     .Lgate
        movb    $0xEE, idt+VECTOR_BP*16+5(%rip) /* DPL 3: a VMM may plant INT3 on the ring-3 CPUID */

        leaq    tss(%rip), %rax         /* base of the TSS: bits 0-23, 24-31 and 32-63 of the descriptor */
        movw    %ax, gdt+TASK+2(%rip)
        shrq    $16, %rax
        movb    %al, gdt+TASK+4(%rip)
        movb    %ah, gdt+TASK+7(%rip)
        shrq    $16, %rax
        movl    %eax, gdt+TASK+8(%rip)

        /*
         * The VMM's identity map need not be open to ring 3: set the U/S bit on the path to the ring-3 page. The walk
         * ends at the first entry that maps a page (PS, bit 7), a 2 MiB one as docs/guests.md has it.
         */
        leaq    user_page(%rip), %rsi
        movq    %cr3, %rdi
        movl    $39, %ecx               /* PML4, then PDPT, PD, PT: index bits from 39, 30, 21, 12 on */
.Lwalk: andq    $~0xFFF, %rdi
        movq    %rsi, %rax
        shrq    %cl, %rax
        andl    $0x1FF, %eax
        orq     $4, (%rdi,%rax,8)
        movq    (%rdi,%rax,8), %rdi
        testb   $0x80, %dil
        jnz     .Lopen
        subl    $9, %ecx
        cmpl    $12, %ecx
        jge     .Lwalk
.Lopen: movq    %cr3, %rax              /* forget translations made before */
        movq    %rax, %cr3

        popq    %rsi
        popq    %rdi
        ret

/* Writes the gate at RDI: handler RSI, type DL. Clobbers RAX. */
set_gate:
        movq    %rsi, %rax
        movw    %ax, (%rdi)             /* offset 0-15 */
        movw    $KERNEL_CODE, 2(%rdi)
        movb    $0, 4(%rdi)             /* no stack of its own (IST) */
        movb    %dl, 5(%rdi)
        shrq    $16, %rax
        movw    %ax, 6(%rdi)            /* offset 16-31 */
        shrq    $16, %rax
        movl    %eax, 8(%rdi)           /* offset 32-63 */
        movl    $0, 12(%rdi)
        ret

        .data
        .balign 16
gdt:    .quad   0
        .quad   0x00AF9B000000FFFF      /* KERNEL_CODE: 64-bit, DPL 0 */
        .quad   0x00CF93000000FFFF      /* KERNEL_DATA */
        .quad   0x00CFF3000000FFFF      /* USER_DATA: DPL 3 */
        .quad   0x00AFFB000000FFFF      /* USER_CODE: 64-bit, DPL 3 */
        .quad   0x0000890000000067      /* TASK: available 64-bit TSS of 104 bytes; base filled in */
        .quad   0
gdt_end:

        .balign 8
        .word   0, 0, 0
gdt_pointer:
        .word   gdt_end - gdt - 1
        .quad   gdt
        .word   0, 0, 0
idt_pointer:
        .word   VECTORS * 16 - 1
        .quad   idt

        .balign 16
tss:    .long   0
tss_rsp0:
        .quad   0                       /* set at each visit to ring 3 */
        .fill   90, 1, 0
        .word   104                     /* no I/O permission bitmap */

        .bss
        .balign 16
idt:    .skip   VECTORS * 16
tables_ready:
        .skip   4

/* ---- Exceptions --------------------------------------------------------------------------------------------------- */

        .text
/* One stub a vector: every one leaves an error code and the vector on the stack. */
        .balign STUB_SIZE
exception_stubs:
        .set    vector, 0
        .rept   VECTORS
        .balign STUB_SIZE
        .if     (0x60227D00 >> vector) & 1 == 0         /* vectors 8, 10-14, 17, 21, 29, 30 push one themselves */
        pushq   $0
        .endif
        pushq   $vector
        jmp     exception
        .set    vector, vector + 1
        .endr

/*
 * Stack: vector, error code, RIP, CS, RFLAGS, RSP, SS. The #UDs at the ends of the ring-3 code are its return to ring 0.
 * A #GP of an MSR access goes on at the access's failure exit; its frame is dropped by restoring RSP, for IRETQ within
 * ring 0 is not to be had everywhere. The rest is fatal.
 */
exception:
        pushq   %rax
        leaq    user_end(%rip), %rax
        cmpq    %rax, 24(%rsp)
        jne     .Lcall
        cmpl    $VECTOR_UD, 8(%rsp)
        jne     .Lfatal
        popq    %rax
        jmp     return_from_user
.Lcall: leaq    user_call_end(%rip), %rax
        cmpq    %rax, 24(%rsp)
        jne     .Lmsr
        cmpl    $VECTOR_UD, 8(%rsp)
        jne     .Lfatal
        popq    %rax
        movq    tss_rsp0(%rip), %rsp
        ret                             /* out of guest_call_user: RDX:RAX as the function left them */
.Lmsr:  cmpl    $VECTOR_GP, 8(%rsp)
        jne     .Lfatal
        leaq    read_msr(%rip), %rax
        cmpq    %rax, 24(%rsp)
        je      .Lfailed
        leaq    write_msr(%rip), %rax
        cmpq    %rax, 24(%rsp)
        jne     .Lfatal
.Lfailed:
        movq    48(%rsp), %rsp
        xorl    %eax, %eax
        ret                             /* out of guest_read_msr or guest_write_msr: false */

.Lfatal:
        movl    8(%rsp), %edi
        movq    16(%rsp), %rsi
        movq    24(%rsp), %rdx
        andq    $-16, %rsp
        call    guest_exception         /* (vector, error code, RIP), in Swift; does not return */
        ud2

/* ---- MSRs --------------------------------------------------------------------------------------------------------- */

        .globl  guest_read_msr, guest_write_msr
        .type   guest_read_msr, @function
        .type   guest_write_msr, @function
/* bool guest_read_msr(uint32_t msr, uint64_t *value): false when the access raised #GP. */
guest_read_msr:
        movl    %edi, %ecx
read_msr:
        rdmsr
        shlq    $32, %rdx
        orq     %rdx, %rax
        movq    %rax, (%rsi)
        movl    $1, %eax
        ret

/* bool guest_write_msr(uint32_t msr, uint64_t value): false when the access raised #GP. */
guest_write_msr:
        movl    %edi, %ecx
        movl    %esi, %eax
        movq    %rsi, %rdx
        shrq    $32, %rdx
write_msr:
        wrmsr
        movl    $1, %eax
        ret

/* ---- CPUID -------------------------------------------------------------------------------------------------------- */

        .globl  guest_cpuid, guest_cpuid_user
        .type   guest_cpuid, @function
        .type   guest_cpuid_user, @function
/*
 * void guest_cpuid(uint32_t leaf, uint32_t subleaf, struct guest_registers *result): in ring 0.
 * The guest's only ring-0 CPUID instruction, for a VMM has few breakpoints to spend.
 */
guest_cpuid:
        pushq   %rbx
        movq    %rdx, %r8
        movl    %edi, %eax
        movl    %esi, %ecx
site_kernel:
        cpuid
        movl    %eax, (%r8)
        movl    %ebx, 4(%r8)
        movl    %ecx, 8(%r8)
        movl    %edx, 12(%r8)
        popq    %rbx
        ret

/*
 * void guest_cpuid_user(uint32_t leaf, uint32_t subleaf, struct guest_registers *result): the same by a visit to ring 3,
 * which returns by #UD, for INT n of ring 3 is not to be had on kvm-pvm. Ring 3 needs no stack: all goes through
 * registers. vCPU 0 only.
 */
guest_cpuid_user:
        pushq   %rbx
        pushq   %rdx
        movq    %rsp, tss_rsp0(%rip)    /* the way back starts below what was pushed */
        movl    %edi, %eax
        movl    %esi, %ecx
        pushq   $USER_DATA
        pushq   $0                      /* RSP */
        pushq   $2                      /* RFLAGS: interrupts off, IOPL 0 */
        pushq   $USER_CODE
        leaq    user_page(%rip), %rdx
        pushq   %rdx
        iretq

return_from_user:
        movq    tss_rsp0(%rip), %rsp    /* drop the exception's frame */
        popq    %r8
        movl    %eax, (%r8)
        movl    %ebx, 4(%r8)
        movl    %ecx, 8(%r8)
        movl    %edx, 12(%r8)
        popq    %rbx
        ret

/*
 * struct guest_pair guest_call_user(void *function, uint64_t first, uint64_t second): a function of the ring-3 page, in
 * ring 3 and on the stack there. It must keep to that page, and to memory that ring 3 may read. vCPU 0 only.
 */
        .globl  guest_call_user
        .type   guest_call_user, @function
guest_call_user:
        movq    %rsp, tss_rsp0(%rip)
        movq    %rdi, %rax
        movq    %rsi, %rdi
        movq    %rdx, %rsi
        pushq   $USER_DATA
        leaq    user_stack_top(%rip), %rdx
        pushq   %rdx
        pushq   $2
        pushq   $USER_CODE
        leaq    user_call(%rip), %rdx
        pushq   %rdx
        iretq

/* What ring 3 executes, in a page of its own. By itself CPUID: EAX and ECX are the question. */
        .section .user, "ax"
user_page:
site_user:
        cpuid
user_end:
        ud2
user_call:
        call    *%rax
user_call_end:
        ud2

        .section .user.stack, "aw", @nobits
        .balign 16
        .skip   2048
user_stack_top:

/* Where the CPUID instructions are, the ring-0 one first: for a VMM that answers them by breakpoints. */
        .section .vmtally.sites, "", @progbits
        .quad   site_kernel
        .quad   site_user
