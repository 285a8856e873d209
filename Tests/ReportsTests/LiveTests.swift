// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Testing

@testable import Reports

@Suite("live views")
struct LiveTests {
    static func machine(_ number: Int, exits: UInt64, name: String? = nil, ended: Bool = false) -> LiveMachine {
        let times = ExitCounts.Times(
            cycles: exits * 1000, range: 900...1100, halted: exits * 500, userspace: exits * 250)
        let hardware = ExitCounts(
            source: .bpf, vocabulary: .vmx,
            reasons: [10, 12, 30, 48].map { ExitCounts.Reason(code: $0, count: exits / 4, times: times) })
        let userspace = ExitCounts(
            source: .bpf, vocabulary: .kvm, reasons: [ExitCounts.Reason(code: 2, count: exits / 4, times: times)])
        return LiveMachine(
            name: name ?? "vm-\(number)", program: "qemu", process: Int32(1000 + number),
            vcpus: [
                LiveMachine.VCPU(
                    vcpu: 0, thread: Int32(5000 + number), hardware: hardware, userspace: userspace,
                    guestCycles: exits * 9000)
            ], hasEnded: ended, hardware: hardware,
            nested: ExitCounts(source: .bpf, vocabulary: .vmx, reasons: []), userspace: userspace,
            guestCycles: exits * 9000)
    }

    private static func model(_ count: Int) -> TopModel {
        var model = TopModel()
        model.add((0..<count).map { machine($0, exits: 0) }, at: 0)
        model.add((0..<count).map { machine($0, exits: UInt64(400 * ($0 + 1))) }, at: 2_000_000_000)
        return model
    }

    @Test("rates are those of the span, and the busiest VM comes first")
    func rates() throws {
        let model = Self.model(3)
        let rows = TopView(collector: "bpf", interval: 2).rows(model)
        #expect(rows.map(\.machine.name) == ["vm-2", "vm-1", "vm-0"])
        #expect(rows.map(\.vmExits) == [600, 400, 200])
        #expect(rows.map(\.userspaceExits) == [150, 100, 50])
        let shares = try #require(rows[0].shares)
        #expect(abs(shares.guest + shares.kernel + shares.userspace + shares.halted - 1) < 1e-9)
        #expect(shares.guest > shares.kernel && shares.kernel > shares.halted)
    }

    @Test("what was counted before the first reading is no rate")
    func first() {
        var model = TopModel()
        model.add([Self.machine(0, exits: 400)], at: 7)
        let lines = TopView(collector: "bpf", interval: 1).lines(model, width: 80, height: 24, lost: nil).map(\.text)
        #expect(lines.prefix(2) == ["vmtally top  [bpf, 1.0 s]", "a rate takes two readings, 1.0 s apart"])
        model.add([Self.machine(0, exits: 500)], at: 1_000_000_007)
        #expect(model.rows.map(\.vmExits) == [100])
    }

    @Test("a VM that has ended is in one span and in none after it")
    func ended() {
        var model = Self.model(2)
        model.add([Self.machine(0, exits: 800, ended: true), Self.machine(1, exits: 900)], at: 3_000_000_000)
        #expect(model.rows.count == 2)
        model.add([Self.machine(1, exits: 1000)], at: 4_000_000_000)
        #expect(model.rows.map(\.machine.name) == ["vm-1"])
        // Its numbers again, from 0 on: nothing is subtracted.
        model.add([Self.machine(0, exits: 40), Self.machine(1, exits: 1000)], at: 5_000_000_000)
        #expect(model.rows.first?.vmExits == 40)
    }

    @Test(
        "every page fits its screen, with the chosen VM on it",
        arguments: [(80, 24), (60, 24), (80, 5), (40, 3), (200, 60)], [0, 1, 200])
    func pages(size: (width: Int, height: Int), count: Int) {
        let model = Self.model(count)
        for page in [TopView.Page.machines, .reasons, .vcpus, .help] {
            var view = TopView(collector: "bpf", interval: 1)
            view.page = page
            view.chosen = max(0, count - 1)
            let lines = view.lines(model, width: size.width, height: size.height, lost: "not whole: 1 event")
            #expect(lines.count <= size.height)
            // A terminal has 80 columns: nothing is cut there.
            if size.width == 80 { #expect(lines.allSatisfy { $0.text.count <= 80 }, "\(lines.map(\.text))") }
            if page == .machines, count > 0, size.height > 4 {
                #expect(lines.filter(\.isChosen).map { $0.text.hasPrefix("vm-0 ") } == [true])
            }
        }
    }

    @Test("columns keep to their places, whatever a VM is called")
    func columns() {
        var model = TopModel()
        let names = ["a", String(repeating: "x", count: 100), "\u{6f22}\u{5b57}\u{6f22}\u{5b57}"]
        model.add(names.enumerated().map { Self.machine($0.offset, exits: 0, name: $0.element) }, at: 0)
        model.add(names.enumerated().map { Self.machine($0.offset, exits: 40, name: $0.element) }, at: 1_000_000_000)
        let lines = TopView(collector: "bpf", interval: 1).lines(model, width: 80, height: 24, lost: nil)
        // A wide character takes two columns: the line has as many characters less.
        #expect(lines.dropFirst(2).prefix(3).map { $0.text.hasSuffix(" CPUID") }.allSatisfy { $0 })
        #expect(Set(lines.dropFirst(2).prefix(2).map(\.text.count)).count == 1)
    }

    @Test("one line a VM and reason")
    func csv() {
        let lines = TopRecords.csv(Self.model(1), seconds: 2)
        #expect(lines.count == 5)
        #expect(lines.first == "2.000,vm-0,1000,vm,EXIT_REASON_CPUID,100,400000,,")
        #expect(lines.last == "2.000,vm-0,1000,userspace,KVM_EXIT_IO,100,400000,,")
    }

    @Test("the difference of two readings")
    func differences() throws {
        let early = Self.machine(0, exits: 400)
        let late = Self.machine(0, exits: 1000)
        let span = try #require(late.hardware.since(early.hardware))
        #expect(span.total == 600 && span.reasons.map(\.count) == [150, 150, 150, 150])
        #expect(span.reasons[0].times?.cycles == 600_000 && span.reasons[0].times?.halted == 300_000)
        #expect(late.hardware.since(nil) == late.hardware)
        #expect(try #require(late.hardware.since(late.hardware)).reasons.isEmpty)
        #expect((nil as ExitCounts?).since(late.hardware) == nil)
    }

    @Test("places of one function are one, and a semicolon in a name is no frame of its own")
    func places() {
        let table = PlaceTable([
            PlaceTable.Place(machine: "a;b", code: "outb", reason: "HLT", count: 3),
            PlaceTable.Place(machine: "a;b", code: "outb", reason: "HLT", count: 4),
            PlaceTable.Place(machine: "a;b", code: "0x10", reason: "IO", count: 9),
        ])
        #expect(table.folded == ["a:b;0x10;IO 9", "a:b;outb;HLT 7"])
        #expect(table.lines(1).last?.contains("all others") == true)
    }
}
