// SPDX-License-Identifier: Apache-2.0
import CExitModule
import CLinux
import Glibc
import Linux

/// The loadable module of kernel-module/, by its device: whose VM exits are counted for their guests and for this host.
///
/// Opening takes CAP_SYS_ADMIN in the first user namespace.
public struct ExitModule: ~Copyable, Sendable {
    /// The module's device.
    public static let path = "/dev/vmtally"

    /// Whether the module is loaded.
    public static var isLoaded: Bool { access(path, F_OK) == 0 }

    private let file: FileDescriptor

    /// - Throws: with a remedy when the module is not loaded, or this process may not ask it.
    public init(path: String = ExitModule.path) throws(KVMError) {
        let descriptor = Glibc.open(path, O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { throw KVMError(call: path, errno: errno, remedy: Self.remedy(opening: errno)) }
        file = FileDescriptor(owning: descriptor)
    }

    private static func remedy(opening errno: Int32) -> String? {
        switch errno {
        case ENOENT: "The module is not loaded: kernel-module/install builds and loads it"
        case EACCES, EPERM: "Only root of this host may say whose exits are told"
        default: nil
        }
    }

    // MARK: - Who is allowed

    /// All VMs of the process that has this thread, those that it makes later as well; it must have one.
    public func allow(process: pid_t) throws(KVMError) { try tell("allow \(process)") }

    /// All VMs of this host, those of later as well.
    public func allowAll() throws(KVMError) { try tell("allow all") }

    /// VMs of processes that have this name, or give it to their VM (`-name`, `--name`, `--id`): whenever they start.
    public func allow(name: String) throws(KVMError) { try tell("allow name=\(name)") }

    /// No VM at all, and no hook in the kernel.
    public func allowNone() throws(KVMError) { try tell("allow none") }

    /// No VM of this process, even where all are allowed.
    public func disallow(process: pid_t) throws(KVMError) { try tell("disallow \(process)") }

    /// Takes ``allow(name:)`` back.
    public func disallow(name: String) throws(KVMError) { try tell("disallow name=\(name)") }

    private func tell(_ line: String) throws(KVMError) {
        // One write is one line, or nothing.
        let written = Array(line.utf8).withUnsafeBytes { write(file.rawValue, $0.baseAddress, $0.count) }
        guard written == line.utf8.count else {
            throw KVMError(call: "\(Self.path): \(line)", errno: errno, remedy: Self.remedy(telling: errno))
        }
    }

    private static func remedy(telling errno: Int32) -> String? {
        switch errno {
        case ENODEV: "That process has no VM of its own"
        case EBUSY:
            "A livepatch or a BPF program has KVM's functions, or kernel.ftrace_enabled is 0: the kernel's log says more"
        case ENOENT: "No vendor's module of KVM is loaded, or nothing of that name was allowed"
        default: nil
        }
    }

    /// The rules and the VMs that are counted now.
    public func list() throws(KVMError) -> ExitModuleList {
        var text: [UInt8] = []
        var part = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = part.withUnsafeMutableBytes {
                pread(file.rawValue, $0.baseAddress, $0.count, off_t(text.count))
            }
            guard count >= 0 else { throw KVMError(call: "read \(Self.path)", errno: errno) }
            guard count > 0 else { return ExitModuleList(String(decoding: text, as: UTF8.self)) }
            text += part[..<count]
        }
    }

    // MARK: - What they did

    /// VMTALLY_OPEN_VM, `_IOW(0xb7, 1, __u64)`
    package static let openVM: UInt = 0x4008_B701

    /// The counters of the VM of a process that was counted last; nil where none is.
    public func newestVM(of process: pid_t) throws(KVMError) -> ExitModuleVM? {
        guard let vm = try list().vms.last(where: { $0.pid == process }) else { return nil }
        return try open(vm: vm.id)
    }

    /// The counters of a VM of ``list()``. They outlive it, and then no longer change.
    public func open(vm id: UInt64) throws(KVMError) -> ExitModuleVM {
        var id = id
        return ExitModuleVM(FileDescriptor(owning: try file.control("VMTALLY_OPEN_VM", Self.openVM, with: &id)))
    }
}

