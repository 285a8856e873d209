// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM
import Machine

extension BenchKind {
    /// Every kind of exit that the bench knows. To add one: an entry here and, where no operation of the guest's does
    /// it, a case of ``BenchOperation`` with its line in guest-probe/Bench/Block.swift.
    public static let catalogue: [BenchKind] =
        instructions + registers + msrs + ports + memory + interrupts + cpuid + [tallySnapshot]

    /// How long before a halted vCPU's wake-up it halts.
    private static let nap = Argument.microseconds(50)

    private static let instructions = [
        BenchKind(
            "cpuid", .instructions, "CPUID of leaf 0, answered by KVM", .cpuid,
            hardware: HardwareReason(vmx: 10, svm: 0x72)),
        BenchKind(
            "cpuid-highest", .instructions, "CPUID of the highest basic leaf: KVM walks its table to the end of those",
            .cpuidHighest, hardware: HardwareReason(vmx: 10, svm: 0x72)),
        BenchKind(
            "hypercall", .instructions, "VMCALL or VMMCALL of a number that KVM does not know", .hypercall, 0,
            hardware: HardwareReason(vmx: 18, svm: 0x81)),
        BenchKind(
            "wbinvd", .instructions, "WBINVD", .wbinvd, hardware: HardwareReason(vmx: 54, svm: 0x89)),
        BenchKind("invd", .instructions, "INVD", .invd, hardware: HardwareReason(vmx: 13, svm: 0x76)),
        BenchKind("invlpg", .instructions, "INVLPG (no exit with nested pages)", .invlpg, 0x1000),
        BenchKind("rdpmc", .instructions, "RDPMC of counter 0", .rdpmc),
        BenchKind("rdtsc", .instructions, "RDTSC (no exit unless intercepted)", .rdtsc),
        BenchKind("rdrand", .instructions, "RDRAND (no exit unless intercepted)", .rdrand),
        BenchKind("pause-1000", .instructions, "1,000 PAUSE in a loop", .pauseLoop, 1000),
        BenchKind(
            "xsetbv", .instructions, "XSETBV of XCR0 with what it holds", .xsetbv,
            hardware: HardwareReason(vmx: 55, svm: 0x8D)),
    ]

    private static let registers = [
        BenchKind("cr0-read", .registers, "MOV from CR0", .readCR0),
        BenchKind(
            "cr0-write", .registers, "MOV to CR0, changing AM", .writeCR0, hardware: HardwareReason(vmx: 28, svm: 0x65)),
        BenchKind("cr3-read", .registers, "MOV from CR3", .readCR3),
        BenchKind("cr3-write", .registers, "MOV to CR3 with what it holds", .writeCR3),
        BenchKind("cr4-read", .registers, "MOV from CR4", .readCR4),
        BenchKind(
            "cr4-write", .registers, "MOV to CR4, changing MCE", .writeCR4, hardware: HardwareReason(vmx: 28, svm: 0x14)
        ),
        BenchKind("cr8-read", .registers, "MOV from CR8, APIC in the kernel", .readCR8, in: .xAPIC),
        BenchKind("cr8-write", .registers, "MOV to CR8, APIC in the kernel", .writeCR8, 0, in: .xAPIC),
        BenchKind("dr-read", .registers, "MOV from DR0", .readDR),
        BenchKind("dr-write", .registers, "MOV to DR0", .writeDR),
    ]

    private static let msrs = [
        BenchKind(
            "rdmsr", .msrs, "RDMSR of TSC_ADJUST, answered by KVM", .readMSR, 0x3B,
            hardware: HardwareReason(vmx: 31, svm: 0x7C)),
        BenchKind(
            "wrmsr", .msrs, "WRMSR of TSC_ADJUST, taken by KVM", .writeMSR, 0x3B,
            hardware: HardwareReason(vmx: 32, svm: 0x7C)),
        BenchKind(
            "rdmsr-userspace", .msrs, "RDMSR of MISC_FEATURES_ENABLES, sent to the VMM by a filter", .readMSR, 0x140,
            in: .filter, userspace: [KVM_EXIT_X86_RDMSR: 1], needs: [.capability(.x86UserSpaceMSR)]),
        BenchKind(
            "wrmsr-userspace", .msrs, "WRMSR of the same (the VMM's answer includes a KVM_SET_MSRS)", .writeMSR, 0x140,
            in: .filter, userspace: [KVM_EXIT_X86_WRMSR: 1], needs: [.capability(.x86UserSpaceMSR)]),
    ]

