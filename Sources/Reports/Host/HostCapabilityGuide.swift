// SPDX-License-Identifier: Apache-2.0
/// What a KVM capability is good for, and what its absence costs (kvm/api.rst; arch/x86/kvm/x86.c,
/// kvm_vm_ioctl_check_extension).
public struct CapabilityGuide: Sendable {
    /// What a group of capabilities is about, in the order of the report: what vmtally itself needs comes first.
    public enum Subject: String, CaseIterable, Codable, Sendable {
        case vmtally, memory, processor
        case cpuidAndMSRs = "cpuid_and_msrs"
        case interrupts, time, devices, exits, performance, nesting, migration, confidential
        case otherHypervisors = "other_hypervisors"
        case obsolete
        case otherArchitectures = "other_architectures"

        /// The heading of the group.
        public var title: String {
            switch self {
            case .vmtally: "What vmtally itself needs"
            case .memory: "Memory"
            case .processor: "Processor state"
            case .cpuidAndMSRs: "CPUID, MSRs and KVM's behaviour"
            case .interrupts: "Interrupts"
            case .time: "Time"
            case .devices: "Device I/O"
            case .exits: "Exits"
            case .performance: "Performance counters"
            case .nesting: "Nested virtualization"
            case .migration: "Dirty memory and live migration"
            case .confidential: "Confidential computing"
            case .otherHypervisors: "Guests made for Hyper-V or Xen"
            case .obsolete: "Obsolete: newer kernels have dropped them"
            case .otherArchitectures: "Other architectures, or newer than this table"
            }
        }
    }

    /// How to read the number that KVM_CHECK_EXTENSION gives.
    public enum Value: Sendable {
        case flag
        /// A limit or a size, with its unit.
        case count(String)
        /// A set of bits, lowest first; an empty name is a bit without a meaning.
        case bits([String])
    }

    /// The name behind `KVM_CAP_`.
    public let name: String
    public let subject: Subject
    /// What one has with it.
    public let gives: String
    /// What it costs not to have it.
    public let cost: String
    /// The kernel release that brought it to x86, where that is the remedy.
    public let since: String?
    public let value: Value

    init(
        _ name: String, _ subject: Subject, _ gives: String, _ cost: String, since: String? = nil,
        value: Value = .flag
    ) {
        self.name = name
        self.subject = subject
        self.gives = gives
        self.cost = cost
        self.since = since
        self.value = value
    }

    /// The guide to a capability; nil for those of other architectures and for newer ones.
    ///
    /// - Parameter name: as KVM_CAP_SYNC_REGS.
    public static func guide(_ name: String) -> CapabilityGuide? {
        byName[name]
    }

    private static let byName = Dictionary(uniqueKeysWithValues: all.map { ("KVM_CAP_\($0.name)", $0) })

    /// Every capability that some x86 kernel has had, by subject.
    public static let all: [CapabilityGuide] =
        vmtally + memory + processor + cpuidAndMSRs + interrupts + time + devices + exits + performance + nesting
        + migration + confidential + otherHypervisors + obsolete