/// What the module's device reads as.
public struct ExitModuleList: Equatable, Sendable {
    /// A VM that is counted.
    public struct VM: Equatable, Sendable {
        /// Never used again until the module is unloaded.
        public let id: UInt64
        /// The process that owns it; 0 outside of our PID namespace.
        public let pid: pid_t
        /// How many vCPUs.
        public let vcpus: Int
        /// VM exits of all its vCPUs since counting began.
        public let exits: UInt64
        /// TSC cycles from VM exit to VM entry.
        public let cycles: UInt64
        /// Counting began while it was running already.
        public let joinedRunning: Bool
        /// The owner's name, as /proc/PID/comm.
        public let name: String
    }

    /// As they are written to the device: `allow all`, `allow 1234`, `disallow 1234`, `allow name=NAME`.
    public let rules: [String]
    /// Those that are counted.
    public let vms: [VM]

    init(_ text: String) {
        var rules: [String] = []
        var vms: [VM] = []
        for line in text.split(separator: "\n") {
            if let vm = VM(line) {
                vms.append(vm)
            } else if line.hasPrefix("allow ") || line.hasPrefix("disallow ") {
                rules.append(String(line))
            }
        }
        self.rules = rules
        self.vms = vms
    }
}

extension ExitModuleList.VM {
    /// `vm 3 pid 1234 vcpus 4 exits 1 cycles 2 vocabulary vmx joined-running comm NAME`; words may be added before `comm`.
    init?(_ line: Substring) {
        let words = line.split(separator: " ", omittingEmptySubsequences: false)
        guard words.first == "vm", let comm = words.firstIndex(of: "comm") else { return nil }
        func number<T: FixedWidthInteger>(after word: String) -> T? {
            words[..<comm].firstIndex { $0 == word }.flatMap { $0 + 1 < comm ? T(words[$0 + 1]) : nil }
        }
        guard let id: UInt64 = number(after: "vm"), let pid: pid_t = number(after: "pid"),
            let vcpus: Int = number(after: "vcpus"), let exits: UInt64 = number(after: "exits"),
            let cycles: UInt64 = number(after: "cycles")
        else { return nil }
        self.init(
            id: id, pid: pid, vcpus: vcpus, exits: exits, cycles: cycles,
            joinedRunning: words[..<comm].contains("joined-running"),
            name: words[(comm + 1)...].joined(separator: " "))
    }
}

/// One VM's counters in the module: vmtally_uapi.h has the layout.
public struct ExitModuleVM: ~Copyable, Sendable {
    private let file: FileDescriptor

    init(_ file: consuming FileDescriptor) {
        self.file = file
    }

    /// All counters as they are now, each whole.
    ///
    /// - Parameter histograms: with them; 370 KiB a vCPU.
    public func read(histograms: Bool = false) throws(KVMError) -> ExitModuleSnapshot {
        let header = try bytes(at: 0, count: MemoryLayout<vmtally_header>.size)
        guard let layout = ExitModuleSnapshot.Layout(header) else { throw Self.unknown }
        let size = histograms ? layout.end : layout.histograms
        guard let snapshot = ExitModuleSnapshot(try bytes(at: 0, count: size, atLeast: layout.histograms)) else {
            throw Self.unknown
        }
        return snapshot
    }

    private static let unknown = KVMError(
        call: "reading a VM of \(ExitModule.path)", errno: EPROTO,
        remedy: "The module that is loaded is of another version: load the one that came with this program")

    /// Up to `count` bytes; the file may have become longer meanwhile, never shorter.
    private func bytes(at offset: Int, count: Int, atLeast least: Int? = nil) throws(KVMError) -> [UInt8] {
        var all = [UInt8](repeating: 0, count: count)
        var filled = 0
        while filled < count {
            let more = all.withUnsafeMutableBytes {
                let rest = UnsafeMutableRawBufferPointer(rebasing: $0[filled...])
                return pread(file.rawValue, rest.baseAddress, rest.count, off_t(offset + filled))
            }
            if more < 0, errno == EINTR { continue }
            guard more >= 0 else { throw KVMError(call: "reading a VM of \(ExitModule.path)", errno: errno) }
            guard more > 0 else { break }
            filled += more
        }
        guard filled >= least ?? count else { throw Self.unknown }
        return Array(all[..<filled])
    }
}
