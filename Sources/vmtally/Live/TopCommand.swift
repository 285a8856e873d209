// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import HostView
import Linux
import LiveView
import Rendering
import Reports
import ThisHost

/// `vmtally top`
struct TopCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "top",
        abstract: "The VMs of this host, whatever their VMM: exits a second by reason, and where their time goes.",
        discussion: """
            Rates are those of the last interval. --batch prints instead of drawing, for scripts (docs/top.md). \
            Without the rights for BPF it says what is missing and shows what it can.
            """)

    @Option(
        name: .shortAndLong, help: ArgumentHelp("Between two readings.", valueName: "seconds"))
    var interval = 1.0

    @Flag(name: .shortAndLong, help: "Print each interval instead of drawing.")
    var batch = false

    @Option(name: [.customShort("n"), .long], help: "End after this many intervals.")
    var count: Int?

    @Option(
        defaultAsFlag: "-", parsing: .next,
        help: ArgumentHelp(
            """
            With --batch: a JSON document on a line for each interval, in this file; -, or no word behind it, is \
            standard output.
            """, valueName: "file"),
        completion: .file())
    var json: String?

    @Option(
        defaultAsFlag: "-", parsing: .next,
        help: ArgumentHelp(
            "With --batch: likewise a line of comma-separated values for each VM and reason.", valueName: "file"),
        completion: .file())
    var csv: String?

    @Option(
        name: [.customShort("p"), .customLong("vm")], help: "Only this VM: its process's pid, or its name.",
        completion: .custom { _, _, _ in Completions.machines })
    var vm: String?

    @Option(help: "Who counts: auto, module, bpf, tracefs or statistics.")
    var collector = CollectorChoice.auto

    @Flag(help: "Leave the process all its system calls while it watches.")
    var noSandbox = false

    func validate() throws {
        guard interval >= 0.01, interval < 1e6 else {
            throw ValidationError("--interval takes seconds, from 0.01 to below 1,000,000.")
        }
        guard count.map({ $0 > 0 }) ?? true else { throw ValidationError("-n takes a number of intervals, 1 or more.") }
        guard json == nil || csv == nil, batch || json == nil && csv == nil else {
            throw ValidationError("--json and --csv go with --batch, one of them.")
        }
    }

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        let chosen = try vm.map { try MachineSelection.find($0) }
        let running = RunningMachine.all()
        let (collector, refusals) = try collector.make(
            chosen.map { .process($0.process) } ?? .everything, vcpus: running.reduce(0) { $0 + $1.vcpus })
        for refusal in refusals { warn("not by \(refusal)") }
        var waiter = Waiter()
        let screen = batch ? nil : try TopScreen()
        let output = try LiveOutput(json ?? csv ?? "-")
        try confine(collector, noSandbox)
        var live = LiveMachines(collector)
        live.learn(running)
        var model = TopModel()
        let start = monotonicNanoseconds()
        model.add(try live.read(CollectorDetail()), at: start)
        if let screen {
            return try draw(screen, &live, &model, &waiter)
        }
        if csv != nil { output.print(TopRecords.csvHeader) }
        var done = 0
        let step = UInt64(interval * 1e9)
        var next = start + step
        while done < count ?? .max {
            let time = monotonicNanoseconds()
            if waiter.wait(nanoseconds: next > time ? next - time : 0) != nil { break }
            guard monotonicNanoseconds() >= next else { continue }
            let before = monotonicNanoseconds()
            model.add(try live.read(CollectorDetail(histograms: true)), at: before)
            while next <= monotonicNanoseconds() { next += step }
            try printSpan(model, live, seconds: Double(before - start) / 1e9, output)
            if output.error != nil { break }
            done += 1
        }
        // Who reads no more has had enough: as a pipe into head.
        if output.error != EPIPE { try output.check() }
    }

    private func printSpan(
        _ model: TopModel, _ live: LiveMachines, seconds: Double, _ output: LiveOutput
    ) throws {
        if json != nil {
            let document = LiveDocument(
                schema: "vmtally.top/1", version: VMTally.version,
                host: HostIdentity(tscKHz: UInt32(clamping: TSCScale.host.kHz)), collector: live.collector.name,
                lost: live.losses, nanoseconds: model.nanoseconds, machines: model.rows.map(\.machine))
            output.print(try document.json())
        } else if csv != nil {
            for line in TopRecords.csv(model, seconds: seconds) { output.print(line) }
            if let lost = live.collector.losses().description { warn(lost) }
        } else {
            let view = TopView(collector: live.collector.name, interval: interval)
            let lines = view.lines(
                model, width: Terminal.columns(STDOUT_FILENO), height: model.rows.count + 4,
                lost: live.collector.losses().description)
            // All but the line of keys.
            for line in lines.dropLast() { output.print(line.text.trimmingSuffix()) }
        }
    }

    private func draw(
        _ screen: TopScreen, _ live: inout LiveMachines, _ model: inout TopModel, _ waiter: inout Waiter
    ) throws {
        var view = TopView(collector: live.collector.name, interval: interval)
        let step = UInt64(interval * 1e9)
        var next = monotonicNanoseconds() + step
        var done = 0
        while true {
            let (width, height) = screen.size
            screen.show(view.lines(model, width: width, height: height, lost: live.collector.losses().description))
            let time = monotonicNanoseconds()
            let left = next > time ? Int32(clamping: (next - time) / 1_000_000 + 1) : 0
            // Signals that would end us are held back: looked for a few times a second.
            if let key = screen.key(milliseconds: min(left, 200)), !view.take(key, rows: view.rows(model).count) {
                break
            }
            if waiter.wait(nanoseconds: 0) != nil { break }
            guard monotonicNanoseconds() >= next else { continue }
            if !view.isPaused {
                model.add(try live.read(CollectorDetail(histograms: true)), at: monotonicNanoseconds())
                done += 1
            }
            while next <= monotonicNanoseconds() { next += step }
            if done >= count ?? .max { break }
        }
        screen.close()
    }
}

extension TopView {
    /// - Returns: false to quit.
    mutating func take(_ key: TopScreen.Key, rows: Int) -> Bool {
        if isTyping {
            switch key {
            case .enter: isTyping = false
            case .escape: (isTyping, filter) = (false, "")
            case .backspace: filter = String(filter.dropLast())
            case .text(let character) where filter.count < 40: filter.append(character)
            default: break
            }
            chosen = 0
            return true
        }
        switch key {
        case .text("q"): return false
        case .text("?"), .text("h"): page = page == .help ? .machines : .help
        case .text("p"), .text(" "): isPaused.toggle()
        case .text("s"):
            let all = Sort.allCases
            sort = all[((all.firstIndex(of: sort) ?? 0) + 1) % all.count]
        case .text("/"): (isTyping, filter, page) = (true, "", .machines)
        case .text("v"): page = page == .vcpus ? .machines : .vcpus
        case .enter: page = .reasons
        case .escape, .backspace: page = .machines
        case .up, .text("k"): chosen = max(0, chosen - 1)
        case .down, .text("j"): chosen = min(max(0, rows - 1), chosen + 1)
        default: break
        }
        return true
    }
}

extension String {
    fileprivate func trimmingSuffix() -> String {
        var text = Substring(self)
        while text.last == " " { text.removeLast() }
        return String(text)
    }
}
