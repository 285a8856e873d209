// SPDX-License-Identifier: Apache-2.0
import LinuxSystem

/// vmtally-probe: reads the tally of the virtual machine that it runs in (docs/guests.md).
@_cdecl("probe_main")
func main(_ count: Int, _ arguments: Arguments, _ environment: Arguments) -> Int32 {
    if system_process() == 1 {
        // The kernel may have left words of its command line as arguments; whoever made this the first process wants
        // to know what a boot costs.
        let status = mark()
        _ = system_power_off()
        return status
    }
    guard let options = Options(count, arguments) else { return 64 }
    if options.command == .help {
        help()
        return 0
    }
    if options.command == .mark {
        return mark()
    }
    if let cpu = options.cpu, system_stay_on(cpu) != 0 {
        complain("no such CPU, or one that this process may not use: --cpu", nil)
        return 1
    }
    if options.command == .status {
        guard system_allow_port(0xF6) == 0 else {
            complain("may not use port 0xF6 (CAP_SYS_RAWIO): run this as root, outside of a container", nil)
            return 1
        }
        system_out(0xF6, UInt8(truncatingIfNeeded: options.count))
        return 0
    }
    if options.command == .features {
        return features(options)
    }
    var tally = Tally(options)
    if options.via != .cpuid, tally.page == nil, !explain(tally.pageFailure, options.via) {
        return 1
    }
    guard tally.isKnown || options.force && looksAlive(&tally) else {
        if options.force {
            complain("no tally here: no signature VMTallyExits, and EAX of CPUID leaf 0x4FFFFFFF does not count", nil)
            return 1
        }
        complain(
            """
            no tally here: CPUID leaf 0x4FFFFF00 lacks the signature VMTallyExits. Run this in a guest of vmtally or of \
            a patched kernel; --force reads EAX of leaf 0x4FFFFFFF all the same, if that counts.
            """, nil)
        return 1
    }
    switch options.command {
    case .exec: return exec(&tally, options, environment)
    case .watch: return watch(&tally, options)
    default: return show(&tally, options)
    }
}

/// Tells why the page is not read, where there is something to tell. False: it was asked for, so this is the end.
func explain(_ failure: Page.Failure, _ via: Options.Via) -> Bool {
    switch (failure, via) {
    case (.absent, .page): complain("this VM has no tally page, or shows it to root alone: --via cpuid", nil)
    case (.absent, _): return true
    case (.locked(1), _), (.locked(13), _):
        complain("the tally page takes root, and a kernel that is not locked down: /dev/mem", nil)
    case (.locked, _): complain("this kernel does not let /dev/mem be mapped where the tally page is", nil)
    case (.unknown, _): complain("the tally page is not of a layout known here", nil)
    }
    if via == .auto {
        complain("reading by CPUID instead; --via cpuid says so beforehand", nil)
    }
    return via == .auto
}

/// Without a signature: does leaf 0x4FFFFFFF count at all?
func looksAlive(_ tally: inout Tally) -> Bool {
    let first = tally.total(.machine)
    let second = tally.total(.machine)
    // 32 bits, which may wrap in between.
    let growth = UInt32(truncatingIfNeeded: second.count &- first.count)
    return growth > 0 && growth < 1 << 31
}

func help() {
    var output = Output(1)
    output.put(
        """
        usage: vmtally-probe [show|watch|exec|features] [options] [-- CMD ...]
          show          exits so far: total, each reason, rate since boot
          watch         the same every second: what was new
          exec -- CMD   runs CMD and tells what it cost in exits; the exit status is CMD's
          features      what KVM tells this guest: signature, KVM_FEATURE_* and hints; the tally's leaves
          status N      what the run's exit status is to be when this guest switches off (port 0xF6)
          mark          tells the VMM that the boot is over (port 0xF5); as the first process, so without a word
        options:
          --json        one JSON object (watch: one a line)
          --via WAY     page: the tally page, without an exit (root); cpuid; auto: the page if it can be had
          --cpu N       stay on CPU N; the total is then that vCPU's own
          --interval MS, --count N   of watch
          --force       also without the signature of leaf 0x4FFFFF00: the number of exits, by EAX of 0x4FFFFFFF

        """)
    output.flush()
}

/// The end of the boot (docs/boot-protocol.md): a line in the kernel's log, for its time stamp, then port 0xF5.
func mark() -> Int32 {
    guard system_allow_port(0xF5) == 0 else {
        complain("may not use port 0xF5 (CAP_SYS_RAWIO): run this as root, outside of a container", nil)
        return 1
    }
    // No console shows a message of level 7 unless it is told to.
    let log = system_open("/dev/kmsg", 1)
    if log >= 0 {
        var output = Output(Int32(log))
        output.put("<7>vmtally: boot marker\n")
        output.flush()
    }
    system_out(0xF5, 0)
    return 0
}

func show(_ tally: inout Tally, _ options: Options) -> Int32 {
    let scope: TallyScope = options.cpu == nil ? .machine : .vcpu
    let snapshot = Snapshot(&tally, .after, scope)
    print(tally, options, snapshot, since: nil, nanoseconds: now(7), to: 1)
    return 0
}

