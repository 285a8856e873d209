// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import Glibc
import KVM
import Synchronization
import TestSupport
import Testing
@testable import Linux
@testable import Machine

/// The 16550 as a guest sees it (PC16550D data sheet, table 2).
struct UART16550Tests {
    @Test func registersAfterReset() {
        let bus = PortBus()
        // IER, IIR (no interrupt pending), LCR, MCR, LSR (transmitter empty), MSR (CTS, DSR, DCD), SCR
        #expect((1...7).map { bus.uart($0) } == [0, 0x01, 0, 0, 0x60, 0xB0, 0])
    }

    @Test(arguments: [0, 0x55, 0xAA, 0xFF] as [UInt8]) func scratchRegisterHoldsAnything(value: UInt8) {
        let bus = PortBus()
        bus.uart(7, value)
        #expect(bus.uart(7) == value)
    }

    @Test func divisorLatchHidesBehindBitSeven() {
        let bus = PortBus()
        bus.uart(1, 0x0F)
        bus.uart(3, 0x83)
        #expect(bus.uart(3) == 0x83)
        bus.uart(0, 0x34)
        bus.uart(1, 0x12)
        #expect(bus.uart(0) == 0x34 && bus.uart(1) == 0x12)
        #expect(bus.output.captured.isEmpty)
        bus.uart(3, 0x03)
        #expect(bus.uart(1) == 0x0F)
        bus.uart(0, 0x41)
        #expect(bus.output.captured == [0x41])
        bus.uart(3, 0x83)
        #expect(bus.uart(0) == 0x34 && bus.uart(1) == 0x12)
    }

    @Test func unusedBitsReadAsZero() {
        let bus = PortBus()
        bus.uart(1, 0xFD)
        #expect(bus.uart(1) == 0x0D)
        bus.uart(4, 0xEF)
        #expect(bus.uart(4) == 0x0F)
    }

    /// The top two bits of the identification register tell a 16550A from its elders.
    @Test func fifoEnableShowsInTheIdentification() {
        let bus = PortBus()
        bus.uart(2, 0xC7)
        #expect(bus.uart(2) & 0xC1 == 0xC1)
        bus.uart(2, 0)
        #expect(bus.uart(2) & 0xC1 == 0x01)
    }

    @Test func statusRegistersIgnoreWrites() {
        let bus = PortBus()
        bus.uart(5, 0)
        bus.uart(6, 0)
        #expect(bus.uart(5) == 0x60 && bus.uart(6) == 0xB0)
    }

    /// On an 8-bit bus a wider access reaches as many registers.
    @Test func wideAccessesReachSeveralRegisters() {
        let bus = PortBus()
        bus.out(0x3FE, [0x11, 0x22])
        #expect(bus.uart(7) == 0x22)
        #expect(bus.input(0x3FE, size: 2) == [0xB0, 0x22])
        #expect(bus.input(0x3FC, size: 4) == [0, 0x60, 0xB0, 0x22])
        bus.out(0x3FC, [0x03, 0, 0, 0x33])
        #expect(bus.input(0x3FC, size: 4) == [0x03, 0x60, 0xB0, 0x33])
        bus.out(0x3F8, [0x41, 0x05])
        #expect(bus.output.captured == [0x41] && bus.uart(1) == 0x05)
    }

    @Test func accessPastTheLastRegister() {
        let bus = PortBus()
        bus.uart(7, 0x77)
        #expect(bus.input(0x3FF, size: 4) == [0x77, 0xFF, 0xFF, 0xFF])
        bus.out(0x3FF, [0x66, 1, 2, 3])
        #expect(bus.uart(7) == 0x66)
    }

    @Test func stringOutputArrivesInOrder() {
        let bus = PortBus()
        let text = Array("Hello from a string OUT\n".utf8)
        bus.out(0x3F8, text, size: 1)
        #expect(bus.output.captured == text)
    }

    @Test func stringInputAsksForEachElement() {
        let bus = PortBus()
        bus.uart(7, 0x5C)
        #expect(bus.input(0x3FF, size: 1, count: 100) == [UInt8](repeating: 0x5C, count: 100))
        #expect(bus.input(0x3FE, size: 2, count: 3) == [0xB0, 0x5C, 0xB0, 0x5C, 0xB0, 0x5C])
    }

