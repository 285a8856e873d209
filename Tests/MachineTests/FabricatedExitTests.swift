// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import Glibc
import KVM
import Testing
@testable import Machine

/// Exits that this host, or any host, cannot be made to give: made up.
struct FabricatedExitTests {
    struct Case: CustomTestStringConvertible, Sendable {
        /// What the report begins with.
        let testDescription: String
        let exit: @Sendable () -> VCPU.Exit

        init(_ cause: String, _ exit: @autoclosure @escaping @Sendable () -> VCPU.Exit) {
            testDescription = cause
            self.exit = exit
        }
    }

    static let failures = [
        Case("KVM_EXIT_SHUTDOWN: triple fault", .shutdown),
        Case(
            "KVM_EXIT_FAIL_ENTRY: hardware entry failure reason 0x80000021 on CPU 3",
            .failedEntry(reason: 0x8000_0021, cpu: 3)),
        Case(
            "KVM_EXIT_FAIL_ENTRY: hardware entry failure reason 0xffffffffffffffff on CPU 0",
            .failedEntry(reason: .max, cpu: 0)),
        Case(
            "KVM_EXIT_INTERNAL_ERROR: KVM cannot emulate the instruction at RIP",
            .internalError(suberror: UInt32(KVM_INTERNAL_ERROR_EMULATION))),
        Case(
            "KVM_EXIT_INTERNAL_ERROR: simultaneous exceptions",
            .internalError(suberror: UInt32(KVM_INTERNAL_ERROR_SIMUL_EX))),
        Case(
            "KVM_EXIT_INTERNAL_ERROR: exit while an event was being delivered",
            .internalError(suberror: UInt32(KVM_INTERNAL_ERROR_DELIVERY_EV))),
        Case(
            "KVM_EXIT_INTERNAL_ERROR: exit reason that KVM does not know",
            .internalError(suberror: UInt32(KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON))),
        Case("KVM_EXIT_INTERNAL_ERROR: suberror 4294967295", .internalError(suberror: .max)),
        Case("KVM_EXIT_EXCEPTION: vector 14, error code 0x5", .exception(vector: 14, errorCode: 5)),
        Case("KVM_EXIT_UNKNOWN: hardware exit reason 0x77", .unknown(hardwareReason: 0x77)),
        Case(
            "KVM_EXIT_MEMORY_FAULT: Bad address: 0x1000 bytes at 0x5000, flags 0x8",
            .memoryFault(address: 0x5000, size: 0x1000, flags: 8)),
        Case(
            "KVM_EXIT_HYPERCALL: an exit that this VMM does not handle",
            .other(reason: UInt32(KVM_EXIT_HYPERCALL))),
        Case("KVM_EXIT_NMI: an exit that this VMM does not handle", .other(reason: UInt32(KVM_EXIT_NMI))),
    ]

    @Test(arguments: failures) func failureIsReportedWithoutAVCPU(_ test: Case) throws {
        let end = try FabricatedExit.end(of: test.exit(), try FabricatedExit.absentVCPU())
        #expect(end == .failed(GuestFailure(vcpu: 0, cause: test.testDescription, state: "")))
        #expect(end?.exitStatus == 1 && end?.reason == "failed")
    }

    @Test(.enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"), arguments: failures)
    func failureIsReportedWithRegisters(_ test: Case) throws {
        let bare = try BareVCPU(TinyGuest([0x0F, 0x0B]))
        let memory = bare.memory
        let end = try FabricatedExit.end(of: test.exit(), bare.takeVCPU(), memory)
        guard case .failed(let failure) = end else {
            Issue.record("\(String(describing: end))")
            return
        }
        #expect(failure.cause == test.testDescription)
        #expect(failure.state.contains("rip    0000000000100000"))
        #expect(failure.state.contains("bytes at rip: bb 00 00 11 00 0f 0b"))
        #expect("\(failure)".hasPrefix("vCPU 0: \(test.testDescription)\n  rip"))
    }

    @Test("ports and addresses that nobody claims read as all ones, of whatever size")
    func unclaimedAccessesReadAsOnes() throws {
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 8, alignment: 8)
        defer { bytes.deallocate() }
        for size in [1, 2, 4] {
            bytes.initializeMemory(as: UInt8.self, repeating: 0)
            _ = try FabricatedExit.end(
                of: .portIn(VCPU.PortAccess(port: 0xFFFF, size: size, data: bytes)), FabricatedExit.absentVCPU())
            #expect(bytes.allSatisfy { $0 == 0xFF })
        }
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
        _ = try FabricatedExit.end(
            of: .mmioRead(VCPU.MemoryAccess(address: .max, data: bytes)), FabricatedExit.absentVCPU())
        #expect(bytes.allSatisfy { $0 == 0xFF })
    }

