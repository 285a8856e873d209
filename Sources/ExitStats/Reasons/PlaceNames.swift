// SPDX-License-Identifier: Apache-2.0

extension ExitPlace {
    /// What a PC has at this port, or the MSR's name; nil where there is none of common use.
    public func name(on axis: PlaceAxis) -> String? {
        switch axis {
        case .port: Self.ports.first { $0.0.contains(value) }?.1
        case .msr: Self.msrs[value]
        case .address: Self.addresses.first { $0.0.contains(value) }?.1
        case .rip: nil
        }
    }

    /// ISA, ACPI and PCI as PCs and QEMU have them.
    private static let ports: [(ClosedRange<UInt64>, String)] = [
        (0x20...0x21, "PIC 1"), (0x40...0x43, "PIT"), (0x60...0x60, "keyboard"), (0x61...0x61, "port B"),
        (0x64...0x64, "keyboard"), (0x70...0x71, "RTC"), (0x80...0x80, "POST code"), (0x92...0x92, "port A"),
        (0xA0...0xA1, "PIC 2"), (0xED...0xED, "delay"), (0xF4...0xF4, "exit port"), (0xF5...0xF5, "boot marker"),
        (0x1F0...0x1F7, "IDE 1"), (0x170...0x177, "IDE 2"), (0x2E8...0x2EF, "COM4"), (0x2F8...0x2FF, "COM2"),
        (0x378...0x37A, "LPT1"), (0x3B0...0x3DF, "VGA"), (0x3E8...0x3EF, "COM3"), (0x3F0...0x3F7, "floppy"),
        (0x3F8...0x3FF, "COM1"), (0x402...0x402, "debug console"), (0x4D0...0x4D1, "ELCR"), (0x510...0x51B, "fw_cfg"),
        (0x600...0x60F, "ACPI PM"), (0xCF9...0xCF9, "reset"), (0xCF8...0xCFF, "PCI configuration"),
        (0xC000...0xCFFF, "PCI configuration 2"),
    ]

    /// SDM vol. 4 table 2-2, AMD's APM vol. 2 appendix A, and kvm/x86/msr.rst.
    private static let msrs: [UInt64: String] = [
        0x10: "IA32_TSC", 0x1B: "IA32_APIC_BASE", 0x3A: "IA32_FEATURE_CONTROL", 0x3B: "IA32_TSC_ADJUST",
        0x48: "IA32_SPEC_CTRL", 0x49: "IA32_PRED_CMD", 0x79: "IA32_BIOS_UPDT_TRIG", 0x8B: "IA32_BIOS_SIGN_ID",
        0xCE: "MSR_PLATFORM_INFO", 0xFE: "IA32_MTRRCAP", 0x10A: "IA32_ARCH_CAPABILITIES",
        0x140: "MSR_MISC_FEATURES_ENABLES", 0x174: "IA32_SYSENTER_CS", 0x175: "IA32_SYSENTER_ESP",
        0x176: "IA32_SYSENTER_EIP", 0x179: "IA32_MCG_CAP", 0x17A: "IA32_MCG_STATUS", 0x1A0: "IA32_MISC_ENABLE",
        0x1D9: "IA32_DEBUGCTL", 0x277: "IA32_PAT", 0x2FF: "IA32_MTRR_DEF_TYPE", 0x6E0: "IA32_TSC_DEADLINE",
        0x802: "x2APIC ID", 0x808: "x2APIC TPR", 0x80B: "x2APIC EOI", 0x80F: "x2APIC SVR", 0x830: "x2APIC ICR",
        0x832: "x2APIC LVT timer", 0x838: "x2APIC initial count", 0x839: "x2APIC current count",
        0xDA0: "IA32_XSS", 0x4000_0000: "HV_X64_MSR_GUEST_OS_ID", 0x4000_0001: "HV_X64_MSR_HYPERCALL",
        0x4B56_4D00: "MSR_KVM_WALL_CLOCK_NEW", 0x4B56_4D01: "MSR_KVM_SYSTEM_TIME_NEW",
        0x4B56_4D02: "MSR_KVM_ASYNC_PF_EN", 0x4B56_4D03: "MSR_KVM_STEAL_TIME", 0x4B56_4D04: "MSR_KVM_EOI_EN",
        0x4B56_4D05: "MSR_KVM_POLL_CONTROL", 0xC000_0080: "IA32_EFER", 0xC000_0081: "IA32_STAR",
        0xC000_0082: "IA32_LSTAR", 0xC000_0084: "IA32_FMASK", 0xC000_0100: "IA32_FS_BASE", 0xC000_0101: "IA32_GS_BASE",
        0xC000_0102: "IA32_KERNEL_GS_BASE", 0xC000_0103: "IA32_TSC_AUX", 0xC001_0015: "MSR_AMD64_HWCR",
        0xC001_001F: "MSR_AMD64_NB_CFG", 0xC001_1029: "MSR_AMD64_DE_CFG",
    ]

    private static let addresses: [(ClosedRange<UInt64>, String)] = [
        (0xA_0000...0xB_FFFF, "VGA"), (0xFEC0_0000...0xFEC0_0FFF, "I/O APIC"), (0xFED0_0000...0xFED0_0FFF, "HPET"),
        (0xFED4_0000...0xFED4_4FFF, "TPM"), (0xFEE0_0000...0xFEE0_0FFF, "local APIC"),
    ]
}
