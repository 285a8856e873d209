/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PVH entry, for VMMs that load an ELF kernel directly (QEMU's -kernel, Cloud Hypervisor, Firecracker): 32-bit
 * protected mode, flat segments, paging off, no stack (Xen's docs/misc/pvh.pandoc). Brings about what _start expects,
 * with one vCPU and no boot information. A VMM that enters at e_entry never comes here. AT&T syntax.
 */
        .set    KERNEL_CODE, 0x08
        .set    XEN_ELFNOTE_PHYS32_ENTRY, 18
        .set    MSR_EFER, 0xC0000080
        .set    STACK_SIZE, 64 << 10

        .section .note.pvh, "a", @note
        .balign 4
        .long   4                       /* size of the name */
        .long   8                       /* size of the entry's address */
        .long   XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .quad   pvh_start

        .section .text.start, "ax"
        .code32
        .globl  pvh_start
pvh_start:
        cld
        movl    $pdpt + 3, pml4         /* present, writable */
        movl    $pds + 0x0003, pdpt
        movl    $pds + 0x1003, pdpt + 8
        movl    $pds + 0x2003, pdpt + 16
        movl    $pds + 0x3003, pdpt + 24
        xorl    %ecx, %ecx
.Lmap:  movl    %ecx, %eax              /* the first 4 GiB in pages of 2 MiB: present, writable, PS */
        shll    $21, %eax
        orl     $0x83, %eax
        movl    %eax, pds(,%ecx,8)
        incl    %ecx
        cmpl    $2048, %ecx
        jne     .Lmap

        movl    $pml4, %eax
        movl    %eax, %cr3
        movl    %cr4, %eax
        orl     $0x20, %eax             /* PAE */
        movl    %eax, %cr4
        movl    $MSR_EFER, %ecx
        rdmsr
        orl     $0x100, %eax            /* LME */
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000001, %eax       /* PG, PE */
        movl    %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $KERNEL_CODE, $.Llong

        .code64
.Llong: leaq    stack + STACK_SIZE(%rip), %rsp
        xorl    %edi, %edi
        xorl    %esi, %esi
        jmp     _start

        .bss
        .balign 4096
pml4:   .skip   4096
pdpt:   .skip   4096
pds:    .skip   4 * 4096
stack:  .skip   STACK_SIZE