    @Test(arguments: [0, 0x80, 0x2F8, 0x3F7, 0x400, 0xCF8, 0xFFFF] as [UInt16], [1, 2, 4])
    func unclaimedPortsReadAllOnes(port: UInt16, size: Int) {
        let bus = PortBus()
        bus.out(port, [UInt8](repeating: 0, count: size))
        #expect(bus.input(port, size: size, count: 7) == [UInt8](repeating: 0xFF, count: size * 7))
        #expect(bus.output.captured.isEmpty)
    }

    @Test(arguments: 1...8) func unclaimedMemoryReadsAllOnes(count: Int) {
        let bus = PortBus()
        for address in [0xC000_0000, 0xFEE0_0000, 0xFFFF_FFF0, 1 << 40, .max - 7] as [UInt64] {
            #expect(bus.readMemory(address, count: count) == [UInt8](repeating: 0xFF, count: count))
        }
    }
}

/// When bytes go out, and what a reader can do to a run.
struct SerialOutputTests {
    /// Both ends of a pipe, closed at the end.
    struct Pipe: ~Copyable {
        let reading: Int32
        let writing: Int32

        init() throws {
            var ends: [Int32] = [-1, -1]
            try #require(pipe(&ends) == 0)
            (reading, writing) = (ends[0], ends[1])
            _ = fcntl(reading, F_SETFL, O_NONBLOCK)
        }

        deinit {
            close(reading)
            close(writing)
        }

        /// What can be read at once.
        func read() -> [UInt8] {
            var bytes = [UInt8](repeating: 0, count: 1 << 20)
            let count = Glibc.read(reading, &bytes, bytes.count)
            return Array(bytes.prefix(max(0, count)))
        }

        /// Leaves no room for a byte more.
        func fill() {
            _ = fcntl(writing, F_SETFL, O_NONBLOCK)
            let bytes = [UInt8](repeating: 0, count: 4096)
            while Glibc.write(writing, bytes, bytes.count) > 0 {}
            _ = fcntl(writing, F_SETFL, 0)
        }
    }

    final class Flag: Sendable {
        private let value = Atomic(false)

        func set() { value.store(true, ordering: .relaxed) }
        var isSet: Bool { value.load(ordering: .relaxed) }
    }

    @Test func linesGoOutWhenTheyEnd() throws {
        let pipe = try Pipe()
        let output = SerialOutput(.descriptor(pipe.writing))
        "first\nsec".utf8.forEach(output.send)
        #expect(pipe.read() == Array("first\n".utf8))
        "ond".utf8.forEach(output.send)
        #expect(pipe.read().isEmpty)
        #expect(output.flush())
        #expect(pipe.read() == Array("second".utf8))
        #expect(output.flush())
        #expect(pipe.read().isEmpty)
    }

    @Test func aFullBufferGoesOut() throws {
        let pipe = try Pipe()
        let output = SerialOutput(.descriptor(pipe.writing))
        for _ in 0..<4095 { output.send(0x41) }
        #expect(pipe.read().isEmpty)
        output.send(0x42)
        #expect(pipe.read() == [UInt8](repeating: 0x41, count: 4095) + [0x42])
    }

    @Test func aTerminalGetsEachByteAtOnce() throws {
        var primary: Int32 = -1
        var secondary: Int32 = -1
        try #require(openpty(&primary, &secondary, nil, nil, nil) == 0)
        defer {
            close(primary)
            close(secondary)
        }
        let output = SerialOutput(.descriptor(secondary))
        output.send(0x41)
        var byte: UInt8 = 0
        #expect(read(primary, &byte, 1) == 1 && byte == 0x41)
    }

    @Test func aCaptureHasALimit() {
        let output = SerialOutput(.capture)
        for _ in 0..<SerialOutput.captureLimit + 10 { output.send(1) }
        #expect(output.captured.count == SerialOutput.captureLimit)
    }

    /// A descriptor that takes nothing: closed, no reader, no space. The bytes are lost, nothing else.
    @Test func aTargetThatFailsCostsTheBytesOnly() throws {
        signal(SIGPIPE, SIG_IGN)
        let full = open("/dev/full", O_WRONLY)
        let pipe = try Pipe()
        let widow = dup(pipe.writing)
        let widowed = try { () throws -> Int32 in
            let other = try Pipe()
            return dup(other.writing)
        }()
        close(widow)
        for (descriptor, error) in [(-1, nil), (full, ENOSPC), (widowed, EPIPE)] as [(Int32, Int32?)] {
            let output = SerialOutput(.descriptor(descriptor))
            for _ in 0..<10_000 { output.send(0x0A) }
            #expect(output.flush())
            #expect(output.loss == error.map { SerialLoss(bytes: 10_000, error: $0) })
        }
        close(full)
        close(widowed)
    }

