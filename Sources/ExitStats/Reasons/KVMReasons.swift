// SPDX-License-Identifier: Apache-2.0
extension ReasonVocabulary {
    /// KVM_EXIT_*: why KVM_RUN returned to userspace (include/uapi/linux/kvm.h; kvm/api.rst, section 5).
    ///
    /// All architectures' reasons are here, since they share one number space.
    public static let kvm = ReasonVocabulary(id: .kvm, key: "kvm", prefix: "KVM_EXIT_", reasons: kvmReasons)
}

private let kvmReasons: [ExitReason] = [
    .init(code: 0, name: "KVM_EXIT_UNKNOWN", meaning: "a hardware exit that KVM does not know"),
    .init(code: 1, name: "KVM_EXIT_EXCEPTION", meaning: "guest exception (not used on x86)"),
    .init(code: 2, name: "KVM_EXIT_IO", meaning: "port I/O (IN, OUT, INS, OUTS) that no in-kernel device claims"),
    .init(code: 3, name: "KVM_EXIT_HYPERCALL", meaning: "hypercall that userspace asked to handle itself"),
    .init(code: 4, name: "KVM_EXIT_DEBUG", meaning: "breakpoint or single step set by KVM_SET_GUEST_DEBUG"),
    .init(code: 5, name: "KVM_EXIT_HLT", meaning: "HLT, with no in-kernel interrupt controller"),
    .init(code: 6, name: "KVM_EXIT_MMIO", meaning: "access to a guest physical address without memory behind it"),
    .init(code: 7, name: "KVM_EXIT_IRQ_WINDOW_OPEN", meaning: "guest can take an interrupt, as was asked for"),
    .init(code: 8, name: "KVM_EXIT_SHUTDOWN", meaning: "triple fault or shutdown"),
    .init(code: 9, name: "KVM_EXIT_FAIL_ENTRY", meaning: "the processor refused to enter the guest"),
    .init(code: 10, name: "KVM_EXIT_INTR", meaning: "a signal, or immediate_exit: KVM_RUN gave EINTR"),
    .init(code: 11, name: "KVM_EXIT_SET_TPR", meaning: "guest lowered CR8, interrupt controller in userspace"),
    .init(code: 12, name: "KVM_EXIT_TPR_ACCESS", meaning: "access to the task priority register, as asked for"),
    .init(code: 13, name: "KVM_EXIT_S390_SIEIC", meaning: "s390: interception that userspace has to handle"),
    .init(code: 14, name: "KVM_EXIT_S390_RESET", meaning: "s390: guest reset"),
    .init(code: 15, name: "KVM_EXIT_DCR", meaning: "PowerPC: device control register access (no longer used)"),
    .init(code: 16, name: "KVM_EXIT_NMI", meaning: "NMI while the guest ran"),
    .init(code: 17, name: "KVM_EXIT_INTERNAL_ERROR", meaning: "KVM gave up, mostly on an instruction to emulate"),
    .init(code: 18, name: "KVM_EXIT_OSI", meaning: "PowerPC: OSI hypercall"),
    .init(code: 19, name: "KVM_EXIT_PAPR_HCALL", meaning: "PowerPC: PAPR hypercall"),
    .init(code: 20, name: "KVM_EXIT_S390_UCONTROL", meaning: "s390: fault in a VM whose memory userspace controls"),
    .init(code: 21, name: "KVM_EXIT_WATCHDOG", meaning: "PowerPC: watchdog expired"),
    .init(code: 22, name: "KVM_EXIT_S390_TSCH", meaning: "s390: TEST SUBCHANNEL"),
    .init(code: 23, name: "KVM_EXIT_EPR", meaning: "PowerPC: interrupt acknowledged (external proxy)"),
    .init(code: 24, name: "KVM_EXIT_SYSTEM_EVENT", meaning: "shutdown, reset, crash or another system event"),
    .init(code: 25, name: "KVM_EXIT_S390_STSI", meaning: "s390: STORE SYSTEM INFORMATION"),
    .init(code: 26, name: "KVM_EXIT_IOAPIC_EOI", meaning: "EOI for an I/O APIC in userspace"),
    .init(code: 27, name: "KVM_EXIT_HYPERV", meaning: "Hyper-V synthetic interrupt controller, hypercall or debugger"),
    .init(code: 28, name: "KVM_EXIT_ARM_NISV", meaning: "arm64: access outside memory, without a syndrome"),
    .init(code: 29, name: "KVM_EXIT_X86_RDMSR", meaning: "RDMSR that KVM does not know or a filter denies"),
    .init(code: 30, name: "KVM_EXIT_X86_WRMSR", meaning: "WRMSR that KVM does not know or a filter denies"),
    .init(code: 31, name: "KVM_EXIT_DIRTY_RING_FULL", meaning: "the vCPU's dirty ring is nearly full"),
    .init(code: 32, name: "KVM_EXIT_AP_RESET_HOLD", meaning: "SEV-ES: a secondary vCPU waits for its start"),
    .init(code: 33, name: "KVM_EXIT_X86_BUS_LOCK", meaning: "guest locked the bus, as was asked for"),
    .init(code: 34, name: "KVM_EXIT_XEN", meaning: "Xen hypercall"),
    .init(code: 35, name: "KVM_EXIT_RISCV_SBI", meaning: "RISC-V: SBI call"),
    .init(code: 36, name: "KVM_EXIT_RISCV_CSR", meaning: "RISC-V: control and status register access"),
    .init(code: 37, name: "KVM_EXIT_NOTIFY", meaning: "no event window opened in time: guest hangs the processor"),
    .init(code: 38, name: "KVM_EXIT_LOONGARCH_IOCSR", meaning: "LoongArch: IOCSR access"),
    .init(code: 39, name: "KVM_EXIT_MEMORY_FAULT", meaning: "fault on guest memory, for userspace to resolve"),
    .init(code: 40, name: "KVM_EXIT_TDX", meaning: "TDX: guest's TDVMCALL for userspace"),
    .init(code: 41, name: "KVM_EXIT_ARM_SEA", meaning: "arm64: synchronous external abort, as asked for"),
    .init(code: 42, name: "KVM_EXIT_ARM_LDST64B", meaning: "arm64: 64-byte load or store outside memory"),
    .init(code: 43, name: "KVM_EXIT_SNP_REQ_CERTS", meaning: "SEV-SNP: attestation needs certificates"),
    // Of kernel-patch/, not upstream.
    .init(code: 0x7674_0001, name: "KVM_EXIT_X86_CPUID", meaning: "CPUID of a leaf that userspace wants to answer"),
]
