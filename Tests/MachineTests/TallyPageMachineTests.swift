// SPDX-License-Identifier: Apache-2.0
import CLinuxKVM
import ExitStats
import KVM
import TestSupport
import Testing
@testable import Machine

/// The tally page in a guest, and guests that try what they can with it.
@Suite(.enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"))
struct TallyPageMachineTests {
    /// mov esi, page + offset; mov ecx, count; mov edx, 0x3F8; rep outsb
    private static func send(_ offset: Int, _ count: Int) -> [UInt8] {
        Assembly.esi(TallyPage.address + UInt64(offset)) + Assembly.ecx(UInt32(count)) + Assembly.edx(0x3F8)
            + [0xF3, 0x6E]
    }

    private static let total = TallyPageLayout.headerSize
    private static let portIO = total + TallyPageLayout.Block.slots + 2 * TallyPageLayout.Counters.size

    private static func words(_ bytes: [UInt8]) -> [UInt64] {
        bytes.withUnsafeBytes { raw in
            stride(from: 0, to: raw.count - 7, by: 8).map { raw.loadUnaligned(fromByteOffset: $0, as: UInt64.self) }
        }
    }

    /// 100 OUTs; then the guest copies what it reads by plain loads.
    @Test func plainLoadsAreLive() throws {
        // mov rax, [total]; mov [rbx], rax; mov rax, [port I/O]; mov [rbx + 8], rax
        func load(_ offset: Int, _ place: UInt8) -> [UInt8] {
            [0xBE] + little(UInt32(TallyPage.address) + UInt32(offset)) + [0x48, 0x8B, 0x06, 0x48, 0x89, 0x43, place]
        }
        let code =
            Assembly.loop(100, Assembly.outByte) + load(Self.total, 0) + Assembly.loop(3, Assembly.outByte)
            + load(Self.portIO, 8) + Assembly.sendAndHalt(16)
        let outcome = try TinyGuest(code).run()
        #expect(Self.words(outcome.serial) == [100, 103])
        #expect(outcome.counts == [KVM_EXIT_IO: 100 + 3 + 16, KVM_EXIT_HLT: 1])
    }

    /// 100,000 loads between two exits make none.
    @Test func loadsMakeNoExit() throws {
        // mov esi, page; then mov rax, [rsi], again and again
        let code =
            Assembly.esi(TallyPage.address + UInt64(Self.total)) + Assembly.loop(100_000, [0x48, 0x8B, 0x06])
            + Assembly.outByte + Assembly.halt
        #expect(try TinyGuest(code).run().counts == [KVM_EXIT_IO: 1, KVM_EXIT_HLT: 1])
    }

    /// A store anywhere in it is an exit as of memory that is nobody's, and the counters go on as if it had not been.
    @Test(arguments: [0, 8, total, portIO, TallyPageLayout.size(vcpus: 1) - 8])
    func storesChangeNothing(offset: Int) throws {
        // mov rax, -1; mov edi, page + offset; mov [rdi], rax, 7 times
        let code =
            Assembly.rax(.max) + Assembly.edi(TallyPage.address + UInt64(offset))
            + Assembly.loop(7, [0x48, 0x89, 0x07]) + Self.send(0, 8) + Self.send(Self.total, 8) + Assembly.halt
        let outcome = try TinyGuest(code).run()
        #expect(outcome.result.end == .halted)
        #expect(outcome.serial.prefix(8).elementsEqual("VMTALLY1".utf8))
        // REP OUTSB reads ahead of its own exits, as much as KVM likes.
        let total = try #require(Self.words(outcome.serial).last)
        #expect((15...23).contains(total), "7 stores, 8 bytes and some of the next 8: \(total)")
        #expect(outcome.counts == [KVM_EXIT_MMIO: 7, KVM_EXIT_IO: 16, KVM_EXIT_HLT: 1])
    }

    /// Code, a stack, an IDT and page tables there: the guest comes to its end, the VMM and its counters do not.
    @Test(
        arguments: [
            // mov eax, page; jmp rax
            ("code", [0xB8] + little(UInt32(TallyPage.address)) + [0xFF, 0xE0]),
            // mov esp, page + 0x2000; push rax; hlt
            ("stack", [0xBC] + little(UInt32(TallyPage.address) + 0x2000) + [0x50, 0xF4]),
            // mov eax, page + 0x1000; mov cr3, rax; hlt
            ("page tables", [0xB8] + little(UInt32(TallyPage.address) + 0x1000) + [0x0F, 0x22, 0xD8, 0xF4]),
            // mov esi, page + 0x1000; lidt [rsi]; ud2
            ("IDT", [0xBE] + little(UInt32(TallyPage.address) + 0x1000) + [0x0F, 0x01, 0x1E, 0x0F, 0x0B]),
            // mov esi, page + 0x1000; lgdt [rsi]; mov eax, 8; mov ss, eax; hlt
            (
                "GDT",
                [0xBE] + little(UInt32(TallyPage.address) + 0x1000) + [0x0F, 0x01, 0x16]
                    + [0xB8, 0x08, 0, 0, 0, 0x8E, 0xD0, 0xF4]
            ),
            // mov esi, page; lock inc qword [rsi]; hlt
            ("a locked increment", [0xBE] + little(UInt32(TallyPage.address)) + [0xF0, 0x48, 0xFF, 0x06, 0xF4]),
            // mov edi, page; mov ecx, 0x2000; rep stosb; hlt
            ("a long store", [0xBF] + little(UInt32(TallyPage.address)) + Assembly.ecx(0x2000) + [0xF3, 0xAA, 0xF4]),
        ] as [(String, [UInt8])])
    func whateverTheGuestPutsThereIsItsOwnAffair(what: String, code: [UInt8]) throws {
        let machine = try TinyGuest(Assembly.loop(50, Assembly.outByte) + code).machine { configuration in
            configuration.timeoutMilliseconds = 3000
        }
        let result = try machine.run()
        let tally = try #require(machine.tallies.first)
        // The page's bytes as code may well have a port access among them.
        #expect((result.total[UInt32(KVM_EXIT_IO)]?.count ?? 0) >= 50, "\(what): \(result.end)")
        // The page and the reasons tell the same total still.
        #expect(tally.total.count == result.total.total)
        let view = try #require(machine.page?.view)
        #expect(view.prefix(8).elementsEqual("VMTALLY1".utf8))
        #expect(view.loadUnaligned(fromByteOffset: Self.total, as: UInt64.self) == tally.total.count)
    }

    /// No device can be told to read or write there: it is no RAM of the VMM's.
    @Test(arguments: [1, 16, 3072, 3584]) func noDeviceReachesIt(mebibytes: Int) throws {
        guard let memory = try? GuestMemory(mebibytes: mebibytes) else { return }
        let page = TallyPage.address
        for (address, count) in [(page, 1), (page, 4096), (page + 4096, 12288), (page - 1, 2), (page + 64, 8)] {
            #expect(memory.slice(address, count: count) == nil)
        }
        #expect(!memory.store(1 as UInt64, at: page) && memory.load(UInt64.self, at: page) == nil)
        // Nor does it share a range of 2 MiB with RAM.
        #expect(page % (2 << 20) == 0 && page >= GuestMemory.holeStart)
    }

    /// Without it the leaf says so, and the place is nobody's.
    @Test(arguments: [true, false]) func offMeansAbsent(on: Bool) throws {
        let outcome = try TinyGuest(Self.send(0, 8) + Assembly.halt).run { $0.tallyPage = on }
        #expect(outcome.serial == (on ? Array("VMTALLY1".utf8) : [UInt8](repeating: 0xFF, count: 8)))
        let table = CPUIDTable(entries: []).forGuest(
            apicID: 0, tscKHz: 1, .snapshot, page: on ? CPUIDRegisters(pageAt: TallyPage.address, size: 16384) : .init()
        )
        let features = TallyFeatures(CPUIDRegisters(try #require(table.entry(leaf: TallyLeaf.features))))
        #expect(features.flags == (on ? [.page] : []))
        let leaf = table.entry(leaf: TallyLeaf.page).map(CPUIDRegisters.init)
        #expect(leaf == (on ? CPUIDRegisters(eax: 0xE000_0000, ecx: 16384, edx: 1) : nil))
    }

    /// A kernel that counts keeps its own answers; the page is told of beside them.
    @Test func aCountingKernelsTableHasItToo() throws {
        var listed = CPUIDTable(entries: [])
        listed.set(leaf: TallyLeaf.signature, eax: TallyLeaf.total, ebx: 1, ecx: 2, edx: 3)
        listed.set(leaf: TallyLeaf.features, eax: 2, ebx: 7, ecx: 5, edx: 2)
        let table = listed.forGuest(
            apicID: 0, tscKHz: 0, .asListed, page: CPUIDRegisters(pageAt: TallyPage.address, size: 16384))
        #expect(table.entry(leaf: TallyLeaf.signature)?.ebx == 1)
        #expect(table.entry(leaf: TallyLeaf.features)?.ebx == 23 as UInt32)
        #expect(table.entry(leaf: TallyLeaf.page)?.eax == 0xE000_0000)
    }
}

extension CPUIDRegisters {
    fileprivate init(_ entry: kvm_cpuid_entry2) {
        self.init(eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx)
    }
}
