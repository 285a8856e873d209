/* SPDX-License-Identifier: Apache-2.0 */
/* What a bare-metal guest's Swift cannot say itself: single instructions, and the functions of start.S. */
#ifndef GUEST_CPU_H
#define GUEST_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_INLINE static inline __attribute__((always_inline))

/* What RDI points to at entry (docs/guests.md). */
struct guest_boot_info {
	uint64_t magic;         /* GUEST_BOOT_MAGIC */
	uint64_t memory_bytes;
	uint32_t vcpus;
	uint32_t reserved;
};

/* "VMTALLY1", little-endian. */
static const uint64_t GUEST_BOOT_MAGIC = 0x31594C4C41544D56;

/* The registers that CPUID writes. */
struct guest_registers {
	uint32_t eax, ebx, ecx, edx;
};

/* CPUID in ring 0, by the one such instruction of the guest. */
void guest_cpuid(uint32_t leaf, uint32_t subleaf, struct guest_registers *result);
/* CPUID by a visit to ring 3. vCPU 0 only. */
void guest_cpuid_user(uint32_t leaf, uint32_t subleaf, struct guest_registers *result);

/* What ring 3 hands back. */
struct guest_pair {
	uint64_t first, second;
};

/* Runs a function of user.c in ring 3. vCPU 0 only. */
struct guest_pair guest_call_user(const void *function, uint64_t first, uint64_t second);
/* For guest_call_user, the tally page first: the VM's total, count and cycles. */
const void *guest_user_page_total(void);
/* `second` readings of it: TSC cycles that they took; count of the last. */
const void *guest_user_page_readings(void);
/* `first` readings of leaf 0x4FFFFFFF, likewise. */
const void *guest_user_leaf_readings(void);

struct guest_pair guest_readings_plan(void);

/* False when the access raised #GP. */
bool guest_read_msr(uint32_t msr, uint64_t *value);
bool guest_write_msr(uint32_t msr, uint64_t value);

/* vCPUs that can take part; more of them only wait. */
#define GUEST_MAX_VCPUS 1024

/* What vCPU 0 and another one tell each other: a cache line of its own for each. */
struct guest_mailbox {
	uint32_t state;         /* written by the other vCPU */
	uint32_t command;       /* written by vCPU 0 */
	uint64_t first;
	uint64_t second;
	uint64_t unused[5];
};

struct guest_mailbox *guest_mailbox(uint32_t vcpu);

/* CPUID in ring 0 by an instruction that no VMM is told of. */
GUEST_INLINE void guest_cpuid_inline(uint32_t leaf, uint32_t subleaf, struct guest_registers *result)
{
	__asm__ volatile("cpuid"
			 : "=a"(result->eax), "=b"(result->ebx), "=c"(result->ecx), "=d"(result->edx)
			 : "a"(leaf), "c"(subleaf));
}

GUEST_INLINE void guest_out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

GUEST_INLINE void guest_out16(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

GUEST_INLINE void guest_out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

GUEST_INLINE uint8_t guest_in8(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

GUEST_INLINE uint16_t guest_in16(uint16_t port)
{
	uint16_t value;

	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

GUEST_INLINE uint32_t guest_in32(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

/* REP OUTSB and REP INSB of `count` bytes. */
GUEST_INLINE void guest_rep_out8(uint16_t port, const void *bytes, size_t count)
{
	__asm__ volatile("rep outsb" : "+S"(bytes), "+c"(count) : "d"(port) : "memory");
}

GUEST_INLINE void guest_rep_in8(uint16_t port, void *bytes, size_t count)
{
	__asm__ volatile("rep insb" : "+D"(bytes), "+c"(count) : "d"(port) : "memory");
}

/* memcpy by REP MOVSB: two instructions' work for an instruction emulator, whatever the count. */
GUEST_INLINE void guest_copy(void *to, const void *from, size_t count)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

/* Where text waits until it is sent; one for all. */
#define GUEST_TEXT_BUFFER_SIZE 8192
unsigned char *guest_text_buffer(void);

/* There is no heap: memory for the guest's own use, zero at the start; one for all. */
#define GUEST_SCRATCH_SIZE 8192
void *guest_scratch(void);

/* Device memory: one MOV of exactly that width each. */
GUEST_INLINE void guest_mmio_write8(uint64_t address, uint8_t value)
{
	__asm__ volatile("movb %0, (%1)" : : "a"(value), "r"(address) : "memory");
}

GUEST_INLINE void guest_mmio_write32(uint64_t address, uint32_t value)
{
	__asm__ volatile("movl %0, (%1)" : : "a"(value), "r"(address) : "memory");
}

GUEST_INLINE void guest_mmio_write64(uint64_t address, uint64_t value)
{
	__asm__ volatile("movq %0, (%1)" : : "a"(value), "r"(address) : "memory");
}

GUEST_INLINE uint16_t guest_mmio_read16(uint64_t address)
{
	uint16_t value;

	__asm__ volatile("movw (%1), %0" : "=a"(value) : "r"(address) : "memory");
	return value;
}

GUEST_INLINE uint32_t guest_mmio_read32(uint64_t address)
{
	uint32_t value;

	__asm__ volatile("movl (%1), %0" : "=a"(value) : "r"(address) : "memory");
	return value;
}

GUEST_INLINE uint64_t guest_mmio_read64(uint64_t address)
{
	uint64_t value;

	__asm__ volatile("movq (%1), %0" : "=a"(value) : "r"(address) : "memory");
	return value;
}

/* Time stamp counter, TSC cycles. */
GUEST_INLINE uint64_t guest_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

GUEST_INLINE void guest_pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

/*
 * A pause for as long as another vCPU may take. No device of the guest interrupts it, but the host needs its own
 * interrupts to run the other vCPU at all, and SVM as Bochs 2.7 emulates it holds them back while the guest's are off.
 */
GUEST_INLINE void guest_yield(void)
{
	__asm__ volatile("sti; nop; pause; cli" : : : "memory");
}

/* Interrupts are off: this ends the vCPU. */
GUEST_INLINE void guest_halt(void)
{
	__asm__ volatile("hlt" : : : "memory");
}

/* What vCPUs tell one another goes through these: a store publishes everything before it. */
GUEST_INLINE uint32_t guest_load(const uint32_t *from)
{
	return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}

GUEST_INLINE void guest_store(uint32_t *to, uint32_t value)
{
	__atomic_store_n(to, value, __ATOMIC_RELEASE);
}

#endif