func watch(_ tally: inout Tally, _ options: Options) -> Int32 {
    let scope: TallyScope = options.cpu == nil ? .machine : .vcpu
    var lines: UInt64 = 0
    while options.count == 0 || lines < options.count {
        let before = Snapshot(&tally, .before, scope)
        _ = system_sleep(
            system_time(
                seconds: Int64(options.interval / 1000), nanoseconds: Int64(options.interval % 1000) * 1_000_000))
        let after = Snapshot(&tally, .after, scope)
        print(tally, options, after, since: before, nanoseconds: after.nanoseconds &- before.nanoseconds, to: 1)
        lines += 1
    }
    return 0
}

func exec(_ tally: inout Tally, _ options: Options, _ environment: Arguments) -> Int32 {
    guard let program = options.program, let name = program[0] else { return 64 }
    let scope: TallyScope = options.cpu == nil ? .machine : .vcpu
    let before = Snapshot(&tally, .before, scope)
    let child = system_fork()
    if child == 0 {
        let error = execute(name, program, environment)
        complain(error == -2 ? "no such command: " : "cannot run ", name)
        system_exit(error == -2 ? 127 : 126)
    }
    guard child > 0 else {
        complain("cannot fork", nil)
        return 1
    }
    // Ctrl-C is for CMD.
    _ = system_signal(2, 1)
    _ = system_signal(3, 1)
    var status: Int32 = 0
    while system_wait(child, &status) == -4 {}
    let after = Snapshot(&tally, .after, scope)
    print(
        tally, options, after, since: before, nanoseconds: after.nanoseconds &- before.nanoseconds, to: 2,
        command: name)
    let signal = status & 0x7F
    return signal == 0 ? status >> 8 & 0xFF : 128 + signal
}

/// execve, through PATH for a name without a slash. Returns why it failed.
func execute(_ name: UnsafeMutablePointer<CChar>, _ arguments: Arguments, _ environment: Arguments) -> Int {
    var index = 0
    while name[index] != 0 {
        if name[index] == 0x2F { return system_execute(name, arguments, environment) }
        index += 1
    }
    var variable = environment
    while let text = variable.pointee {
        if text[0] == 0x50, text[1] == 0x41, text[2] == 0x54, text[3] == 0x48, text[4] == 0x3D {  // PATH=
            return search(text + 5, name, arguments, environment)
        }
        variable += 1
    }
    return -2
}

private func search(
    _ path: UnsafeMutablePointer<CChar>, _ name: UnsafeMutablePointer<CChar>, _ arguments: Arguments,
    _ environment: Arguments
) -> Int {
    var result = -2
    var start = path
    while true {
        var candidate: InlineArray<4096, CChar> = .init(repeating: 0)
        var count = 0
        var next = start
        while next.pointee != 0, next.pointee != 0x3A, count < 2048 {
            candidate[count] = next.pointee
            count += 1
            next += 1
        }
        if count > 0 {
            candidate[count] = 0x2F
            count += 1
        }
        var index = 0
        while name[index] != 0, count < 4095 {
            candidate[count] = name[index]
            count += 1
            index += 1
        }
        let error = withUnsafePointer(to: &candidate) {
            $0.withMemoryRebound(to: CChar.self, capacity: 4096) { system_execute($0, arguments, environment) }
        }
        if error != -2, error != -20 { result = error }
        guard next.pointee == 0x3A else { return result }
        start = next + 1
    }
}

func print(
    _ tally: Tally, _ options: Options, _ after: Snapshot, since before: Snapshot?, nanoseconds: UInt64,
    to descriptor: Int32, command: UnsafeMutablePointer<CChar>? = nil
) {
    var output = Output(descriptor)
    let report = Report(tally: tally, json: options.json)
    let live = tally.isLive
    // Without a signature the tally counts all the same: looksAlive() has seen to that. The page counts no reading.
    let counts = tally.page == nil && (live || !tally.isKnown)
    var total = after.growth(of: { $0.total }, since: before, own: counts ? Snapshot.ownQueriesInTotal : 0)
    if !tally.isKnown { total.count &= UInt64(UInt32.max) }
    if options.json {
        report.jsonHead(&output)
        if let command {
            output.put(",\"command\":\"")
            output.put(escaped: command)
            output.put("\"")
        }
        output.put(",\"ns\":")
        output.put(nanoseconds, plain: true)
        output.put(",\"scope\":\"")
        output.put(options.cpu == nil ? "vm" : "vcpu")
        output.put("\",\"total\":{")
        report.fields(total, &output)
        output.put("},\"by_reason\":[")
    } else {
        report.introduction(&output)
        report.head(&output)
    }
    var isFirst = true
    for index in 0..<tally.reasonCount {
        let reason = tally.vocabulary.reasons[index]
        let own = counts && reason.code == tally.queryReason ? Snapshot.ownQueriesInReason : 0
        let pair = after.growth(of: { $0.pair(index) }, since: before, own: own)
        guard pair.count > 0 else { continue }
        if options.json {
            output.put(isFirst ? "{\"code\":" : ",{\"code\":")
            output.put(UInt64(reason.code), plain: true)
            output.put(",\"name\":\"")
            output.put(reason.name)
            output.put("\",")
            report.fields(pair, &output)
            output.put("}")
        } else {
            report.row(reason.name, pair, nanoseconds: nanoseconds, &output)
        }
        isFirst = false
    }
    if options.json {
        output.put("]}\n")
    } else {
        report.row(options.cpu == nil ? "total" : "total of this vCPU", total, nanoseconds: nanoseconds, &output)
    }
    output.flush()
}
