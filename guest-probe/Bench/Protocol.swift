// SPDX-License-Identifier: Apache-2.0
// What the bench guest and its host agree on. Both compile this file: Sources/Bench has a link to it.

/// What the guest does between two readings of the TSC.
enum BenchOperation: UInt32 {
    /// Nothing: what the readings themselves cost.
    case empty
    /// CPUID, leaf `first`, subleaf `second`, by an instruction that the VMM is not told of.
    case cpuid
    /// The same of the leaf that leaf 0 names as the highest.
    case cpuidHighest
    /// ``cpuid`` by the instruction that `.vmtally.sites` lists.
    case cpuidSite
    /// The same by a visit to ring 3.
    case cpuidUser
    /// VMCALL or VMMCALL with `first` in RAX.
    case hypercall
    /// OUT of a byte to port `first`.
    case out8
    /// IN of a byte from port `first`.
    case in8
    /// REP OUTSB of `second` bytes to port `first`.
    case repOut8
    /// 32-bit load from, store to address `first`.
    case load32
    case store32
    /// RDMSR, WRMSR of MSR `first`; what is written is what was read before.
    case readMSR
    case writeMSR
    /// MOV from and to a control register. CR0 and CR4 are written with a bit changed, CR3 and CR8 (as `first`
    /// says) with what they hold, or with the task priority going up and down.
    case readCR0
    case writeCR0
    case readCR3
    case writeCR3
    case readCR4
    case writeCR4
    case readCR8
    case writeCR8
    /// MOV from and to DR0.
    case readDR
    case writeDR
    case xsetbv
    case wbinvd
    case invd
    case invlpg
    case rdpmc
    /// PAUSE, `first` times.
    case pauseLoop
    case rdtsc
    case rdrand
    /// A byte written to address `first` + n * `second` in iteration n, warm-up included.
    case touch
    /// HLT until the APIC timer's deadline, `first` TSC cycles ahead. The sample counts from the deadline.
    case haltTimer
    /// HLT until vCPU 1 sends an interrupt, `first` TSC cycles after it was told. The sample counts from the sending.
    case haltIPI
    /// An interrupt to oneself, until its handler has returned.
    case selfIPI
    /// An interrupt to vCPU 1: the sender's instruction alone; until the handler's first instruction there; until its
    /// acknowledgement is seen here.
    case ipiSend
    case ipiDeliver
    case ipiAcknowledge
    /// A deadline that has passed, until the handler's first instruction.
    case timerImmediate
    /// A deadline `first` TSC cycles ahead, waited for awake. The sample counts from the deadline.
    case timerDelayed
}

/// One block of iterations, in guest memory at ``BenchLayout/request``.
struct BenchRequest {
    var operation: UInt32 = 0
    /// Iterations that give a sample, at most ``BenchLayout/sampleLimit``.
    var iterations: UInt32 = 0
    /// Iterations before them that do not.
    var warmUp: UInt32 = 0
    /// Local APIC: 0 none, 1 xAPIC, 2 x2APIC.
    var apic: UInt32 = 0
    var first: UInt64 = 0
    var second: UInt64 = 0
    /// Marks by a store to memory, not by OUT: never by an exit of the reason that is measured.
    var marksInMemory: UInt32 = 0
    /// vCPU 1 takes part.
    var usesPeer: UInt32 = 0
}

enum BenchLayout {
    /// Reads as ``identity`` where a bench host is.
    static let identityPort: UInt16 = 0xE00
    static let identity: UInt32 = 0x4842_4D56  // "VMBH"
    /// A vCPU writes its index here when it is ready; the OUT ends when there is a request for it.
    static let readyPort: UInt16 = 0xE04
    /// Marks, by OUT.
    static let markPort: UInt16 = 0xE08
    /// Bytes of the ports above.
    static let portCount: UInt16 = 12
    /// A device of one page in memory: marks at offset 0; at 8 a store makes the VMM take a snapshot of its tally.
    static let device: UInt64 = 0xD000_0000
    static let snapshotOffset: UInt64 = 8

    /// A block's first and last moment, all iterations in between; and that it cannot be run on this processor.
    static let markBegin: UInt32 = 1
    static let markEnd: UInt32 = 2
    static let markRefused: UInt32 = 3

    static let request: UInt64 = 0x40_0000
    /// 32-bit samples, TSC cycles modulo 2^32.
    static let samples: UInt64 = 0x41_0000
    static let sampleLimit: UInt32 = 0x1_0000
    /// Fresh pages to touch: 4 KiB each.
    static let smallPages: UInt64 = 0x80_0000
    static let smallPageCount: UInt32 = 512
    /// And 2 MiB each.
    static let largePages: UInt64 = 0x200_0000
    static let largePageCount: UInt32 = 32
    static let memoryMiB = 104
}