    private static let vmtally: [CapabilityGuide] = [
        .init("USER_MEMORY", .vmtally, "guest memory out of the VMM's own pages", "nothing runs: no guest memory"),
        .init(
            "EXT_CPUID", .vmtally, "KVM_SET_CPUID2: the VMM chooses the guest's CPUID",
            "vmtally's leaves cannot be answered at all"),
        .init(
            "SET_GUEST_DEBUG", .vmtally, "breakpoints and single step on the guest",
            "live CPUID modes `fault` and `sites` are out; answers are snapshots"),
        .init(
            "SET_GUEST_DEBUG2", .vmtally, "which kinds of guest debugging there are",
            "which kinds of breakpoint there are is only found out by trying", since: "5.13",
            value: .bits(
                ["enable", "singlestep"] + Array(repeating: "", count: 14)
                    + ["use_sw_bp", "use_hw_bp", "inject_db", "inject_bp", "blockirq"])),
        .init(
            "MSR_PLATFORM_INFO", .vmtally, "the MSR that announces CPUID faulting to the guest",
            "live CPUID mode `fault` is out: faulting cannot be turned on", since: "4.19"),
        .init(
            "X86_USER_SPACE_MSR", .vmtally, "MSR accesses that KVM refuses reach the VMM",
            "mode `fault` is out for guests that write MSR 0x140, as Linux does", since: "5.10"),
        .init(
            "X86_MSR_FILTER", .vmtally, "the VMM chooses which MSRs KVM refuses",
            "mode `fault` is out for guests that write MSR 0x140, as Linux does", since: "5.10"),
        .init(
            "SYNC_REGS", .vmtally, "registers in the shared page, without system calls",
            "two to four more system calls for each CPUID answered live", since: "4.17",
            value: .bits(["regs", "sregs", "events"])),
        .init(
            "VCPU_EVENTS", .vmtally, "pending exceptions, interrupts and NMIs can be read and set",
            "an exception in delivery is lost when a CPUID is answered live"),
        .init(
            "DEBUGREGS", .vmtally, "the guest's debug registers can be read and set",
            "a guest's own breakpoints are lost on reset and migration"),
        .init(
            "X86_ROBUST_SINGLESTEP", .vmtally, "single step that survives POPF and interrupts",
            "stepping over a #GP that belongs to the guest may stop too late"),
        .init(
            "IMMEDIATE_EXIT", .vmtally, "a vCPU is stopped without a race",
            "--timeout and Ctrl-C can come too late for a vCPU about to run", since: "4.11"),
        .init(
            "BINARY_STATS_FD", .vmtally, "KVM's own counters, without privileges",
            "no kernel view: exits that KVM handles itself stay uncounted", since: "5.14"),
        .init(
            "GET_TSC_KHZ", .vmtally, "the guest's TSC frequency",
            "leaf 0x4FFFFF01 says 0 kHz; cycles cannot be told as time"),
        .init(
            "INTERNAL_ERROR_DATA", .vmtally, "details of an internal error of KVM",
            "KVM_EXIT_INTERNAL_ERROR is reported without the reason behind it"),
        .init(
            "EXIT_ON_EMULATION_FAILURE", .vmtally, "every failed emulation ends the run, with its bytes",
            "some failed emulations become a #UD in the guest, and go unseen", since: "5.15"),
        .init(
            "LAST_CPU", .vmtally, "which CPU an entry failed on", "KVM_EXIT_FAIL_ENTRY does not say on which CPU"
        ),
        .init(
            "IRQCHIP", .vmtally, "interrupt controllers inside KVM",
            "guests that need an APIC, such as Linux, do not run"),
        .init("PIT2", .vmtally, "timer chip inside KVM", "Linux may find no timer to calibrate with, and hang"),
        .init(
            "SET_TSS_ADDR", .vmtally, "room for real mode on Intel without unrestricted guest",
            "real-mode code does not run on Intel without unrestricted guest"),
        .init(
            "SET_IDENTITY_MAP_ADDR", .vmtally, "room for unpaged mode on Intel without unrestricted guest",
            "KVM uses the page at 0xFFFBC000 for it, whether or not there is memory"),
        .init("MP_STATE", .vmtally, "vCPUs can be parked and started", "the VMM cannot start secondary vCPUs"),
        .init(
            "NR_VCPUS", .vmtally, "vCPUs that are recommended", "KVM recommends at most 4 vCPUs",
            value: .count("vCPUs")),
        .init("MAX_VCPUS", .vmtally, "vCPUs that are possible", "as NR_VCPUS", value: .count("vCPUs")),
        .init("MAX_VCPU_ID", .vmtally, "vCPU numbers that are possible", "as MAX_VCPUS", value: .count("numbers")),
        .init(
            "NR_MEMSLOTS", .vmtally, "memory slots that a VM can have", "KVM allows 32 slots",
            value: .count("slots")),
        .init(
            "CHECK_EXTENSION_VM", .vmtally, "capabilities can be asked of one VM",
            "only the host's values are known; one VM's may differ"),
    ]

