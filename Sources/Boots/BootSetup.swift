// SPDX-License-Identifier: Apache-2.0
import BootRecords
import ExitStats
import Linux
import Machine

/// What is to be booted, and how.
package struct BootSetup: Sendable {
    package var kernel: String
    package var initrd: String?
    package var console: BootConsole
    package var cpus: Int
    package var memoryMiB: Int
    /// More for the kernel's command line.
    var words: String
    /// Another VMM's command line; nil: our own machine.
    package var vmm: String?
    package var markerText: String?
    /// RAM is there before the start: off by the protocol.
    package var prefaults = false
    var printsLog: Bool
    /// Seconds.
    var timeout: Double
    /// The kernel is one of several.
    var namesKernel = false
    var namesMemory = false

    package init(
        kernel: String, initrd: String?, console: BootConsole, cpus: Int, memoryMiB: Int, words: String, vmm: String?,
        markerText: String?, printsLog: Bool, timeout: Double
    ) {
        self.kernel = kernel
        self.initrd = initrd
        self.console = console
        self.cpus = cpus
        self.memoryMiB = memoryMiB
        self.words = words
        self.vmm = vmm
        self.markerText = markerText
        self.printsLog = printsLog
        self.timeout = timeout
    }

    /// Sets what a key of --matrix stands for; false when there is no such key or value.
    package mutating func set(_ key: String, _ value: String) -> Bool {
        switch key {
        case "cpus":
            guard let number = Int(value) else { return false }
            cpus = number
        case "memory":
            guard let number = Int(value) else { return false }
            memoryMiB = number
            namesMemory = true
        case "console":
            guard let console = BootConsole(argument: value) else { return false }
            self.console = console
        case "kernel":
            guard !value.isEmpty else { return false }
            kernel = value
            namesKernel = true
        default: return false
        }
        return true
    }

    /// What tells it from the others.
    package var name: String {
        "console=\(console.rawValue) cpus=\(cpus)" + (namesMemory ? " memory=\(memoryMiB)" : "")
            + (namesKernel ? " kernel=\(kernel.split(separator: "/").last ?? "")" : "")
            + (prefaults ? " prefault" : "")
    }

    /// Whether the guest is to go on after the marker and print its log.
    var wantsLog: Bool { printsLog && console != .none && markerText == nil }

    /// The kernel's command line by the protocol.
    var commandLine: String {
        let device: String? =
            switch console {
            case .virtio: "console=hvc0"
            case .serial: "console=ttyS0"
            case .none: nil
            }
        let words = [device, "quiet panic=-1 nokaslr", wantsLog ? "vmtally.log" : nil, words, "-- true"]
        return words.compactMap { $0 }.filter { !$0.isEmpty }.joined(separator: " ")
    }

    /// What goes into the recording.
    ///
    /// - Throws: when a file cannot be read.
    func configuration() throws(SystemError) -> BootConfiguration {
        func file(_ path: String) throws(SystemError) -> BootConfiguration.File {
            let image = try FileImage(path: path)
            return BootConfiguration.File(name: String(path.split(separator: "/").last ?? ""), contents: image.bytes)
        }
        var disk: BootConfiguration.File?
        if let initrd { disk = try file(initrd) }
        return BootConfiguration(
            name: name, vmm: vmm ?? "vmtally", cpus: cpus, memoryMiB: memoryMiB, console: console.rawValue,
            kernel: try file(kernel), initrd: disk, commandLine: commandLine,
            marker: markerText.map { "'\($0)'" } ?? "port 0xF5")
    }
}

/// What one boot has shown.
struct BootOutcome: Sendable {
    /// From the first KVM_RUN to the marker.
    var nanoseconds: UInt64
    var userspace: ExitCounts
    var hardware: ExitCounts?
    /// Exits by reason and time, ns from the first KVM_RUN.
    var hardwareSeries: [(reason: String, time: UInt64, count: UInt64)] = []
    var userspaceSeries: [(reason: String, time: UInt64, count: UInt64)] = []
    /// VM exits by the guest's RIP.
    var addresses: [UInt64: UInt64] = [:]
    /// What came on the console.
    var console = ""
    var tscKHz: UInt32 = 0
    /// What is odd about it.
    var remark: String?

    /// VM exits by phase; nil where the console does not tell.
    var phases: [BootRun.Phase]? {
        guard let starts = BootPhases.starts(log: console, end: nanoseconds) else { return nil }
        guard !hardwareSeries.isEmpty || !userspaceSeries.isEmpty else { return nil }
        return starts.enumerated().map { index, start in
            let end = index + 1 < starts.count ? starts[index + 1].start : .max
            func sum(_ series: [(reason: String, time: UInt64, count: UInt64)]) -> UInt64 {
                series.reduce(0) { $1.time >= start.start && $1.time < end ? $0 + $1.count : $0 }
            }
            return BootRun.Phase(
                name: start.phase, start: start.start, exits: sum(hardwareSeries), userspace: sum(userspaceSeries))
        }
    }
}
