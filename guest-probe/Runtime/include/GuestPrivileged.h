/* SPDX-License-Identifier: Apache-2.0 */
/* Privileged and rare instructions, one function each, and the interrupts of interrupts.S. */
#ifndef GUEST_PRIVILEGED_H
#define GUEST_PRIVILEGED_H

#include "GuestCPU.h"

/* The TSC's low 32 bits: one instruction between two readings less than with all 64. */
GUEST_INLINE uint32_t guest_tsc_low(void)
{
	uint32_t low;

	__asm__ volatile("rdtsc" : "=a"(low) : : "edx", "memory");
	return low;
}

#define GUEST_REGISTER(name, register)                                                  \
	GUEST_INLINE uint64_t guest_read_##name(void)                                   \
	{                                                                               \
		uint64_t value;                                                         \
		__asm__ volatile("movq %%" register ", %0" : "=r"(value) : : "memory"); \
		return value;                                                           \
	}                                                                               \
	GUEST_INLINE void guest_write_##name(uint64_t value)                            \
	{                                                                               \
		__asm__ volatile("movq %0, %%" register : : "r"(value) : "memory");     \
	}

GUEST_REGISTER(cr0, "cr0")
GUEST_REGISTER(cr3, "cr3")
GUEST_REGISTER(cr4, "cr4")
GUEST_REGISTER(cr8, "cr8")
GUEST_REGISTER(dr0, "dr0")

/* Extended control register 0; needs CR4.OSXSAVE. */
GUEST_INLINE uint64_t guest_read_xcr0(void)
{
	uint32_t low, high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

GUEST_INLINE void guest_write_xcr0(uint64_t value)
{
	__asm__ volatile("xsetbv" : : "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(0) : "memory");
}

/* A hypercall by the processor's own instruction: VMMCALL on AMD, else VMCALL. */
GUEST_INLINE void guest_vmmcall(uint64_t number)
{
	__asm__ volatile("vmmcall" : "+a"(number) : : "memory");
}

GUEST_INLINE void guest_vmcall(uint64_t number)
{
	__asm__ volatile("vmcall" : "+a"(number) : : "memory");
}

/* MSR accesses that the caller knows to be allowed. */
GUEST_INLINE void guest_rdmsr(uint32_t msr)
{
	__asm__ volatile("rdmsr" : : "c"(msr) : "eax", "edx", "memory");
}

GUEST_INLINE void guest_wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

GUEST_INLINE void guest_wbinvd(void)
{
	__asm__ volatile("wbinvd" : : : "memory");
}

/* Loses what the caches have not written back, where it is not intercepted: KVM always does. */
GUEST_INLINE void guest_invd(void)
{
	__asm__ volatile("invd" : : : "memory");
}

GUEST_INLINE void guest_invlpg(uint64_t address)
{
	__asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}

GUEST_INLINE void guest_rdpmc(uint32_t counter)
{
	__asm__ volatile("rdpmc" : : "c"(counter) : "eax", "edx", "memory");
}

GUEST_INLINE void guest_rdrand(void)
{
	uint64_t value;

	__asm__ volatile("rdrand %0" : "=r"(value) : : "cc", "memory");
}

GUEST_INLINE void guest_pause_loop(uint64_t count)
{
	__asm__ volatile("1: pause; decq %0; jnz 1b" : "+r"(count) : : "cc", "memory");
}

GUEST_INLINE void guest_interrupts_on(void)
{
	__asm__ volatile("sti; nop" : : : "memory");
}

GUEST_INLINE void guest_interrupts_off(void)
{
	__asm__ volatile("cli" : : : "memory");
}

/* Sleeps until an interrupt, and none is lost: STI takes effect after the HLT has begun (SDM vol. 2B, STI). */
GUEST_INLINE void guest_sleep(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

/* Vectors that guest_install_interrupts has handlers for. */
#define GUEST_VECTOR_0 0x40
#define GUEST_VECTOR_1 0x41

/* What an interrupt's handler leaves: TSC at its first instruction; count, raised after the end-of-interrupt. */
struct guest_interrupt {
	uint64_t stamp;
	uint32_t count;
	uint32_t unused[13];
};

struct guest_interrupt *guest_interrupt_0(void);
struct guest_interrupt *guest_interrupt_1(void);

/* Loads an IDT of start.S's exceptions and the two vectors. */
void guest_install_interrupts(void);
/* How end-of-interrupt goes from now on. */
void guest_use_x2apic(uint32_t on);

#endif
