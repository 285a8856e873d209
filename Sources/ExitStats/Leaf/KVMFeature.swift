// SPDX-License-Identifier: Apache-2.0
/// A bit by which KVM, or the VMM, tells a guest something: KVM_FEATURE_* and KVM_HINTS_*.
///
/// The host and the guest probe share the tables, which are constant data.
public struct KVMFeature: Sendable {
    /// Its number, 0 to 31.
    public let bit: UInt32
    /// The kernel's.
    public let name: StaticString
    /// What a guest does with it.
    public let meaning: StaticString
    /// What it costs the guest not to have it.
    public let cost: StaticString

    // With the memberwise initializer the compiler turns the tables into constant data.

    /// The leaf of both, KVM's second.
    public static let leaf: UInt32 = 0x4000_0001

    /// EAX: KVM_FEATURE_* (kvm/x86/cpuid.rst; arch/x86/include/uapi/asm/kvm_para.h). The other bits are reserved.
    public static let features: [KVMFeature] = [
        KVMFeature(
            bit: 0, name: "KVM_FEATURE_CLOCKSOURCE",
            meaning: "kvmclock through MSRs 0x11 and 0x12",
            cost: "only guests older than Linux 2.6.35 miss it"),
        KVMFeature(
            bit: 1, name: "KVM_FEATURE_NOP_IO_DELAY",
            meaning: "port I/O needs no delay",
            cost: "each delayed port access may cost one more exit, for port 0x80"),
        KVMFeature(
            bit: 2, name: "KVM_FEATURE_MMU_OP",
            meaning: "page-table changes by hypercall (deprecated)",
            cost: "nothing: today's kernels neither offer nor use it"),
        KVMFeature(
            bit: 3, name: "KVM_FEATURE_CLOCKSOURCE2",
            meaning: "kvmclock through MSRs 0x4b564d00 and 0x4b564d01",
            cost: "time from the TSC if that is trusted, else from slow timers: an exit for each reading"),
        KVMFeature(
            bit: 4, name: "KVM_FEATURE_ASYNC_PF",
            meaning: "a thread waits for a swapped-out page, not the vCPU",
            cost: "the vCPU stands still while the host reads a page in"),
        KVMFeature(
            bit: 5, name: "KVM_FEATURE_STEAL_TIME",
            meaning: "time during which the vCPU was not run",
            cost: "stolen time looks like the guest's own work; no help from vcpu_is_preempted"),
        KVMFeature(
            bit: 6, name: "KVM_FEATURE_PV_EOI",
            meaning: "end of interrupt by a bit in memory",
            cost: "an APIC exit for each interrupt, where the processor has no APIC virtualization"),
        KVMFeature(
            bit: 7, name: "KVM_FEATURE_PV_UNHALT",
            meaning: "spinlocks halt instead of spinning, and are woken by hypercall",
            cost: "with more vCPUs than CPUs, vCPUs spin for a lock whose holder does not run"),
        KVMFeature(
            bit: 9, name: "KVM_FEATURE_PV_TLB_FLUSH",
            meaning: "TLB flush of vCPUs that do not run is put off",
            cost: "IPIs to vCPUs that do not run, and waiting for them"),
        KVMFeature(
            bit: 10, name: "KVM_FEATURE_ASYNC_PF_VMEXIT",
            meaning: "async page fault as an exit to a nested hypervisor",
            cost: "nested guests are stopped by page-in of their hypervisor's memory"),
        KVMFeature(
            bit: 11, name: "KVM_FEATURE_PV_SEND_IPI",
            meaning: "IPIs to many vCPUs by one hypercall",
            cost: "one exit for each IPI, where the processor does not deliver them itself"),
        KVMFeature(
            bit: 12, name: "KVM_FEATURE_POLL_CONTROL",
            meaning: "the guest can turn host polling on HLT off",
            cost: "host and guest both poll with cpuidle-haltpoll: CPU time for nothing"),
        KVMFeature(
            bit: 13, name: "KVM_FEATURE_PV_SCHED_YIELD",
            meaning: "the sender of an IPI yields to its target",
            cost: "it spins until a vCPU that does not run has answered"),
        KVMFeature(
            bit: 14, name: "KVM_FEATURE_ASYNC_PF_INT",
            meaning: "async page fault by interrupt, as Linux wants it since 5.8",
            cost: "Linux does not use async page faults at all: see KVM_FEATURE_ASYNC_PF"),
        KVMFeature(
            bit: 15, name: "KVM_FEATURE_MSI_EXT_DEST_ID",
            meaning: "15-bit APIC IDs in MSIs without interrupt remapping",
            cost: "no device interrupts for vCPUs above 255, unless there is a virtual IOMMU"),
        KVMFeature(
            bit: 16, name: "KVM_FEATURE_HC_MAP_GPA_RANGE",
            meaning: "hypercall that tells which pages are encrypted",
            cost: "only SEV guests miss it: they cannot be migrated"),
        KVMFeature(
            bit: 17, name: "KVM_FEATURE_MIGRATION_CONTROL",
            meaning: "MSR by which the guest allows migration",
            cost: "only SEV guests miss it: they cannot be migrated"),
        KVMFeature(
            bit: 24, name: "KVM_FEATURE_CLOCKSOURCE_STABLE_BIT",
            meaning: "kvmclock never runs backwards between vCPUs",
            cost: "each reading of the clock takes a locked instruction shared by all vCPUs, and no vDSO"),
    ]

    /// EDX: KVM_HINTS_*, which the VMM sets and KVM does not.
    public static let hints: [KVMFeature] = [
        KVMFeature(
            bit: 0, name: "KVM_HINTS_REALTIME",
            meaning: "vCPUs are never held up for long",
            cost: "the guest uses paravirtual locks and flushes; right unless each vCPU has a CPU of its own")
    ]
}
