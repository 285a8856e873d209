// SPDX-License-Identifier: Apache-2.0
/* A guest of three instructions, to prove that a ground's KVM runs one: OUT to
 * port 0x10, then HLT. Real mode; with the argument "long", long mode (emulated
 * processors are there that crash on real-mode guests). Built with -static. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { MEMORY = 0x10000, CODE = 0x1000, PML4 = 0x2000, PDPT = 0x3000, PD = 0x4000 };

#define CHECK(expression)                                \
    ({                                                   \
        long value = (long)(expression);                 \
        if (value == -1) {                               \
            perror(#expression);                         \
            return 1;                                    \
        }                                                \
        value;                                           \
    })

static void enter_long_mode(struct kvm_sregs *sregs, uint8_t *memory) {
    *(uint64_t *)(memory + PML4) = PDPT | 3;
    *(uint64_t *)(memory + PDPT) = PD | 3;
    *(uint64_t *)(memory + PD) = 0x83; /* 2 MiB page at 0 */
    struct kvm_segment code = {.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {.limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    sregs->cs = code;
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->cr3 = PML4;
    sregs->cr4 = 1 << 5;                  /* PAE */
    sregs->cr0 = 0x80000011;              /* PG, ET, PE */
    sregs->efer = (1 << 8) | (1 << 10);   /* LME, LMA */
}

int main(int argc, char **argv) {
    static const uint8_t code[] = {0xB0, 'k', /* mov al, 'k' */ 0xE6, 0x10, /* out 0x10, al */ 0xF4 /* hlt */};
    int kvm = (int)CHECK(open("/dev/kvm", O_RDWR));
    printf("api %ld\n", CHECK(ioctl(kvm, KVM_GET_API_VERSION, 0)));
    int vm = (int)CHECK(ioctl(kvm, KVM_CREATE_VM, 0));
    CHECK(ioctl(vm, KVM_SET_TSS_ADDR, 0xFFFBD000ul));
    uint8_t *memory = mmap(0, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory);
    memcpy(memory + CODE, code, sizeof code);
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY, .userspace_addr = (uintptr_t)memory};
    CHECK(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
    int vcpu = (int)CHECK(ioctl(vm, KVM_CREATE_VCPU, 0));
    long size = CHECK(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    struct kvm_run *run = (void *)CHECK(mmap(0, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0));
    struct kvm_sregs sregs;
    CHECK(ioctl(vcpu, KVM_GET_SREGS, &sregs));
    sregs.cs.base = sregs.cs.selector = 0;
    if (argc > 1 && !strcmp(argv[1], "long"))
        enter_long_mode(&sregs, memory);
    CHECK(ioctl(vcpu, KVM_SET_SREGS, &sregs));
    struct kvm_regs regs = {.rip = CODE, .rflags = 2};
    CHECK(ioctl(vcpu, KVM_SET_REGS, &regs));
    for (int exits = 1; exits <= 4; exits++) {
        CHECK(ioctl(vcpu, KVM_RUN, 0));
        switch (run->exit_reason) {
        case KVM_EXIT_IO:
            printf("out %#x %c\n", run->io.port, ((char *)run)[run->io.data_offset]);
            break;
        case KVM_EXIT_HLT:
            printf("hlt after %d exits\n", exits);
            return 0;
        default:
            printf("exit reason %u\n", run->exit_reason);
            return 2;
        }
    }
    return 3;
}
