// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc

extension VCPU {
    /// Why `KVM_RUN` came back, with what the run page says of it (kvm/api.rst 5, "The kvm_run structure").
    ///
    /// It borrows the run page, and lasts no longer than the closure that it is given to. What answers the guest is
    /// written there and taken up by the next `KVM_RUN`.
    public enum Exit: ~Copyable {
        /// KVM_EXIT_IO: IN and INS, to be answered.
        case portIn(PortAccess)
        /// KVM_EXIT_IO: OUT and OUTS.
        case portOut(PortAccess)
        /// KVM_EXIT_MMIO: a load from an address without memory, to be answered.
        case mmioRead(MemoryAccess)
        /// KVM_EXIT_MMIO: a store to an address without memory, or to a read-only slot.
        case mmioWrite(MemoryAccess)
        /// KVM_EXIT_X86_RDMSR, to be answered (kvm/api.rst 7.22).
        case readMSR(MSRAccess)
        /// KVM_EXIT_X86_WRMSR, to be accepted or refused.
        case writeMSR(MSRAccess)
        /// KVM_EXIT_HLT, without interrupt controllers in the kernel.
        case halt
        /// KVM_EXIT_DEBUG (4.87): where the guest is, and DR6.
        case debug(address: UInt64, dr6: UInt64)
        /// KVM_EXIT_IOAPIC_EOI, with split interrupt controllers.
        case endOfInterrupt(vector: UInt8)
        /// KVM_EXIT_SHUTDOWN: a triple fault.
        case shutdown
        /// KVM_EXIT_SYSTEM_EVENT: a KVM_SYSTEM_EVENT_* constant.
        case systemEvent(type: UInt32)
        /// KVM_EXIT_FAIL_ENTRY: the processor refused the guest's state.
        case failedEntry(reason: UInt64, cpu: UInt32)
        /// KVM_EXIT_INTERNAL_ERROR: a KVM_INTERNAL_ERROR_* constant.
        case internalError(suberror: UInt32)
        /// KVM_EXIT_EXCEPTION.
        case exception(vector: UInt32, errorCode: UInt32)
        /// KVM_EXIT_UNKNOWN: the processor's own reason, which KVM does not know.
        case unknown(hardwareReason: UInt64)
        /// KVM_EXIT_MEMORY_FAULT (Linux 6.8).
        case memoryFault(address: UInt64, size: UInt64, flags: UInt64)
        /// A signal, or ``requestExit(runPage:)``: nothing of the guest's.
        case interrupted
        /// Any other KVM_EXIT_* constant.
        case other(reason: UInt32)
    }

    /// One or, with a REP prefix, several accesses to a port.
    public struct PortAccess: ~Copyable {
        /// The first access's; with a REP prefix that of all.
        public let port: UInt16
        /// Bytes of an access: 1, 2 or 4.
        public let size: Int
        /// How many accesses, one after the other.
        public let count: Int
        /// `count` times `size` bytes of the run page.
        public let data: UnsafeMutableRawBufferPointer

        /// - Parameter data: as many bytes as a multiple of `size`.
        @inlinable
        public init(port: UInt16, size: Int, data: UnsafeMutableRawBufferPointer) {
            self.port = port
            self.size = size
            self.data = data
            count = data.count / size
        }

        /// The bytes of one access, little-endian.
        @inlinable
        public subscript(index: Int) -> UnsafeMutableRawBufferPointer {
            UnsafeMutableRawBufferPointer(rebasing: data[index * size..<(index + 1) * size])
        }

        /// The first access's value.
        public var value: UInt32 { UInt32(truncatingIfNeeded: littleEndian(data.prefix(size))) }

        /// Answers all accesses with one value.
        public func answer(_ value: UInt32) {
            for index in data.indices {
                data[index] = UInt8(truncatingIfNeeded: value >> (UInt32(index % size) * 8))
            }
        }
    }

    /// One access to an address without memory.
    public struct MemoryAccess: ~Copyable {
        /// Guest physical.
        public let address: UInt64
        /// 1 to 8 bytes of the run page.
        public let data: UnsafeMutableRawBufferPointer

        /// - Parameter data: 1 to 8 bytes.
        @inlinable
        public init(address: UInt64, data: UnsafeMutableRawBufferPointer) {
            self.address = address
            self.data = data
        }

        /// Bytes of the access.
        public var size: Int { data.count }
        /// What is written.
        public var value: UInt64 { littleEndian(data[...]) }

        /// What is read, cut to the access's size.
        public func answer(_ value: UInt64) {
            for index in data.indices {
                data[index] = UInt8(truncatingIfNeeded: value >> (UInt64(index) * 8))
            }
        }
    }

    /// One access to a model-specific register that KVM left to us.
    public struct MSRAccess: ~Copyable {
        /// The MSR's number, ECX of RDMSR and WRMSR.
        public let index: UInt32
        /// What WRMSR is to write.
        public let value: UInt64
        @usableFromInline let page: UnsafeMutablePointer<kvm_run>

        /// - Parameter page: takes the answer.
        @inlinable
        public init(index: UInt32, value: UInt64 = 0, page: UnsafeMutablePointer<kvm_run>) {
            self.index = index
            self.value = value
            self.page = page
        }

        /// RDMSR reads this, or WRMSR is over.
        public func answer(_ value: UInt64 = 0) { vmtally_answer_msr(page, value, 0) }
        /// #GP in the guest.
        public func refuse() { vmtally_answer_msr(page, 0, 1) }
    }

