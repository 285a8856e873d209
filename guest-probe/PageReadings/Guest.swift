// SPDX-License-Identifier: Apache-2.0
import CVMTally
import GuestCPU

/// Reads the tally over and over, by the page and by CPUID, in ring 0 and in ring 3: what a reading costs, and that those
/// of the page make no exit.
///
/// A line a way: `reading WAY RING READINGS CYCLES EXITS PIECE FASTEST`: the cycles of all the readings, the userspace
/// exits that this vCPU made meanwhile, by the page, and the cycles of the fastest piece of so many readings: what they take when
/// nobody else wants the processor. Ends the run with 0; with 2 where there is no page.
@c(guest_main)
func guestMain(_ boot: UnsafePointer<guest_boot_info>?, _ vcpu: UInt32) -> Never {
    guard vcpu == 0 else {
        while true { guest_yield() }
    }
    let plan = guest_readings_plan()
    guard let readings = Readings() else { exitRun(2) }
    var serial = Serial()
    let results = (
        readings.pageByUser(plan.first), readings.page(plan.second), readings.leaf(plan.second, ring: 0),
        readings.leaf(plan.second, ring: 3)
    )
    results.0.report("page 3", &serial)
    results.1.report("page 0", &serial)
    results.2.report("cpuid 0", &serial)
    results.3.report("cpuid 3", &serial)
    serial.flush()
    exitRun(0)
}

/// Readings, the TSC cycles that they took, and the exits that came meanwhile.
struct Result {
    var readings: UInt64 = 0
    var cycles: UInt64 = 0
    var exits: UInt64 = 0
    /// Readings in a row.
    var piece: UInt64 = 1
    var fastest: UInt64 = .max

    mutating func add(_ cycles: UInt64) {
        readings += piece
        self.cycles += cycles
        fastest = min(fastest, cycles)
    }

    func report(_ way: StaticString, _ serial: inout Serial) {
        guard readings > 0 else { return }
        serial.put("reading ")
        serial.put(way)
        serial.put(" ")
        serial.put(readings)
        serial.put(" ")
        serial.put(cycles)
        serial.put(" ")
        serial.put(exits)
        serial.put(" ")
        serial.put(piece)
        serial.put(" ")
        serial.put(fastest)
        serial.put("\n")
    }
}

struct Readings {
    private let page: UnsafePointer<vmtally_page>
    /// Where ring 3 has it.
    private let user: UInt64?
    private let signature: Bool
    /// Both rings' CPUID by the instructions that a VMM knows.
    private let isLive: (kernel: Bool, user: Bool)

    init?() {
        var answer = guest_registers()
        guest_cpuid(TallyLeaf.signature, 0, &answer)
        signature = CPUIDRegisters(answer).isTallySignature
        guest_cpuid(TallyLeaf.features, 0, &answer)
        let kernel = TallyFeatures(CPUIDRegisters(answer)).flags
        guard signature, kernel.contains(.page) else { return nil }
        guest_cpuid(TallyLeaf.page, 0, &answer)
        let address = UInt64(answer.ebx) << 32 | UInt64(answer.eax)
        guard let page = UnsafePointer<vmtally_page>(bitPattern: UInt(address)),
            vmtally_page_is_valid(page, answer.ecx) != 0
        else { return nil }
        self.page = page
        user = UserMapping.map(address, size: UInt64(answer.ecx), at: address + UserMapping.largePage)
        guest_cpuid_user(TallyLeaf.signature, 0, &answer)
        let userSigned = CPUIDRegisters(answer).isTallySignature
        guest_cpuid_user(TallyLeaf.features, 0, &answer)
        let flags = TallyFeatures(CPUIDRegisters(answer)).flags
        isLive = (kernel.contains(.live), userSigned && flags.contains(.live))
    }

    /// Those of vCPU 0, which reads: the others may be called out meanwhile.
    private var exits: UInt64 { vmtally_page_vcpu_total(page, 0).count }

    /// By ring 3, in 100 pieces: some hosts get their interrupts between them only. As many visits for no readings, for the
    /// return from each is an exception, which the host's kernel may want to see.
    func pageByUser(_ readings: UInt64) -> Result {
        var result = Result(piece: readings / 100)
        guard let user else { return result }
        let before = exits
        for _ in 0..<100 {
            result.add(guest_call_user(guest_user_page_readings(), user, result.piece).first)
            guest_yield()
        }
        result.exits = exits - before
        return result
    }

    func page(_ readings: UInt64) -> Result {
        var result = Result()
        let before = exits
        for _ in 0..<readings {
            let start = guest_tsc()
            _ = vmtally_page_total(page)
            result.add(guest_tsc() - start)
        }
        result.exits = exits - before
        return result
    }

    /// By the instruction that the VMM knows; from ring 3 that is a visit there and back each.
    func leaf(_ readings: UInt64, ring: UInt32) -> Result {
        guard ring == 0 ? isLive.kernel : isLive.user else { return Result() }
        var result = Result()
        var answer = guest_registers()
        let before = exits
        for _ in 0..<readings {
            let start = guest_tsc()
            if ring == 0 {
                guest_cpuid(TallyLeaf.total, 0, &answer)
            } else {
                guest_cpuid_user(TallyLeaf.total, 0, &answer)
            }
            result.add(guest_tsc() - start)
        }
        result.exits = exits - before
        return result
    }
}

extension CPUIDRegisters {
    init(_ registers: guest_registers) {
        self.init(eax: registers.eax, ebx: registers.ebx, ecx: registers.ecx, edx: registers.edx)
    }
}