    private static let memory: [CapabilityGuide] = [
        .init("SYNC_MMU", .memory, "guest memory can be swapped, merged, moved", "guest memory is pinned"),
        .init(
            "MMU_SHADOW_CACHE_CONTROL", .memory, "the size of the shadow page cache can be set",
            "the size of the shadow page cache is KVM's choice"),
        .init(
            "DESTROY_MEMORY_REGION_WORKS", .memory, "memory slots can be removed", "memory cannot be unplugged"),
        .init(
            "JOIN_MEMORY_REGIONS_WORKS", .memory, "slots can be replaced by a joined one",
            "neighbouring slots cannot be joined"),
        .init(
            "READONLY_MEM", .memory, "memory that reads at full speed and exits on writes",
            "firmware and ROMs can be overwritten by the guest, or exit on reads"),
        .init(
            "MULTI_ADDRESS_SPACE", .memory, "memory of its own for system-management mode",
            "SMM code shares memory with the guest, or there is no SMM", value: .count("address spaces")),
        .init(
            "VM_DISABLE_NX_HUGE_PAGES", .memory, "a trusted VM can keep executable huge pages",
            "the ITLB-multihit mitigation costs page faults in every VM"),
        .init(
            "USER_MEMORY2", .memory, "memory slots backed by guest_memfd",
            "no private memory: no guest_memfd slots"),
        .init(
            "MEMORY_FAULT_INFO", .memory, "faults for userspace say where they were",
            "KVM_RUN ends with a bare EFAULT, without an address"),
        .init(
            "MEMORY_ATTRIBUTES", .memory, "pages can be made private or shared",
            "only confidential VMs miss it", value: .bits(["", "", "", "private"])),
        .init(
            "GUEST_MEMFD", .memory, "memory that the VMM itself cannot map", "only confidential VMs miss it"),
        .init(
            "GUEST_MEMFD_FLAGS", .memory, "options of guest_memfd",
            "guest_memfd cannot be mapped, or not be shared from the start",
            value: .bits(["mmap", "init_shared"])),
        .init(
            "PRE_FAULT_MEMORY", .memory, "memory can be mapped into the guest ahead of time",
            "a guest pays a page-fault exit for each first touch"),
    ]

    private static let processor: [CapabilityGuide] = [
        .init("XSAVE", .processor, "AVX and later register state can be saved", "such state is lost on save"),
        .init("XCRS", .processor, "XCR0 can be read and set", "the guest's choice of XSAVE state is lost on save"),
        .init(
            "XSAVE2", .processor, "register state larger than a page", "AMX and other dynamic state is lost",
            value: .count("bytes")),
        .init(
            "SREGS2", .processor, "PAE page-directory pointers are part of the state",
            "a PAE guest reloads them after migration, from memory that may have changed"),
        .init("ONE_REG", .processor, "single registers by number", "CET's shadow-stack pointer cannot be saved"),
        .init(
            "EXCEPTION_PAYLOAD", .processor, "CR2 and DR6 of a pending exception are apart from it",
            "an exception on its way is not restored exactly"),
        .init(
            "X86_TRIPLE_FAULT_EVENT", .processor, "a pending triple fault can be saved",
            "a triple fault can get lost in migration"),
        .init(
            "MCE", .processor, "machine-check banks", "memory errors cannot be passed to the guest",
            value: .count("banks")),
        .init("SET_BOOT_CPU_ID", .processor, "any vCPU can be the first", "vCPU 0 is the one that boots"),
        .init(
            "X86_SMM", .processor, "system-management mode",
            "firmware with Secure Boot variables in SMM does not run"
        ),
        .init(
            "SMALLER_MAXPHYADDR", .processor, "guest with fewer physical address bits than the host",
            "reserved-bit faults go missing in such a guest"),
        .init(
            "X86_GUEST_MODE", .processor, "says whether an exit came out of a nested guest",
            "exits of a nested guest cannot be told from its hypervisor's"),
        .init(
            "VCPU_ATTRIBUTES", .processor, "the TSC offset can be read and set",
            "the TSC cannot be migrated exactly"),
        .init(
            "SYS_ATTRIBUTES", .processor, "which XSAVE features a guest may be given",
            "AMX cannot be offered to a guest"),
        .init(
            "SGX_ATTRIBUTE", .processor, "enclaves with the provisioning key", "SGX guests cannot be provisioned"),
        .init(
            "INTR_SHADOW", .processor, "interrupt shadow is part of the state",
            "nothing: x86 has it without saying so"),
    ]