    /// A reason that came after us is counted under its own code, whatever it is.
    @Test(arguments: [77, 255, 256, 0x400, 0x1234_5678, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF] as [UInt32])
    func unknownReasonIsCountedUnderItsOwnCode(_ reason: UInt32) throws {
        let outcome = try FabricatedExit.run(try FabricatedExit.absentVCPU(), try GuestMemory(mebibytes: 1)) {
            $0.pointee.exit_reason = reason
        }
        #expect(outcome.tally.reasons.map(\.code) == [reason])
        #expect(outcome.tally[reason]?.count == 1)
        #expect(outcome.end?.exitStatus == 1)
        #expect(outcome.failure?.cause.contains("an exit that this VMM does not handle") == true)
    }

    @Test(
        arguments: [
            (KVM_SYSTEM_EVENT_SHUTDOWN, 0), (KVM_SYSTEM_EVENT_RESET, 0), (KVM_SYSTEM_EVENT_CRASH, 1), (77, 0),
        ] as [(Int32, Int32)])
    func systemEventEndsTheRun(type: Int32, status: Int32) throws {
        let end = try FabricatedExit.end(of: .systemEvent(type: UInt32(type)), FabricatedExit.absentVCPU())
        #expect(end == .systemEvent(type: UInt32(type)))
        #expect(end?.exitStatus == status)
    }

    @Test(
        arguments: [(EFAULT, "Bad address"), (EINVAL, "Invalid argument"), (ENOEXEC, "Exec format error")]
            as [(Int32, String)])
    func failedRunIsReported(error: Int32, text: String) throws {
        let memory = try GuestMemory(mebibytes: 1)
        let outcome = try FabricatedExit.run(try FabricatedExit.absentVCPU(), memory, error: error) { page in
            // Of the exit before; an error leaves it alone.
            page.pointee.exit_reason = UInt32(KVM_EXIT_IO)
        }
        #expect(outcome.failure?.cause.hasPrefix("KVM_RUN: \(text)") == true)
        #expect(outcome.end?.exitStatus == 1)
        #expect(outcome.tally[UInt32(KVM_EXIT_IO)] == nil)
    }

    /// The one error that is an exit: counted under its own code, by no other error.
    @Test(arguments: [(EFAULT, 39), (EINVAL, KVM_EXIT_INTR), (EIO, KVM_EXIT_INTR)] as [(Int32, Int32)])
    func memoryFaultIsAnExit(error: Int32, code: Int32) throws {
        let memory = try GuestMemory(mebibytes: 1)
        let outcome = try FabricatedExit.run(try FabricatedExit.absentVCPU(), memory, error: error) { page in
            page.pointee.exit_reason = 39
            withUnsafeMutableBytes(of: &page.pointee.padding) {
                $0.storeBytes(of: 8, toByteOffset: 0, as: UInt64.self)
                $0.storeBytes(of: 0x1234_5000, toByteOffset: 8, as: UInt64.self)
                $0.storeBytes(of: 0x1000, toByteOffset: 16, as: UInt64.self)
            }
        }
        #expect(outcome.tally.reasons.map(\.code) == [UInt32(code)])
        let expected = "KVM_EXIT_MEMORY_FAULT: Bad address: 0x1000 bytes at 0x12345000, flags 0x8"
        #expect((outcome.failure?.cause == expected) == (code == 39))
    }

    /// A signal during a run that has its end stops the vCPU and does not change the end.
    @Test(arguments: [EINTR, EAGAIN]) func interruptedRunStopsWhenItHasEnded(error: Int32) throws {
        let memory = try GuestMemory(mebibytes: 1)
        let outcome = try FabricatedExit.run(
            try FabricatedExit.absentVCPU(), memory, error: error, ended: .timeout
        ) { _ in }
        #expect(outcome.end == .timeout)
        #expect(outcome.tally.reasons.map(\.code) == [UInt32(KVM_EXIT_INTR)])
    }
}
