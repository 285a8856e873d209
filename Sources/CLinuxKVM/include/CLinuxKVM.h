/* SPDX-License-Identifier: Apache-2.0 */
/*
 * <linux/kvm.h>, and what Swift cannot import from it: ioctl numbers (function-like macros) and accessors of the run
 * page's unions. Nothing else.
 */
#ifndef CLINUXKVM_H
#define CLINUXKVM_H

#include <stdint.h>
#include <linux/kvm.h>

#define VMTALLY_INLINE static inline __attribute__((always_inline))

/* struct kvm_pre_fault_memory, newer than the headers of some systems (Linux 6.11; kvm/api.rst 4.143). */
struct vmtally_pre_fault_memory {
	uint64_t gpa, size, flags, padding[5];
};

/* Request numbers: an enumerator imports as a UInt constant, a macro with _IOW() does not import at all. */
enum : unsigned long {
	/* /dev/kvm */
	VMTALLY_KVM_GET_API_VERSION = KVM_GET_API_VERSION,
	VMTALLY_KVM_CREATE_VM = KVM_CREATE_VM,
	VMTALLY_KVM_CHECK_EXTENSION = KVM_CHECK_EXTENSION,
	VMTALLY_KVM_GET_VCPU_MMAP_SIZE = KVM_GET_VCPU_MMAP_SIZE,
	VMTALLY_KVM_GET_SUPPORTED_CPUID = KVM_GET_SUPPORTED_CPUID,
	VMTALLY_KVM_GET_EMULATED_CPUID = KVM_GET_EMULATED_CPUID,
	VMTALLY_KVM_GET_MSR_INDEX_LIST = KVM_GET_MSR_INDEX_LIST,
	VMTALLY_KVM_GET_MSR_FEATURE_INDEX_LIST = KVM_GET_MSR_FEATURE_INDEX_LIST,
	/* VM */
	VMTALLY_KVM_ENABLE_CAP = KVM_ENABLE_CAP,
	VMTALLY_KVM_SET_USER_MEMORY_REGION = KVM_SET_USER_MEMORY_REGION,
	VMTALLY_KVM_GET_DIRTY_LOG = KVM_GET_DIRTY_LOG,
	VMTALLY_KVM_SET_TSS_ADDR = KVM_SET_TSS_ADDR,
	VMTALLY_KVM_SET_IDENTITY_MAP_ADDR = KVM_SET_IDENTITY_MAP_ADDR,
	VMTALLY_KVM_SET_BOOT_CPU_ID = KVM_SET_BOOT_CPU_ID,
	VMTALLY_KVM_CREATE_VCPU = KVM_CREATE_VCPU,
	VMTALLY_KVM_CREATE_IRQCHIP = KVM_CREATE_IRQCHIP,
	VMTALLY_KVM_GET_IRQCHIP = KVM_GET_IRQCHIP,
	VMTALLY_KVM_SET_IRQCHIP = KVM_SET_IRQCHIP,
	VMTALLY_KVM_CREATE_PIT2 = KVM_CREATE_PIT2,
	VMTALLY_KVM_GET_PIT2 = KVM_GET_PIT2,
	VMTALLY_KVM_SET_PIT2 = KVM_SET_PIT2,
	VMTALLY_KVM_IRQ_LINE = KVM_IRQ_LINE,
	VMTALLY_KVM_SIGNAL_MSI = KVM_SIGNAL_MSI,
	VMTALLY_KVM_SET_GSI_ROUTING = KVM_SET_GSI_ROUTING,
	VMTALLY_KVM_IRQFD = KVM_IRQFD,
	VMTALLY_KVM_IOEVENTFD = KVM_IOEVENTFD,
	VMTALLY_KVM_REGISTER_COALESCED_MMIO = KVM_REGISTER_COALESCED_MMIO,
	VMTALLY_KVM_UNREGISTER_COALESCED_MMIO = KVM_UNREGISTER_COALESCED_MMIO,
	VMTALLY_KVM_GET_CLOCK = KVM_GET_CLOCK,
	VMTALLY_KVM_SET_CLOCK = KVM_SET_CLOCK,
	VMTALLY_KVM_X86_SET_MSR_FILTER = KVM_X86_SET_MSR_FILTER,
	VMTALLY_KVM_GET_STATS_FD = KVM_GET_STATS_FD,
	/* vCPU */
	VMTALLY_KVM_RUN = KVM_RUN,
	VMTALLY_KVM_GET_REGS = KVM_GET_REGS,
	VMTALLY_KVM_SET_REGS = KVM_SET_REGS,
	VMTALLY_KVM_GET_SREGS = KVM_GET_SREGS,
	VMTALLY_KVM_SET_SREGS = KVM_SET_SREGS,
	VMTALLY_KVM_GET_FPU = KVM_GET_FPU,
	VMTALLY_KVM_SET_FPU = KVM_SET_FPU,
	VMTALLY_KVM_GET_XSAVE = KVM_GET_XSAVE,
	VMTALLY_KVM_GET_XSAVE2 = KVM_GET_XSAVE2,
	VMTALLY_KVM_SET_XSAVE = KVM_SET_XSAVE,
	VMTALLY_KVM_GET_XCRS = KVM_GET_XCRS,
	VMTALLY_KVM_SET_XCRS = KVM_SET_XCRS,
	VMTALLY_KVM_GET_CPUID2 = KVM_GET_CPUID2,
	VMTALLY_KVM_SET_CPUID2 = KVM_SET_CPUID2,
	VMTALLY_KVM_GET_MSRS = KVM_GET_MSRS,
	VMTALLY_KVM_SET_MSRS = KVM_SET_MSRS,
	VMTALLY_KVM_SET_GUEST_DEBUG = KVM_SET_GUEST_DEBUG,
	VMTALLY_KVM_GET_DEBUGREGS = KVM_GET_DEBUGREGS,
	VMTALLY_KVM_SET_DEBUGREGS = KVM_SET_DEBUGREGS,
	VMTALLY_KVM_GET_VCPU_EVENTS = KVM_GET_VCPU_EVENTS,
	VMTALLY_KVM_SET_VCPU_EVENTS = KVM_SET_VCPU_EVENTS,
	VMTALLY_KVM_GET_LAPIC = KVM_GET_LAPIC,
	VMTALLY_KVM_SET_LAPIC = KVM_SET_LAPIC,
	VMTALLY_KVM_GET_MP_STATE = KVM_GET_MP_STATE,
	VMTALLY_KVM_SET_MP_STATE = KVM_SET_MP_STATE,
	VMTALLY_KVM_GET_TSC_KHZ = KVM_GET_TSC_KHZ,
	VMTALLY_KVM_SET_TSC_KHZ = KVM_SET_TSC_KHZ,
	VMTALLY_KVM_TRANSLATE = KVM_TRANSLATE,
	VMTALLY_KVM_INTERRUPT = KVM_INTERRUPT,
	VMTALLY_KVM_NMI = KVM_NMI,
	VMTALLY_KVM_SMI = KVM_SMI,
	VMTALLY_KVM_SET_SIGNAL_MASK = KVM_SET_SIGNAL_MASK,
	VMTALLY_KVM_KVMCLOCK_CTRL = KVM_KVMCLOCK_CTRL,
	VMTALLY_KVM_PRE_FAULT_MEMORY = _IOWR(KVMIO, 0xd5, struct vmtally_pre_fault_memory),
};