    private static let cpuidAndMSRs: [CapabilityGuide] = [
        .init(
            "EXT_EMUL_CPUID", .cpuidAndMSRs, "which instructions KVM emulates that the processor lacks",
            "such instructions cannot be offered"),
        .init(
            "GET_MSR_FEATURES", .cpuidAndMSRs, "the host's feature MSRs",
            "VMX features and mitigations for a guest must be guessed"),
        .init(
            "ENFORCE_PV_FEATURE_CPUID", .cpuidAndMSRs, "a guest is held to the KVM features it was shown",
            "a guest can use KVM features that its CPUID hides"),
        .init(
            "DISABLE_QUIRKS", .cpuidAndMSRs, "old misbehaviour can be turned off",
            "KVM keeps behaving unlike the manual in known ways"),
        .init(
            "DISABLE_QUIRKS2", .cpuidAndMSRs, "which misbehaviour can be turned off",
            "which quirks there are is unknown",
            value: .bits([
                "lint0_reenabled", "cd_nw_cleared", "lapic_mmio_hole", "out_7e_inc_rip", "misc_enable_no_mwait",
                "fix_hypercall_insn", "mwait_never_ud_faults", "slot_zap_all", "stuff_feature_msrs", "ignore_guest_pat",
                "vmcs12_allow_freeze_in_smm",
            ])),
        .init("ENABLE_CAP", .cpuidAndMSRs, "capabilities of a vCPU can be turned on", "only default behaviour"),
        .init("ENABLE_CAP_VM", .cpuidAndMSRs, "capabilities of a VM can be turned on", "only default behaviour"),
        .init(
            "VM_TYPES", .cpuidAndMSRs, "kinds of VM that can be made", "only ordinary VMs",
            value: .bits(["default", "sw_protected", "sev", "sev_es", "snp", "tdx"])),
    ]

    private static let interrupts: [CapabilityGuide] = [
        .init(
            "SPLIT_IRQCHIP", .interrupts, "local APICs in KVM, PIC and I/O APIC in the VMM",
            "a VMM takes all interrupt controllers from KVM or none"),
        .init(
            "IRQ_ROUTING", .interrupts, "which interrupt goes to which controller", "MSIs cannot be routed",
            value: .count("routes")),
        .init(
            "IRQFD", .interrupts, "an eventfd raises an interrupt",
            "each device interrupt costs the VMM an ioctl; vhost does not work"),
        .init(
            "IRQFD_RESAMPLE", .interrupts, "level interrupts by eventfd",
            "passed-through devices with level interrupts are slow"),
        .init("IRQ_INJECT_STATUS", .interrupts, "says whether an interrupt got through", "lost ticks go unnoticed"),
        .init("SIGNAL_MSI", .interrupts, "MSIs by one ioctl", "each MSI needs a route first"),
        .init("USER_NMI", .interrupts, "the VMM can send an NMI", "guests cannot be told to dump or debug"),
        .init(
            "VAPIC", .interrupts, "old 32-bit Windows writes its task priority without exits",
            "such guests exit on each write"),
        .init(
            "X2APIC_API", .interrupts, "APIC IDs above 255 in interrupt routes", "at most 255 vCPUs",
            value: .bits(["32bit_ids", "disable_broadcast_quirk", "enable_suppress_eoi", "disable_suppress_eoi"])),
        .init(
            "X86_APIC_BUS_CYCLES_NS", .interrupts, "speed of the APIC timer",
            "the APIC timer always runs at 1 GHz",
            value: .count("ns a cycle")),
        .init(
            "IOAPIC_POLARITY_IGNORED", .interrupts, "active-low interrupts need no care",
            "active-low interrupts have to be inverted"),
        .init("DEVICE_CTRL", .interrupts, "devices inside KVM beyond the PC's", "VFIO cannot tell KVM of devices"),
        .init("PCI_SEGMENT", .interrupts, "PCI segments in device assignment", "nothing today"),
    ]

