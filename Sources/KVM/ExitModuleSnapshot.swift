// SPDX-License-Identifier: Apache-2.0
import CExitModule

/// One VM's counters as the module had them at one reading.
public struct ExitModuleSnapshot: Equatable, Sendable {
    /// What a vCPU did for one reason.
    public struct Reason: Equatable, Sendable {
        /// Of the vocabulary.
        public let code: UInt32
        /// Exits.
        public let count: UInt64
        /// TSC cycles from VM exit to VM entry, less those blocked and in userspace.
        public let cycles: UInt64
        /// Of single exits that have ended; nil before the first.
        public let range: ClosedRange<UInt64>?
        /// Exits a bucket, as CycleHistogram of ExitStats has them; empty if not read, or if the reason has none.
        public let buckets: [UInt64]
    }

    /// TSC cycles since counting began; they add up to the time from ``VCPU/first`` to ``VCPU/last``.
    public struct Times: Equatable, Sendable {
        /// In the kernel, between VM exit and VM entry.
        public let kernel: UInt64
        /// In the guest.
        public let guest: UInt64
        /// In HLT and the like.
        public let blocked: UInt64
        /// While another task ran in its place.
        public let preempted: UInt64
        /// Outside of KVM_RUN.
        public let userspace: UInt64
    }

    /// One vCPU's counters.
    public struct VCPU: Equatable, Sendable {
        /// As KVM_CREATE_VCPU had it.
        public let id: UInt32
        /// Exits that the tracepoint kvm_exit showed: the sum of the reasons' counts.
        public let traced: UInt64
        /// Exits that KVM counted besides.
        public let unseen: UInt64
        /// KVM's own `exits` when counting began.
        public let before: UInt64
        /// TSC when counting began, and at the last change of state.
        public let first: UInt64
        /// TSC at the last change of state.
        public let last: UInt64
        /// Where it spent its time.
        public let times: Times
        /// Those that it had exits of.
        public let reasons: [Reason]
    }

    /// Of ``ExitModuleList``.
    public let id: UInt64
    /// 1: VMX basic exit reasons, 2: SVM exit codes.
    public let vocabulary: UInt32
    /// TSC frequency in kHz, 0 unknown.
    public let tscKHz: UInt32
    /// Counting began while it was running already.
    public let joinedRunning: Bool
    /// Destroyed or no longer allowed.
    public let isGone: Bool
    /// In the order of their creation.
    public let vcpus: [VCPU]

    /// Exits of all vCPUs.
    public var exits: UInt64 { vcpus.reduce(0) { $0 &+ $1.traced &+ $1.unseen } }

    /// nil where the bytes do not hold what their header says.
    init?(_ bytes: [UInt8]) {
        guard let layout = Layout(bytes), bytes.count >= layout.histograms else { return nil }
        let header = layout.header
        id = header.id
        vocabulary = header.vocabulary
        tscKHz = header.tsc_khz
        joinedRunning = header.flags & UInt32(VMTALLY_VM_JOINED_RUNNING) != 0
        isGone = header.flags & UInt32(VMTALLY_VM_GONE) != 0
        let hasHistograms = bytes.count >= layout.end
        vcpus = bytes.withUnsafeBytes { bytes in
            (0..<Int(header.nr_vcpus)).map { layout.vcpu($0, in: bytes, histograms: hasHistograms) }
        }
    }

    /// Where things are, as the header says; all of it is known to fit together.
    struct Layout {
        let header: vmtally_header
        /// Bytes to the histograms, and to the end.
        let histograms: Int
        let end: Int

        /// nil for anything but version 1's structures or larger ones.
        init?(_ bytes: [UInt8]) {
            guard bytes.count >= MemoryLayout<vmtally_header>.size else { return nil }
            header = bytes.withUnsafeBytes { $0.loadUnaligned(as: vmtally_header.self) }
            let vcpus = Int(header.nr_vcpus)
            let reasons = Int(header.nr_reasons) * Int(header.reason_size)
            let buckets = Int(header.nr_histograms) * Int(header.nr_buckets) * 8
            guard header.magic == VMTALLY_DATA_MAGIC, header.version == UInt32(VMTALLY_DATA_VERSION),
                vcpus <= 65536, header.nr_reasons <= 65536, header.reason_size <= 4096, header.vcpu_size <= 1 << 28,
                header.nr_histograms <= 65536, header.nr_buckets <= 65536, header.vcpu_offset <= 1 << 20,
                Int(header.reason_offset) >= MemoryLayout<vmtally_vcpu>.size,
                Int(header.reason_size) >= MemoryLayout<vmtally_reason>.size,
                Int(header.vcpu_size) >= Int(header.reason_offset) + reasons,
                header.histogram_offset == header.vcpu_offset + UInt64(vcpus) * UInt64(header.vcpu_size)
            else { return nil }
            histograms = Int(header.histogram_offset)
            end = histograms + vcpus * buckets
        }

        func vcpu(_ index: Int, in bytes: UnsafeRawBufferPointer, histograms hasHistograms: Bool) -> VCPU {
            let at = Int(header.vcpu_offset) + index * Int(header.vcpu_size)
            let vcpu = bytes.loadUnaligned(fromByteOffset: at, as: vmtally_vcpu.self)
            let reasons = (0..<min(Int(vcpu.nr_reasons), Int(header.nr_reasons))).map { place in
                reason(
                    bytes.loadUnaligned(
                        fromByteOffset: at + Int(header.reason_offset) + place * Int(header.reason_size),
                        as: vmtally_reason.self),
                    buckets: hasHistograms && place < Int(header.nr_histograms)
                        ? buckets(index * Int(header.nr_histograms) + place, in: bytes) : [])
            }
            return VCPU(
                id: vcpu.id, traced: vcpu.exits, unseen: vcpu.unseen, before: vcpu.base, first: vcpu.first,
                last: vcpu.stamp,
                times: Times(
                    kernel: vcpu.time.0, guest: vcpu.time.1, blocked: vcpu.time.2, preempted: vcpu.time.3,
                    userspace: vcpu.time.4),
                reasons: reasons)
        }

        private func reason(_ reason: vmtally_reason, buckets: [UInt64]) -> Reason {
            Reason(
                code: reason.code, count: reason.count, cycles: reason.cycles,
                range: reason.min <= reason.max ? reason.min...reason.max : nil, buckets: buckets)
        }

        private func buckets(_ index: Int, in bytes: UnsafeRawBufferPointer) -> [UInt64] {
            let count = Int(header.nr_buckets)
            return (0..<count).map { bucket in
                bytes.loadUnaligned(fromByteOffset: histograms + (index * count + bucket) * 8, as: UInt64.self)
            }
        }
    }
}
