// SPDX-License-Identifier: Apache-2.0
/* A VMM that forks between two of its runs. The child may not run its parent's VM (KVM says EIO), and makes its own. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int check(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

static int make(void)
{
	int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	int vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	unsigned char *memory = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = {.memory_size = 4096, .userspace_addr = (unsigned long)memory};
	struct kvm_sregs special;
	struct kvm_regs registers = {.rflags = 2, .rdx = 0x510};
	int vcpu;

	/* 1: out %al, %dx; jmp 1b */
	memcpy(memory, "\xee\xeb\xfd", 3);
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "memory");
	vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	check(ioctl(vcpu, KVM_GET_SREGS, &special), "KVM_GET_SREGS");
	special.cs.base = special.cs.selector = 0;
	check(ioctl(vcpu, KVM_SET_SREGS, &special), "KVM_SET_SREGS");
	check(ioctl(vcpu, KVM_SET_REGS, &registers), "KVM_SET_REGS");
	return vcpu;
}

static void run(int vcpu, int times)
{
	while (times--)
		check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
}

int main(void)
{
	int vcpu = make(), status;
	pid_t child;

	run(vcpu, 100);
	child = check(fork(), "fork");
	if (!child) {
		if (ioctl(vcpu, KVM_RUN, 0) == 0 || errno != EIO)
			return 2;
		run(make(), 200);
		return 0;
	}
	run(vcpu, 200);
	check(waitpid(child, &status, 0), "waitpid");
	return status != 0;
}
