// SPDX-License-Identifier: Apache-2.0
import CLinux
import ExitStats
import KVM
import TestSupport
@testable import Machine

/// A bare-metal guest of a few dozen bytes of machine code.
///
/// RBX points to 4 KiB of zeros when the code starts.
struct TinyGuest: Sendable {
    static let codeAddress: UInt64 = 0x10_0000
    static let dataAddress: UInt64 = 0x11_0000
    private static let idtAddress: UInt64 = 0x11_1000
    /// Limit and base of the IDT, for LIDT.
    private static let idtRegister: UInt64 = 0x11_2000
    /// An address in the hole below 4 GiB, which no device claims.
    static let deviceAddress: UInt64 = 0xD000_0000

    var code: [UInt8]
    /// Offsets into `code` of CPUID instructions for `.vmtally.sites`.
    var sites: [Int] = []
    /// Offset into `code` of the handler of each exception vector; ``Assembly/loadIDT`` makes them known.
    var handlers: [Int: Int] = [:]
    /// Offsets into `code` of functions.
    var symbols: [String: Int] = [:]

    /// mov ebx, dataAddress
    static let prologue: [UInt8] = [0xBB] + little(UInt32(dataAddress))

    init(_ code: [UInt8], sites: [Int] = [], handlers: [Int: Int] = [:]) {
        self.code = code
        self.sites = sites
        self.handlers = handlers
    }

    /// Where `code` begins.
    static let origin = codeAddress + UInt64(prologue.count)

    var elf: [UInt8] {
        let origin = Self.origin
        var idt = [UInt8](repeating: 0, count: 256 * 16)
        for (vector, offset) in handlers {
            let handler = origin + UInt64(offset)
            let gate = handler & 0xFFFF | 0x8E00_0008_0000 | (handler >> 16) << 48
            idt.replaceSubrange(vector * 16..<vector * 16 + 8, with: little(gate))
        }
        var builder = ELFBuilder()
        builder.entry = Self.codeAddress
        builder.segments = [
            .init(address: Self.codeAddress, bytes: Self.prologue + code),
            .init(address: Self.dataAddress, bytes: [], memorySize: 4096),
            .init(address: Self.idtAddress, bytes: handlers.isEmpty ? [] : idt, memorySize: 4096),
            .init(address: Self.idtRegister, bytes: little(UInt16(4095)) + little(Self.idtAddress)),
        ]
        if !sites.isEmpty {
            builder.sites = sites.flatMap { little(origin + UInt64($0)) }
        }
        builder.symbols = symbols.map { ($0.key, origin + UInt64($0.value)) }
        return builder.bytes
    }

    struct Outcome {
        let result: RunResult
        let serial: [UInt8]
        let plan: LiveCPUIDPlan
        let tscKHz: UInt32
        /// TSC cycles from just before the run to just after.
        let outerCycles: UInt64

        /// Exits of one reason.
        func count(_ reason: Int32) -> UInt64 {
            result.total[UInt32(reason)]?.count ?? 0
        }

        /// Exits by reason, without calls out of KVM_RUN by a signal.
        var counts: [Int32: UInt64] {
            result.total.reasons.reduce(into: [:]) { $0[Int32($1.code ?? .max)] = $1.count }
        }

        var failure: GuestFailure? {
            if case .failed(let failure) = result.end { failure } else { nil }
        }
    }

    func machine(_ configure: (inout MachineConfiguration) -> Void = { _ in }) throws -> Machine {
        var configuration = MachineConfiguration()
        configuration.liveCPUID = .off
        configuration.serial = .capture
        configuration.timeoutMilliseconds = 3_600_000
        configuration.sandbox.scope = .machineThreads
        configure(&configuration)
        return try elf.withUnsafeBytes { bytes in
            try Machine(
                configuration, elf: bytes, support: configuration.liveCPUID == .off ? nil : Host.breakpoints)
        }
    }

    /// Runs the guest to its end, an hour at most, without live CPUID unless `configure` asks for it.
    func run(_ configure: (inout MachineConfiguration) -> Void = { _ in }) throws -> Outcome {
        let machine = try machine(configure)
        let start = vmtally_rdtsc()
        let result = try machine.run()
        let cycles = vmtally_rdtsc() - start
        return Outcome(
            result: result, serial: machine.output.captured, plan: machine.liveCPUID, tscKHz: machine.tscKHz,
            outerCycles: cycles)
    }
}

/// Pieces of machine code.
enum Assembly {
    /// hlt
    static let halt: [UInt8] = [0xF4]
    /// lidt [idtRegister]
    static let loadIDT: [UInt8] = [0x0F, 0x01, 0x1C, 0x25, 0x00, 0x20, 0x11, 0x00]
    /// mov [rbx], rax
    static let storeRAX: [UInt8] = [0x48, 0x89, 0x03]
    /// out 0x80, al
    static let outByte: [UInt8] = [0xE6, 0x80]

    /// mov eax, value
    static func eax(_ value: UInt32) -> [UInt8] { [0xB8] + little(value) }
    /// mov rax, value
    static func rax(_ value: UInt64) -> [UInt8] { [0x48, 0xB8] + little(value) }
    /// mov ecx, value
    static func ecx(_ value: UInt32) -> [UInt8] { [0xB9] + little(value) }
    /// mov edx, value
    static func edx(_ value: UInt32) -> [UInt8] { [0xBA] + little(value) }
    /// mov esi, address
    static func esi(_ address: UInt64) -> [UInt8] { [0xBE] + little(UInt32(address)) }
    /// mov edi, address
    static func edi(_ address: UInt64) -> [UInt8] { [0xBF] + little(UInt32(address)) }

    /// mov ebp, times; 1: body; dec ebp; jnz 1b
    static func loop(_ times: UInt32, _ body: [UInt8]) -> [UInt8] {
        [0xBD] + little(times) + body + [0xFF, 0xCD, 0x75, UInt8(bitPattern: Int8(-(body.count + 4)))]
    }

    /// mov esi, dataAddress; mov ecx, count; mov edx, 0x3F8; rep outsb; hlt
    static func sendAndHalt(_ count: Int) -> [UInt8] {
        esi(TinyGuest.dataAddress) + ecx(UInt32(count)) + edx(0x3F8) + [0xF3, 0x6E] + halt
    }

    /// A #GP handler that counts in R12 and goes on after the two bytes of RDMSR or WRMSR. Without IRETQ, which KVM's
    /// emulator lacks in 64-bit mode.
    ///
    /// inc r12; add rsp, 8; pop rax; add rax, 2; mov rsp, [rsp + 16]; jmp rax
    static let skipTwoBytes: [UInt8] = [
        0x49, 0xFF, 0xC4, 0x48, 0x83, 0xC4, 0x08, 0x58, 0x48, 0x83, 0xC0, 0x02, 0x48, 0x8B, 0x64, 0x24, 0x10, 0xFF,
        0xE0,
    ]
}

/// A Multiboot 1 image (Multiboot 0.6.96, 3.1) with its addresses in the header, 32 bytes, and entered behind it.
func multibootImage(_ code: [UInt8], at address: UInt32 = 0x10_0000) -> [UInt8] {
    let magic: UInt32 = 0x1BAD_B002
    let flags: UInt32 = 1 << 16
    let header = [magic, flags, 0 &- magic &- flags, address, address, 0, 0, address + 32]
    return header.flatMap(little) + code
}
