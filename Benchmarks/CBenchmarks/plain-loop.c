/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least VMM that runs the benchmark's guest, as one writes it in C: what vmtally's exit loop is compared with.
 *
 * It sets up the same machine as Sources/Machine does (one slot of RAM, long mode, the first 4 GiB identity-mapped)
 * and dispatches the same ports: UART, exit port, everything else unclaimed.
 */
#include "CBenchmarks.h"
#include "plain-accounting.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#define UART 0x3F8
#define EXIT_PORT 0xF4
#define TABLES_SIZE 0x8000
#define STACK_SIZE 0x10000

struct machine {
	int kvm, vm, vcpu;
	uint8_t *memory;
	size_t memory_size;
	struct kvm_run *run;
	size_t run_size;
};

/* ---- What is measured -------------------------------------------------------------------------------------------- */

/* KVM_RUN by the C library's ioctl(2), or without its call, which is worth 1,750 cycles on some hosts (docs/performance.md). */
static inline __attribute__((always_inline)) long run_vcpu(int vcpu, bool inlined)
{
	long result;

	if (!inlined)
		return ioctl(vcpu, KVM_RUN, 0) < 0 ? -errno : 0;
	__asm__ volatile("syscall" : "=a"(result) : "0"((long)SYS_ioctl), "D"((long)vcpu), "S"(KVM_RUN), "d"(0L)
			 : "rcx", "r11", "memory");
	return result;
}

/* With a `tally` every exit is counted and timed. */
static inline __attribute__((always_inline)) long run_loop(struct machine *machine, uint8_t *serial, size_t capacity,
							   bool inlined, struct tally *tally)
{
	struct kvm_run *run = machine->run;
	int vcpu = machine->vcpu;
	size_t length = 0;

	for (;;) {
		long result = run_vcpu(vcpu, inlined);
		uint64_t returned = tally ? __rdtsc() : 0;
		struct counters *slot;

		if (result < 0) {
			if (result == -EINTR || result == -EAGAIN)
				continue;
			return result;
		}
		slot = tally ? account_begin(tally, run->exit_reason & (DIRECT_SLOTS - 1)) : NULL;
		switch (run->exit_reason) {
		case KVM_EXIT_IO: {
			uint8_t *data = (uint8_t *)run + run->io.data_offset;

			if (run->io.port >= UART && run->io.port < UART + 8) {
				if (run->io.direction == KVM_EXIT_IO_IN)
					memset(data, 0x60, (size_t)run->io.size * run->io.count);
				else if (run->io.port == UART && length < capacity)
					serial[length++] = *data;
			} else if (run->io.direction == KVM_EXIT_IO_IN) {
				memset(data, 0xFF, (size_t)run->io.size * run->io.count);
			} else if (run->io.port == EXIT_PORT) {
				return (long)length;
			}
			break;
		}
		case KVM_EXIT_MMIO:
			if (!run->mmio.is_write)
				memset(run->mmio.data, 0xFF, sizeof(run->mmio.data));
			break;
		case KVM_EXIT_INTR:
			break;
		default:
			return -ENOTSUP;
		}
		if (tally)
			account_end(tally, slot, __rdtsc() - returned);
	}
}

/* ---- Set-up ------------------------------------------------------------------------------------------------------ */

static struct kvm_segment segment(uint16_t selector, uint8_t type, int code)
{
	struct kvm_segment segment = {
		.limit = 0xFFFFFFFF, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1,
		.l = code, .db = !code,
	};

	return segment;
}