    /// Runs the guest to its next exit and hands that to `handle`.
    ///
    /// ```swift
    /// while try vcpu.run({ exit in
    ///     switch exit {
    ///     case .portOut(let access): print(access.port, access.value)
    ///     case .portIn(let access): access.answer(0xFF)
    ///     default: return false
    ///     }
    ///     return true
    /// }) {}
    /// ```
    ///
    /// - Throws: what KVM_RUN failed with (4.10), other than a signal and a memory fault: these are exits.
    @inlinable
    public func run<Result>(_ handle: (borrowing Exit) throws -> Result) throws -> Result {
        let result = run()
        return try handle(try Exit(after: result, runPage: runPage))
    }
}

extension VCPU.Exit {
    /// - Parameters:
    ///   - result: what ``VCPU/run()`` returned.
    ///   - page: the vCPU's run page.
    public init(after result: Int32, runPage page: UnsafeMutablePointer<kvm_run>) throws(KVMError) {
        switch result {
        case 0: self.init(page)
        case -EINTR, -EAGAIN: self = .interrupted
        case -EFAULT where page.pointee.exit_reason == VMTALLY_KVM_EXIT_MEMORY_FAULT:
            let fault = vmtally_memory_fault(page)
            self = .memoryFault(address: fault.gpa, size: fault.size, flags: fault.flags)
        default: throw KVMError(call: "KVM_RUN", errno: -result)
        }
    }

    /// What the page says after a KVM_RUN that has returned 0.
    @inlinable
    public init(_ page: UnsafeMutablePointer<kvm_run>) {
        switch Int32(truncatingIfNeeded: page.pointee.exit_reason) {
        case KVM_EXIT_IO:
            let io = page.pointee.io
            let access = VCPU.PortAccess(
                port: io.port, size: max(1, Int(io.size)),
                data: UnsafeMutableRawBufferPointer(
                    start: UnsafeMutableRawPointer(page) + Int(io.data_offset), count: Int(io.size) * Int(io.count)))
            self = io.direction == UInt8(KVM_EXIT_IO_IN) ? .portIn(access) : .portOut(access)
        case KVM_EXIT_MMIO:
            let access = VCPU.MemoryAccess(
                address: page.pointee.mmio.phys_addr,
                data: UnsafeMutableRawBufferPointer(
                    start: vmtally_mmio_data(page), count: min(8, Int(page.pointee.mmio.len))))
            self = page.pointee.mmio.is_write == 0 ? .mmioRead(access) : .mmioWrite(access)
        case KVM_EXIT_X86_RDMSR: self = .readMSR(VCPU.MSRAccess(index: page.pointee.msr.index, page: page))
        case KVM_EXIT_X86_WRMSR:
            self = .writeMSR(VCPU.MSRAccess(index: page.pointee.msr.index, value: page.pointee.msr.data, page: page))
        case KVM_EXIT_HLT: self = .halt
        case KVM_EXIT_DEBUG:
            self = .debug(address: page.pointee.debug.arch.pc, dr6: page.pointee.debug.arch.dr6)
        case KVM_EXIT_IOAPIC_EOI: self = .endOfInterrupt(vector: page.pointee.eoi.vector)
        case KVM_EXIT_SHUTDOWN: self = .shutdown
        case KVM_EXIT_SYSTEM_EVENT: self = .systemEvent(type: page.pointee.system_event.type)
        case KVM_EXIT_FAIL_ENTRY:
            let entry = page.pointee.fail_entry
            self = .failedEntry(reason: entry.hardware_entry_failure_reason, cpu: entry.cpu)
        case KVM_EXIT_INTERNAL_ERROR: self = .internalError(suberror: page.pointee.internal.suberror)
        case KVM_EXIT_EXCEPTION:
            self = .exception(vector: page.pointee.ex.exception, errorCode: page.pointee.ex.error_code)
        case KVM_EXIT_UNKNOWN: self = .unknown(hardwareReason: page.pointee.hw.hardware_exit_reason)
        case KVM_EXIT_INTR: self = .interrupted
        default: self = .other(reason: page.pointee.exit_reason)
        }
    }

    /// The KVM_EXIT_* constant, as a tally counts it.
    public var reason: UInt32 {
        switch self {
        case .portIn: UInt32(KVM_EXIT_IO)
        case .portOut: UInt32(KVM_EXIT_IO)
        case .mmioRead: UInt32(KVM_EXIT_MMIO)
        case .mmioWrite: UInt32(KVM_EXIT_MMIO)
        case .readMSR: UInt32(KVM_EXIT_X86_RDMSR)
        case .writeMSR: UInt32(KVM_EXIT_X86_WRMSR)
        case .halt: UInt32(KVM_EXIT_HLT)
        case .debug: UInt32(KVM_EXIT_DEBUG)
        case .endOfInterrupt: UInt32(KVM_EXIT_IOAPIC_EOI)
        case .shutdown: UInt32(KVM_EXIT_SHUTDOWN)
        case .systemEvent: UInt32(KVM_EXIT_SYSTEM_EVENT)
        case .failedEntry: UInt32(KVM_EXIT_FAIL_ENTRY)
        case .internalError: UInt32(KVM_EXIT_INTERNAL_ERROR)
        case .exception: UInt32(KVM_EXIT_EXCEPTION)
        case .unknown: UInt32(KVM_EXIT_UNKNOWN)
        case .memoryFault: VMTALLY_KVM_EXIT_MEMORY_FAULT
        case .interrupted: UInt32(KVM_EXIT_INTR)
        case .other(let reason): reason
        }
    }
}

/// Up to eight bytes.
private func littleEndian(_ bytes: Slice<UnsafeMutableRawBufferPointer>) -> UInt64 {
    bytes.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
}