/* kvm_run.immediate_exit is written by one thread while the kernel reads it on another's behalf. */
VMTALLY_INLINE void vmtally_set_immediate_exit(struct kvm_run *run, uint8_t value)
{
	__atomic_store_n(&run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

/* The registers that KVM exchanges through the run page (KVM_CAP_SYNC_REGS). */
VMTALLY_INLINE struct kvm_sync_regs *vmtally_sync_regs(struct kvm_run *run)
{
	return &run->s.regs;
}

/* KVM_EXIT_X86_CPUID of kernel-patch/: EAX and ECX as the guest passed them, KVM's answer, to be replaced. */
struct vmtally_cpuid_exit {
	uint32_t function, index;
	uint32_t eax, ebx, ecx, edx;
};

VMTALLY_INLINE struct vmtally_cpuid_exit *vmtally_cpuid_exit(struct kvm_run *run)
{
	return (struct vmtally_cpuid_exit *)run->padding;
}

/* KVM_EXIT_MEMORY_FAULT, newer than the headers of some systems (Linux 6.8; kvm/api.rst 5). */
static const uint32_t VMTALLY_KVM_EXIT_MEMORY_FAULT = 39;

struct vmtally_memory_fault {
	uint64_t flags, gpa, size;
};

VMTALLY_INLINE struct vmtally_memory_fault vmtally_memory_fault(const struct kvm_run *run)
{
	struct vmtally_memory_fault fault;

	__builtin_memcpy(&fault, run->padding, sizeof(fault));
	return fault;
}

/* Answers KVM_EXIT_MMIO of a read, little-endian. */
VMTALLY_INLINE void vmtally_answer_mmio(struct kvm_run *run, uint64_t value)
{
	__builtin_memcpy(run->mmio.data, &value, sizeof(value));
}

/* Data of KVM_EXIT_MMIO, 8 bytes. */
VMTALLY_INLINE uint8_t *vmtally_mmio_data(struct kvm_run *run)
{
	return run->mmio.data;
}

/* Answers KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR; a non-zero error raises #GP in the guest. */
VMTALLY_INLINE void vmtally_answer_msr(struct kvm_run *run, uint64_t value, uint8_t error)
{
	run->msr.data = value;
	run->msr.error = error;
}

#endif