    /// The ring has room for 169 writes. Kernels before Linux 6.12 find it full after 85 when it wraps round
    /// (coalesced_mmio_has_room()).
    private static let coalescedLimit: UInt32 = 80

    private static let ports =
        [
            BenchKind(
                "pio-out", .ports, "OUT of a byte to a port that nobody claims", .out8, 0x2000,
                userspace: [KVM_EXIT_IO: 1], hardware: .portIO),
            BenchKind(
                "pio-in", .ports, "IN of a byte from a port that nobody claims", .in8, 0x2000,
                userspace: [KVM_EXIT_IO: 1], hardware: .portIO),
        ]
        + [1, 16, 256, 4096].map { count in
            BenchKind(
                "pio-rep-out-\(count)", .ports,
                count == 1 ? "REP OUTSB of 1 byte" : "REP OUTSB of \(count) bytes: an exit for each", .repOut8, 0x2000,
                count, userspace: [KVM_EXIT_IO: count], limit: UInt32(max(8, 65536 / count)))
        }
        + [
            BenchKind(
                "pio-kernel-out", .ports, "OUT to the interrupt controller's ELCR, in the kernel", .out8, 0x4D0,
                in: .xAPIC, hardware: .portIO),
            BenchKind(
                "pio-kernel-in", .ports, "IN from the same", .in8, 0x4D0, in: .xAPIC, hardware: .portIO),
            BenchKind(
                "pio-kernel-pit", .ports, "IN from the interval timer's counter, in the kernel", .in8, 0x40, in: .xAPIC,
                hardware: .portIO),
            BenchKind(
                "pio-ioeventfd", .ports, "OUT that signals an eventfd", .out8, .value(UInt64(BenchHost.eventPort)),
                hardware: .portIO, needs: [.capability(.ioEventFD)]),
            BenchKind(
                "pio-coalesced", .ports, "OUT that goes into the coalesced ring", .out8,
                .value(UInt64(BenchHost.coalescedPort)), hardware: .portIO, needs: [.capability(.coalescedPIO)],
                limit: coalescedLimit),
        ]

    private static let memory = [
        BenchKind(
            "mmio-write", .memory, "Store of 4 bytes where there is no memory", .store32, 0xD100_0000,
            userspace: [KVM_EXIT_MMIO: 1], hardware: .unbackedMemory),
        BenchKind(
            "mmio-read", .memory, "Load of 4 bytes from there", .load32, 0xD100_0000, userspace: [KVM_EXIT_MMIO: 1],
            hardware: .unbackedMemory),
        BenchKind(
            "mmio-ioeventfd", .memory, "Store that signals an eventfd", .store32, .value(BenchHost.eventAddress),
            hardware: .unbackedMemory, needs: [.capability(.ioEventFD)]),
        BenchKind(
            "mmio-coalesced", .memory, "Store that goes into the coalesced ring", .store32,
            .value(BenchHost.coalescedAddress), hardware: .unbackedMemory, needs: [.capability(.coalescedMMIO)],
            limit: coalescedLimit),
        BenchKind(
            "touch-4k", .memory, "First store to a page of 4 KiB", .touch, .value(BenchLayout.smallPages), 4096,
            fresh: .smallPages, limit: BenchLayout.smallPageCount),
        BenchKind(
            "touch-2m", .memory, "First store to a page of 2 MiB", .touch, .value(BenchLayout.largePages), 2 << 20,
            needs: [.hugePages], fresh: .largePages, limit: BenchLayout.largePageCount),
        BenchKind(
            "touch-mmio", .memory, "First store to a page without memory", .touch, 0, 4096,
            userspace: [KVM_EXIT_MMIO: 1], fresh: .devicePages),
    ]