    private static let time: [CapabilityGuide] = [
        .init("CLOCKSOURCE", .time, "kvmclock for the guest", "guests read a slow emulated timer, or trust the TSC"),
        .init(
            "ADJUST_CLOCK", .time, "kvmclock can be read and set", "the clock jumps in migration",
            value: .bits(["", "tsc_stable", "realtime", "host_tsc"])),
        .init("KVMCLOCK_CTRL", .time, "a paused guest is told", "Linux guests report soft lockups after a pause"),
        .init(
            "TSC_CONTROL", .time, "the guest's TSC can run at another speed",
            "a guest sees the host's TSC frequency, and another after migration"),
        .init("VM_TSC_CONTROL", .time, "as TSC_CONTROL, for a whole VM", "as TSC_CONTROL"),
        .init(
            "TSC_DEADLINE_TIMER", .time, "APIC timer by TSC deadline",
            "setting the timer costs more and longer exits"
        ),
        .init("PIT", .time, "timer chip inside KVM, first interface", "nothing where PIT2 is there"),
        .init(
            "REINJECT_CONTROL", .time, "whether missed ticks are made up for", "missed PIT ticks are made up for"),
        .init("PIT_STATE2", .time, "all of the timer chip's state", "PIT and HPET cannot be migrated together"),
        .init(
            "STEAL_TIME", .time, "guests see the time they were not run",
            "guests count time stolen from them as their own work"),
        .init(
            "HALT_POLL", .time, "polling before a halt, set for one VM",
            "only the module's halt_poll_ns, for all VMs"),
        .init(
            "ASYNC_PF", .time, "a guest thread waits for a swapped page, not the vCPU",
            "a swapped-out page stops the whole vCPU"),
        .init(
            "ASYNC_PF_INT", .time, "as ASYNC_PF, for today's guests", "Linux guests since 5.8 do without ASYNC_PF"),
    ]

    private static let devices: [CapabilityGuide] = [
        .init(
            "IOEVENTFD", .devices, "a guest's write wakes a thread without an exit to the VMM",
            "each virtio notification is a userspace exit"),
        .init(
            "IOEVENTFD_NO_LENGTH", .devices, "ioeventfd that looks at the address only",
            "MMIO notifications decode the instruction first"),
        .init("IOEVENTFD_ANY_LENGTH", .devices, "the same for every bus", "virtio 1.0 notifications are slower"),
        .init(
            "COALESCED_MMIO", .devices, "writes that are collected instead of exiting each",
            "each write to a frame buffer or such is a userspace exit", value: .count("page offset")),
        .init("COALESCED_PIO", .devices, "the same for ports", "each write to such a port is a userspace exit"),
        .init(
            "NOP_IO_DELAY", .devices, "guests need no delay after port I/O", "guests may delay with a write to 0x80"
        ),
    ]

    private static let exits: [CapabilityGuide] = [
        .init("HLT", .exits, "halts are told apart", "nothing today"),
        .init(
            "X86_DISABLE_EXITS", .exits, "HLT, PAUSE, MWAIT can stay in the guest",
            "these always exit; their cost cannot be taken away",
            value: .bits(["mwait", "hlt", "pause", "cstate", "aperfmperf"])),
        .init(
            "X86_BUS_LOCK_EXIT", .exits, "an exit for each bus lock", "a guest's split locks slow the host unseen",
            value: .bits(["off", "exit"])),
        .init(
            "X86_NOTIFY_VMEXIT", .exits, "an exit when the guest hangs the processor",
            "some guest loops keep the host's CPU from interrupts"),
        .init(
            "EXIT_HYPERCALL", .exits, "chosen hypercalls reach the VMM",
            "memory encryption changes stay unknown to the VMM",
            value: .bits(Array(repeating: "", count: 12) + ["map_gpa_range"])),
        .init(
            "SYSTEM_EVENT_DATA", .exits, "details of a system event", "KVM_EXIT_SYSTEM_EVENT comes without details"
        ),
    ]

    private static let performance: [CapabilityGuide] = [
        .init("PMU_EVENT_FILTER", .performance, "which events a guest may count", "a guest counts all or nothing"),
        .init("PMU_EVENT_MASKED_EVENTS", .performance, "the same with masks", "filters need an entry an event"),
        .init(
            "PMU_CAPABILITY", .performance, "counters can be withheld from one VM",
            "no counters for any guest where enable_pmu is off, else for all guests", value: .bits(["disable"])),
    ]

    private static let nesting: [CapabilityGuide] = [
        .init(
            "NESTED_STATE", .nesting, "VMs in VMs, and their state",
            "no VMs inside a VM, or none that survive a migration", value: .count("bytes")),
        .init(
            "HYPERV_ENLIGHTENED_VMCS", .nesting, "Hyper-V as a guest with fewer exits",
            "nested Hyper-V exits on each VMREAD and VMWRITE"),
    ]