    /// A vCPU waits for a slow reader; the end of the run calls it back, and nothing is lost.
    @Test(.timeLimit(.minutes(60))) func theEndOfTheRunCallsWaitersBack() throws {
        let pipe = try Pipe()
        pipe.fill()
        let output = SerialOutput(.descriptor(pipe.writing))
        let sent = Flag()
        let thread = try Thread(name: "guest") {
            "late\n".utf8.forEach(output.send)
            sent.set()
        }
        usleep(300_000)
        #expect(!sent.isSet)
        output.endOfRun()
        thread.join()
        #expect(sent.isSet)
        #expect(!output.flush())
        #expect(output.loss == SerialLoss(bytes: 5, error: nil))
        #expect(pipe.read().allSatisfy { $0 == 0 })
        #expect(output.flush())
        #expect(output.loss == nil)
        #expect(pipe.read() == Array("late\n".utf8))
    }

    /// vCPUs that print to a reader which never reads: the run still ends at its timeout, at a signal or by itself.
    @Test(
        .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"), .timeLimit(.minutes(60)),
        arguments: [1, 3])
    func aReaderThatNeverReadsHoldsUpNothing(cpus: Int) throws {
        let pipe = try Pipe()
        // mov edx, 0x3F8; mov eax, 10; 1: out dx, al; jmp 1b
        let guest = TinyGuest(Assembly.edx(0x3F8) + Assembly.eax(10) + [0xEE, 0xEB, 0xFD])
        pipe.fill()
        let outcome = try guest.run {
            $0.cpus = cpus
            $0.serial = .descriptor(pipe.writing)
            $0.timeoutMilliseconds = 300
        }
        #expect(outcome.result.end == .timeout)
    }
}

/// An exit whose handling is slow shows where it belongs, and nowhere else.
@Suite(.ownThread, .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"))
struct TimingTests {
    @Test(.timeLimit(.minutes(60))) func aSlowExitShowsInItsReasonAlone() throws {
        let milliseconds: UInt64 = 600
        let pipe = try SerialOutputTests.Pipe()
        pipe.fill()
        let reader = pipe.reading
        let thread = try Thread(name: "reader") {
            usleep(UInt32(milliseconds * 1000))
            var bytes = [UInt8](repeating: 0, count: 1 << 20)
            _ = read(reader, &bytes, bytes.count)
        }
        // 20 OUTs; 20 MMIO writes; mov al, 10; mov edx, 0x3F8; out dx, al; hlt
        let guest = TinyGuest(
            Assembly.loop(20, Assembly.outByte) + Assembly.edi(TinyGuest.deviceAddress)
                + Assembly.loop(20, [0x89, 0x07]) + Assembly.eax(10) + Assembly.edx(0x3F8) + [0xEE] + Assembly.halt)
        let outcome = try guest.run { $0.serial = .descriptor(pipe.writing) }
        thread.join()
        #expect(outcome.result.end == .halted)
        let slow = milliseconds * UInt64(outcome.tscKHz)
        let outs = try #require(outcome.result.total[UInt32(KVM_EXIT_IO)])
        let stores = try #require(outcome.result.total[UInt32(KVM_EXIT_MMIO)])
        #expect(outs.count == 21 && stores.count == 20)
        let ports = try #require(outs.times)
        let range = try #require(ports.range)
        let memory = try #require(stores.times)
        // The reader slept from before the run began.
        #expect(range.upperBound > slow / 2 && range.upperBound <= outcome.outerCycles)
        #expect(try #require(ports.percentile(0.99)) > slow / 2)
        #expect(try #require(ports.percentile(0.5)) < slow / 4)
        #expect(range.lowerBound < slow / 4)
        #expect(try #require(memory.percentile(0.5)) < slow / 4)
        #expect(outcome.result.total.pair.cycles >= range.upperBound)
        #expect(outcome.result.total.pair.cycles <= outcome.outerCycles)
    }
}
