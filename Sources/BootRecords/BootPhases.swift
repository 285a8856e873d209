// SPDX-License-Identifier: Apache-2.0
/// Where a Linux kernel's boot is, by the messages of its log.
public enum BootPhases {
    /// Messages that begin a phase, in the order of a boot. Those that a kernel does not print are left out.
    public static let messages: [(phase: String, message: String)] = [
        ("early setup", "Linux version "),
        ("memory, scheduler, interrupts", "Memory: "),
        ("processors", "smp: Bringing up secondary CPUs"),
        ("core", "devtmpfs: initialized"),
        ("buses", "ACPI: Interpreter enabled"),
        ("network, file systems", "clocksource: Switched to clocksource"),
        ("initramfs", "Trying to unpack rootfs image as initramfs"),
        ("drivers", "Serial: 8250/16550 driver"),
        ("certificates, integrity", "registered taskstats version"),
        ("freeing memory", "Freeing unused kernel image (initmem) memory"),
        ("init", "Run /init as init process"),
    ]
    /// What comes before the log: the kernel unpacks itself.
    public static let first = "decompression"
    /// What `vmtally-probe mark` writes into the log just before port 0xF5.
    static let marker = "vmtally: boot marker"

    /// When each phase began, ns from the first KVM_RUN.
    ///
    /// - Parameters:
    ///   - log: the kernel's log with time stamps, and whatever else the console shows.
    ///   - end: when the marker came, ns from the first KVM_RUN. The stamp of the marker's own message tells how the
    ///     guest's clock stands to it.
    /// - Returns: nil when the log does not have that message.
    public static func starts(log: String, end: UInt64) -> [(phase: String, start: UInt64)]? {
        let stamped = log.split(whereSeparator: \.isNewline).compactMap(Self.stamp)
        guard let last = stamped.last(where: { $0.message == marker }) else { return nil }
        var starts: [(phase: String, start: UInt64)] = [(first, 0)]
        for (phase, message) in messages {
            // Printed at once and once more after the boot, the second time in whole.
            guard let line = stamped.first(where: { $0.message.hasPrefix(message) }) else { continue }
            let before = last.time >= line.time ? last.time - line.time : 0
            let start = end >= before ? end - before : 0
            guard start >= starts.last?.start ?? 0 else { continue }
            starts.append((phase, start))
        }
        return starts.count > 1 ? starts : nil
    }

    /// `[    1.475759] message`: the time in ns and the message.
    static func stamp(_ line: Substring) -> (time: UInt64, message: Substring)? {
        guard let open = line.firstIndex(of: "["), let close = line[open...].firstIndex(of: "]") else { return nil }
        let parts = line[line.index(after: open)..<close].drop { $0 == " " }.split(separator: ".")
        guard parts.count == 2, parts[1].utf8.count == 6, let seconds = UInt64(parts[0]), seconds < 1_000_000,
            let micro = UInt64(parts[1])
        else { return nil }
        return (seconds * 1_000_000_000 + micro * 1000, line[line.index(after: close)...].drop { $0 == " " })
    }
}