    private static let interrupts =
        [("x2apic", BenchEnvironment.x2APIC), ("xapic", .xAPIC)].flatMap { name, environment in
            [
                BenchKind(
                    "self-ipi-\(name)", .interrupts, "Interrupt to oneself: send, handle, acknowledge", .selfIPI,
                    in: environment),
                BenchKind(
                    "ipi-send-\(name)", .interrupts, "Interrupt to another vCPU: the sender's instruction", .ipiSend,
                    in: environment, needs: [.twoCPUs]),
                BenchKind(
                    "ipi-deliver-\(name)", .interrupts, "The same, until the handler's first instruction", .ipiDeliver,
                    in: environment, needs: [.twoCPUs]),
                BenchKind(
                    "ipi-ack-\(name)", .interrupts, "The same, until the sender sees it acknowledged",
                    .ipiAcknowledge, in: environment, needs: [.twoCPUs]),
            ]
        }
        + [
            BenchKind(
                "timer-immediate", .interrupts, "TSC deadline that has passed, until the handler", .timerImmediate,
                in: .x2APIC, needs: [.capability(.tscDeadlineTimer)]),
            BenchKind(
                "timer-delayed", .interrupts, "TSC deadline in 50 us, awake: from the deadline to the handler",
                .timerDelayed, nap, in: .x2APIC, needs: [.capability(.tscDeadlineTimer)]),
            BenchKind(
                "hlt-timer", .interrupts, "HLT until a TSC deadline: from it to the next instruction; no halt polling",
                .haltTimer, nap, in: .x2APIC, needs: [.capability(.tscDeadlineTimer)]),
            BenchKind(
                "hlt-timer-polling", .interrupts, "The same with halt polling of 200 us", .haltTimer, nap, in: .polling,
                needs: [.capability(.tscDeadlineTimer), .capability(.haltPoll)]),
            BenchKind(
                "hlt-ipi", .interrupts, "HLT until another vCPU's interrupt: from its sending; no halt polling",
                .haltIPI, nap, in: .x2APIC, needs: [.twoCPUs]),
            BenchKind(
                "hlt-ipi-polling", .interrupts, "The same with halt polling of 200 us", .haltIPI, nap, in: .polling,
                needs: [.twoCPUs, .capability(.haltPoll)]),
        ]

    private static let tallyLeaf = Argument.value(UInt64(TallyLeaf.total))

    private static let cpuid = [
        BenchKind(
            "cpuid-user", .cpuid, "CPUID in ring 3, without faulting (the way there and back by IRETQ and #UD)",
            .cpuidUser),
        BenchKind(
            "live-snapshot", .cpuid, "Leaf 0x4FFFFFFF from the table: not live", .cpuid, tallyLeaf,
            hardware: HardwareReason(vmx: 10, svm: 0x72)),
        BenchKind(
            "live-sites", .cpuid, "Leaf 0x4FFFFFFF live, by a breakpoint on the CPUID", .cpuidSite, tallyLeaf,
            in: .sites, userspace: [KVM_EXIT_DEBUG: 1]),
        BenchKind(
            "live-fault", .cpuid, "Leaf 0x4FFFFFFF live in ring 3, by CPUID faulting", .cpuidUser, tallyLeaf,
            in: .fault,
            userspace: [KVM_EXIT_DEBUG: 1]),
        BenchKind(
            "cpuid-user-faulting", .cpuid, "CPUID of leaf 0 in ring 3 with faulting: the VMM answers from the table",
            .cpuidUser, in: .fault, userspace: [KVM_EXIT_DEBUG: 1]),
        BenchKind(
            "live-host", .cpuid, "Leaf 0x4FFFFFFF live, by kernel-patch/ or kernel-module/", .cpuid, tallyLeaf,
            in: .host,
            hardware: HardwareReason(vmx: 10, svm: 0x72), needs: [.kernelAnswers]),
        BenchKind(
            "live-host-exit", .cpuid, "Leaf 0x4FFFFFFF live, sent to the VMM by the patched kernel", .cpuid, tallyLeaf,
            in: .host, userspace: [Int32(HostLeafSupport.exitReason): 1], needs: [.kernelSends]),
        BenchKind(
            "debug", .cpuid, "A breakpoint's exit: CPUID of leaf 0 where the VMM answers it from the table", .cpuidSite,
            in: .sites, userspace: [KVM_EXIT_DEBUG: 1]),
    ]

    private static let tallySnapshot = BenchKind(
        "tally-snapshot", .tally, "A store that makes the VMM take a snapshot of its tally", .store32,
        .value(BenchLayout.device + BenchLayout.snapshotOffset), userspace: [KVM_EXIT_MMIO: 1], limit: 512)
}