    private static let migration: [CapabilityGuide] = [
        .init(
            "MANUAL_DIRTY_LOG_PROTECT2", .migration, "dirty pages are protected again only as asked",
            "reading the dirty log stalls large guests", value: .bits(["enable", "initially_set"])),
        .init(
            "DIRTY_LOG_RING", .migration, "dirty pages as a ring a vCPU", "only bitmaps of all memory",
            value: .count("bytes")),
        .init(
            "DIRTY_LOG_RING_ACQ_REL", .migration, "the same with stated memory order", "as DIRTY_LOG_RING",
            value: .count("bytes")),
        .init(
            "DIRTY_LOG_RING_WITH_BITMAP", .migration, "ring and bitmap together",
            "nothing on x86: writes without a vCPU do not occur"),
    ]

    private static let confidential: [CapabilityGuide] = [
        .init(
            "VM_COPY_ENC_CONTEXT_FROM", .confidential, "a helper VM with the same key (SEV)",
            "only SEV migration helpers miss it"),
        .init(
            "VM_MOVE_ENC_CONTEXT_FROM", .confidential, "a key moves to a new VMM process (SEV)",
            "an SEV guest does not survive a restart of its VMM"),
    ]

    private static let otherHypervisors: [CapabilityGuide] = [
        .init("HYPERV", .otherHypervisors, "Hyper-V's interface for Windows", "Windows guests run slower"),
        .init(
            "HYPERV_VAPIC", .otherHypervisors, "Windows' APIC accesses by MSR", "more exits for Windows' interrupts"
        ),
        .init(
            "HYPERV_SPIN", .otherHypervisors, "Windows tells of long spins", "Windows spins on locks of idle vCPUs"),
        .init("HYPERV_TIME", .otherHypervisors, "Windows reads time without exits", "an exit for each time stamp"),
        .init("HYPERV_SYNIC", .otherHypervisors, "synthetic interrupts", "no Hyper-V synthetic timers or VMBus"),
        .init("HYPERV_SYNIC2", .otherHypervisors, "the same, corrected", "no Hyper-V synthetic timers or VMBus"),
        .init("HYPERV_VP_INDEX", .otherHypervisors, "vCPU numbers of the VMM's choice", "numbers may change"),
        .init("HYPERV_EVENTFD", .otherHypervisors, "VMBus signals by eventfd", "each one is a userspace exit"),
        .init("HYPERV_TLBFLUSH", .otherHypervisors, "remote TLB flush by hypercall", "an IPI for each vCPU"),
        .init("HYPERV_SEND_IPI", .otherHypervisors, "many IPIs by one hypercall", "an exit for each IPI"),
        .init("HYPERV_CPUID", .otherHypervisors, "which Hyper-V features there are", "a VMM must know by itself"),
        .init(
            "SYS_HYPERV_CPUID", .otherHypervisors, "the same before a vCPU exists", "a vCPU has to be made first"),
        .init(
            "HYPERV_DIRECT_TLBFLUSH", .otherHypervisors, "a nested guest's flushes skip its hypervisor",
            "nested Windows guests flush slowly"),
        .init(
            "HYPERV_ENFORCE_CPUID", .otherHypervisors, "a guest is held to the features it was shown",
            "a guest can use Hyper-V features that are hidden"),
        .init(
            "XEN_HVM", .otherHypervisors, "Xen's interface", "no guests made for Xen",
            value: .bits([
                "hypercall_msr", "intercept_hcall", "shared_info", "runstate", "evtchn_2level", "evtchn_send",
                "runstate_update_flag", "pvclock_tsc_unstable", "shared_info_hva",
            ])),
    ]

    private static let obsolete: [CapabilityGuide] = [
        .init("PV_MMU", .obsolete, "page-table changes by hypercall", "nothing: it was slower than shadow paging"),
        .init("IOMMU", .obsolete, "device assignment of old", "nothing: VFIO replaced it"),
        .init("ASSIGN_DEV_IRQ", .obsolete, "device assignment of old", "nothing: VFIO replaced it"),
        .init("PCI_2_3", .obsolete, "device assignment of old", "nothing: VFIO replaced it"),
        .init(
            "MANUAL_DIRTY_LOG_PROTECT", .obsolete, "first try at MANUAL_DIRTY_LOG_PROTECT2",
            "nothing: withdrawn for a bug"),
    ]
}
