// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM

/// 64-bit mode with flat segments and the first 4 GiB identity-mapped, as a bare-metal guest finds it.
///
/// The structures take 32 KiB: PML4, PDPT and four page directories, then GDT and boot-info page.
struct LongMode {
    static let size: UInt64 = 0x8000

    /// Guest physical address of the structures, 4 KiB aligned.
    let base: UInt64

    var pml4: UInt64 { base }
    var gdt: UInt64 { base + 0x6000 }
    var bootInfo: UInt64 { base + 0x7000 }

    /// Writes page tables and GDT. False when they do not fit in RAM.
    ///
    /// - Parameter user: pages are ring 3's too. A guest with SMEP or SMAP could not use them from ring 0.
    func write(to memory: GuestMemory, user: Bool = false) -> Bool {
        guard memory.slice(base, count: Int(Self.size)) != nil else { return false }
        let flags: UInt64 = user ? 0x7 : 0x3  // present, writable
        memory.store(base + 0x1000 | flags, at: pml4)
        for gibibyte in 0..<4 as Range<UInt64> {
            let directory = base + 0x2000 + gibibyte * 0x1000
            memory.store(directory | flags, at: base + 0x1000 + gibibyte * 8)
            for entry in 0..<512 as Range<UInt64> {
                let large: UInt64 = 0x80
                memory.store(gibibyte << 30 | entry << 21 | flags | large, at: directory + entry * 8)
            }
        }
        for (index, segment) in Segment.allCases.enumerated() {
            memory.store(segment.descriptor, at: gdt + UInt64(index + 1) * 8)
        }
        return true
    }

    /// The flat segments of the GDT, in its order from selector 8 on.
    enum Segment: CaseIterable {
        case code
        case data
        case userData
        case userCode

        var descriptor: UInt64 {
            switch self {
            case .code: 0x00AF_9B00_0000_FFFF
            case .data: 0x00CF_9300_0000_FFFF
            case .userData: 0x00CF_F300_0000_FFFF
            case .userCode: 0x00AF_FB00_0000_FFFF
            }
        }

        var selector: UInt16 {
            switch self {
            case .code: 0x08
            case .data: 0x10
            case .userData: 0x18 | 3
            case .userCode: 0x20 | 3
            }
        }

        var register: kvm_segment {
            kvm_segment(descriptor: descriptor, selector: selector)
        }
    }

    /// Puts a vCPU's special registers into 64-bit mode on these tables.
    ///
    /// - Parameter user: CPL 3 instead of 0.
    func enter(_ registers: inout kvm_sregs, user: Bool = false) {
        let code = (user ? Segment.userCode : .code).register
        let data = (user ? Segment.userData : .data).register
        registers.cs = code
        (registers.ds, registers.es, registers.fs, registers.gs, registers.ss) = (data, data, data, data, data)
        // VM entry wants a busy 64-bit TSS (SDM vol. 3C 27.3.1.2). A guest that enters ring 3 loads its own.
        registers.tr = kvm_segment(descriptor: 0x0000_8B00_0000_0067, selector: 0x28)
        registers.ldt = kvm_segment()
        registers.ldt.unusable = 1
        registers.gdt.base = gdt
        registers.gdt.limit = UInt16((Segment.allCases.count + 1) * 8 - 1)
        registers.idt.base = 0
        registers.idt.limit = 0
        registers.cr3 = pml4
        registers.cr0 = 0x8000_0033  // PG, NE, ET, MP, PE
        registers.cr4 = 0x20  // PAE
        registers.efer = 0x500  // LMA, LME
    }

    /// 32-bit protected mode without paging; the caller sets segments and GDT.
    static func enterProtectedMode(_ registers: inout kvm_sregs) {
        LongMode(base: 0).enter(&registers)
        registers.cr3 = 0
        registers.cr0 = 0x33  // NE, ET, MP, PE
        registers.cr4 = 0
        registers.efer = 0
    }
}

extension kvm_segment {
    /// Decodes an 8-byte code, data or system descriptor (SDM vol. 3A 3.4.5).
    init(descriptor: UInt64, selector: UInt16) {
        self.init()
        let granular = descriptor >> 55 & 1 == 1
        let limit = UInt32(truncatingIfNeeded: descriptor & 0xFFFF | descriptor >> 32 & 0xF_0000)
        self.base = descriptor >> 16 & 0xFF_FFFF | descriptor >> 32 & 0xFF00_0000
        self.limit = granular ? limit << 12 | 0xFFF : limit
        self.selector = selector
        type = UInt8(descriptor >> 40 & 0xF)
        s = UInt8(descriptor >> 44 & 1)
        dpl = UInt8(descriptor >> 45 & 3)
        present = UInt8(descriptor >> 47 & 1)
        avl = UInt8(descriptor >> 52 & 1)
        l = UInt8(descriptor >> 53 & 1)
        db = UInt8(descriptor >> 54 & 1)
        g = granular ? 1 : 0
        unusable = present == 0 ? 1 : 0
    }
}