static int enter_long_mode(struct machine *machine, uint64_t entry)
{
	size_t tables = machine->memory_size - TABLES_SIZE - STACK_SIZE;
	uint64_t *pml4 = (uint64_t *)(machine->memory + tables);
	uint64_t *pdpt = pml4 + 512, *directories = pml4 + 1024, *gdt = pml4 + 3072;
	struct kvm_regs regs = {
		.rip = entry, .rflags = 2, .rsp = machine->memory_size, .rdi = tables + 0x7000,
	};
	struct kvm_sregs sregs;

	pml4[0] = (tables + 0x1000) | 7;
	for (uint64_t gib = 0; gib < 4; gib++) {
		pdpt[gib] = (tables + 0x2000 + gib * 0x1000) | 7;
		for (uint64_t entry = 0; entry < 512; entry++)
			directories[gib * 512 + entry] = gib << 30 | entry << 21 | 0x87;
	}
	gdt[1] = 0x00AF9B000000FFFF;
	gdt[2] = 0x00CF93000000FFFF;

	if (ioctl(machine->vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs.cs = segment(0x08, 0xB, 1);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(0x10, 0x3, 0);
	sregs.tr = (struct kvm_segment){ .limit = 0x67, .selector = 0x28, .type = 0xB, .present = 1 };
	sregs.ldt = (struct kvm_segment){ .unusable = 1 };
	sregs.gdt.base = tables + 0x6000;
	sregs.gdt.limit = 0x27;
	sregs.idt.base = 0;
	sregs.idt.limit = 0;
	sregs.cr3 = tables;
	sregs.cr0 = 0x80000033;
	sregs.cr4 = 0x20;
	sregs.efer = 0x500;
	if (ioctl(machine->vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(machine->vcpu, KVM_SET_REGS, &regs) < 0)
		return -errno;
	return 0;
}

static int set_cpuid(struct machine *machine)
{
	enum { ENTRIES = 256 };
	uint64_t table[(sizeof(struct kvm_cpuid2) + ENTRIES * sizeof(struct kvm_cpuid_entry2)) / 8 + 1] = { ENTRIES };

	if (ioctl(machine->kvm, KVM_GET_SUPPORTED_CPUID, table) < 0)
		return -errno;
	return ioctl(machine->vcpu, KVM_SET_CPUID2, table) < 0 ? -errno : 0;
}

static int load(struct machine *machine, const uint8_t *elf, size_t elf_size, uint64_t *entry)
{
	const Elf64_Ehdr *header = (const Elf64_Ehdr *)elf;

	for (int i = 0; i < header->e_phnum; i++) {
		const Elf64_Phdr *program = (const Elf64_Phdr *)(elf + header->e_phoff) + i;

		if (program->p_type != PT_LOAD)
			continue;
		if (program->p_offset + program->p_filesz > elf_size ||
		    program->p_paddr + program->p_memsz > machine->memory_size)
			return -ENOEXEC;
		memcpy(machine->memory + program->p_paddr, elf + program->p_offset, program->p_filesz);
	}
	*entry = header->e_entry;
	return 0;
}

static int make(struct machine *machine, size_t memory_size)
{
	uint64_t identity_map = 0xFFFBC000;

	machine->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (machine->kvm < 0)
		return -errno;
	machine->vm = ioctl(machine->kvm, KVM_CREATE_VM, 0);
	if (machine->vm < 0)
		return -errno;
	machine->memory_size = memory_size;
	machine->memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			       -1, 0);
	if (machine->memory == MAP_FAILED)
		return -errno;
	struct kvm_userspace_memory_region region = {
		.memory_size = memory_size, .userspace_addr = (uintptr_t)machine->memory,
	};
	if (ioctl(machine->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0 ||
	    ioctl(machine->vm, KVM_SET_TSS_ADDR, 0xFFFBD000) < 0 ||
	    ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return -errno;
	machine->vcpu = ioctl(machine->vm, KVM_CREATE_VCPU, 0);
	if (machine->vcpu < 0)
		return -errno;
	machine->run_size = (size_t)ioctl(machine->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	machine->run = mmap(NULL, machine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, machine->vcpu, 0);
	return machine->run == MAP_FAILED ? -errno : 0;
}

static void unmake(struct machine *machine)
{
	if (machine->run != MAP_FAILED)
		munmap(machine->run, machine->run_size);
	if (machine->memory != MAP_FAILED)
		munmap(machine->memory, machine->memory_size);
	close(machine->vcpu);
	close(machine->vm);
	close(machine->kvm);
}

long plain_loop_run(const void *elf, size_t elf_size, size_t memory_size, uint8_t *serial, size_t capacity,
		    enum plain_loop loop, void *tally)
{
	struct machine machine = { .kvm = -1, .vm = -1, .vcpu = -1, .memory = MAP_FAILED, .run = MAP_FAILED };
	uint64_t entry;
	long result = make(&machine, memory_size);

	if (result == 0)
		result = load(&machine, elf, elf_size, &entry);
	if (result == 0)
		result = set_cpuid(&machine);
	if (result == 0)
		result = enter_long_mode(&machine, entry);
	if (result == 0)
		result = loop == PLAIN_LOOP_IOCTL  ? run_loop(&machine, serial, capacity, false, NULL) :
			 loop == PLAIN_LOOP_INLINE ? run_loop(&machine, serial, capacity, true, NULL) :
						     run_loop(&machine, serial, capacity, true, tally);
	unmake(&machine);
	return result;
}

const char *plain_loop_compiler(void)
{
	return __VERSION__;
}
