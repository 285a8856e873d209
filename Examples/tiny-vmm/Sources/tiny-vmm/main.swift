// SPDX-License-Identifier: Apache-2.0
// A VMM in a page: boots a guest of eight bytes and tallies its exits.
import ExitStats
import KVM

// mov $1000, %cx; 1: out %al, $0x80; loop 1b; hlt
let code: [UInt8] = [0xB9, 0xE8, 0x03, 0xE6, 0x80, 0xE2, 0xFC, 0xF4]

let ram = try GuestRAM(byteCount: 4096)
try ram.write(code, at: 0)
let vm = try System().createVM()
try vm.setMemoryRegion(slot: 0, guestAddress: 0x1000, ram)

// Real mode, at 0:0x1000.
let vcpu = try vm.createVCPU(id: 0)
var segments = try vcpu.specialRegisters()
segments.cs.base = 0
segments.cs.selector = 0
try vcpu.setSpecialRegisters(segments)
var registers = kvm_regs()
registers.rip = 0x1000
registers.rflags = 2
try vcpu.setRegisters(registers)

let tally = try Tally()
let writer = tally.writer
while try vcpu.run({ exit in
    let start = writer.clock()
    let slot = writer.begin(exit.reason)
    defer { writer.end(slot, cycles: writer.clock() - start) }
    switch exit {
    case .portOut: return true
    case .interrupted: return true
    case .halt: return false
    default:
        print("exit reason \(exit.reason)")
        return false
    }
}) {}

let counts = tally.snapshot()
print("reason        exits     p50     p99 cycles")
for reason in counts.reasons {
    let percentiles = [0.5, 0.99].map { reason.times?.percentile($0) ?? 0 }
    print(counts.name(of: reason), reason.count, percentiles[0], percentiles[1], separator: "  ")
}
let kernel = try vcpu.statistics().read().first { $0.name == "exits" }?.value ?? 0
print("total \(counts.total) exits; KVM counts \(kernel)")
