// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Glibc

/// Totals alone, from KVM's own statistics in debugfs: another process's binary statistics are not to be read (ioctls on
/// its descriptors fail with EIO), unless it hands over a descriptor of them.
public final class StatisticsCollector: ExitCollector {
    public let name = "statistics"

    private let root: String
    private let scope: CollectorScope
    private var before: [String: UInt64] = [:]
    private var last: [String: UInt64] = [:]
    /// What was counted before a counter fell.
    private var kept: [String: UInt64] = [:]

    /// - Parameter root: where KVM's folder of debugfs is.
    public init(_ scope: CollectorScope, root: String = "/sys/kernel/debug/kvm") throws(CollectorError) {
        guard access(root, R_OK | X_OK) == 0 else {
            throw CollectorError(
                cause: "\(root): \(String(cString: strerror(errno)))",
                remedy: geteuid() == 0 ? "mount -t debugfs none /sys/kernel/debug" : "debugfs is root's: sudo")
        }
        self.root = root
        self.scope = scope
        before = try folders()
    }

    /// Exits by folder: PID-DESCRIPTOR, the thread that made the VM and its number for it.
    ///
    /// - Throws: when they are there and not to be read: none of them would be no exits.
    private func folders() throws(CollectorError) -> [String: UInt64] {
        var exits: [String: UInt64] = [:]
        for folder in TextFile.list(root) where folder.contains("-") {
            let path = "\(root)/\(folder)/exits"
            guard let text = try? TextFile.read(path, limit: 32), let count = UInt64(text.prefix { $0.isNumber }) else {
                let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC)
                let error = errno
                if descriptor >= 0 { close(descriptor) }
                guard descriptor < 0, error == EPERM else { continue }
                throw CollectorError(
                    cause: "\(path): \(String(cString: strerror(error)))",
                    remedy: "a kernel that is locked down keeps debugfs shut: use BPF")
            }
            exits[folder] = count
        }
        return exits
    }

    public func read(_ detail: CollectorDetail) throws(CollectorError) -> [VCPUExits] {
        let now = try folders()
        defer { last = now }
        return now.sorted { $0.key < $1.key }.compactMap { folder, count in
            guard let thread = folder.split(separator: "-").first.flatMap({ Int32($0) }) else { return nil }
            let process = Threads.process(of: thread) ?? thread
            guard scope.contains(process) else { return nil }
            // Root may set the counter to 0 by a write.
            if let old = last[folder], count < old {
                kept[folder, default: 0] &+= old - min(old, before[folder] ?? 0)
                before[folder] = 0
            }
            let since = count - min(count, before[folder] ?? 0)
            let exits = ExitCounts(source: .statistics, total: (kept[folder] ?? 0) &+ since)
            let machine = folder.split(separator: "-").last.flatMap { UInt64($0) } ?? 0
            return VCPUExits(
                identity: VCPUIdentity(process: process, thread: 0, machine: machine), hardware: exits)
        }
    }

    public func losses() -> CollectorLosses { CollectorLosses() }
}

extension CollectorScope {
    func contains(_ process: Int32) -> Bool {
        switch self {
        case .everything: true
        case .process(let wanted): wanted == process
        case .descendants(let ancestor): Threads.descends(process, from: ancestor)
        }
    }
}

/// Threads and processes, as /proc tells them.
enum Threads {
    /// The process that a thread belongs to; nil when it has ended.
    static func process(of thread: Int32) -> Int32? {
        field("Tgid", of: thread)
    }

    static func all(of process: Int32) -> [Int32] {
        TextFile.list("/proc/\(process)/task").compactMap(Int32.init)
    }

    static func descends(_ process: Int32, from ancestor: Int32) -> Bool {
        var process = process
        for _ in 0..<64 {
            if process == ancestor { return true }
            guard let parent = field("PPid", of: process), parent > 1 else { return false }
            process = parent
        }
        return false
    }

    private static func field(_ name: String, of thread: Int32) -> Int32? {
        let status = (try? TextFile.read("/proc/\(thread)/status", limit: 4096)) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix(name + ":") }
        return line?.split(whereSeparator: \.isWhitespace).last.flatMap { Int32($0) }
    }
}
