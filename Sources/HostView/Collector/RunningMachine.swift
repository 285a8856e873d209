// SPDX-License-Identifier: Apache-2.0
import Glibc

/// A process on this host that has VMs, as /proc shows it. Names are the process's own words, not to be believed, and
/// fit to be printed.
public struct RunningMachine: Equatable, Sendable {
    public var process: Int32
    /// QEMU's `-name`, which is libvirt's name too; Firecracker's `--id`; else the program's name.
    public var name: String
    /// The program's name.
    public var program: String
    public var user: UInt32
    /// Descriptors of vCPUs and VMs.
    public var vcpus: Int
    public var machines: Int
    /// KubeVirt's and others': the uid of the pod that the process is in, from its cgroup.
    public var pod: String?

    public init(
        process: Int32, name: String, program: String, user: UInt32 = 0, vcpus: Int = 0, machines: Int = 1,
        pod: String? = nil
    ) {
        self.process = process
        self.name = name
        self.program = program
        self.user = user
        self.vcpus = vcpus
        self.machines = machines
        self.pod = pod
    }

    /// Those that this user may know of: all for root and with CAP_SYS_PTRACE, else the user's own. By process.
    public static func all() -> [RunningMachine] {
        let seesAll = geteuid() == 0 || Capabilities.effective.contains(.sysPtrace)
        return TextFile.list("/proc").compactMap(Int32.init).sorted().compactMap { process in
            RunningMachine(process: process).flatMap { seesAll || $0.user == getuid() ? $0 : nil }
        }
    }

    /// nil when the process has no VM, or its descriptors are not ours to see.
    public init?(process: Int32, root: String = "/proc") {
        let folder = "\(root)/\(process)"
        var machines = 0
        var vcpus = 0
        for descriptor in TextFile.list(folder + "/fd") {
            guard let target = TextFile.link("\(folder)/fd/\(descriptor)") else { continue }
            if target == "anon_inode:kvm-vm" { machines += 1 }
            if target.hasPrefix("anon_inode:kvm-vcpu:") { vcpus += 1 }
        }
        guard machines > 0 else { return nil }
        self.init(facts: process, folder: folder, vcpus: vcpus, machines: machines)
    }

    /// A process that is known to have run a vCPU, whatever of it is left to see.
    public init(known process: Int32, threadName: String) {
        self =
            RunningMachine(process: process)
            ?? RunningMachine(facts: process, folder: "/proc/\(process)", vcpus: 0, machines: 0)
        if program.isEmpty {
            program = threadName.printable()
            name = program
        }
    }

    /// A VMM that is about to start, by its command line.
    public init(process: Int32, words: [String]) {
        let program = (words.first?.split(separator: "/").last.map(String.init) ?? "").printable()
        self.init(
            process: process, name: Self.name(words).map { $0.printable() } ?? program, program: program,
            user: getuid())
    }

    private init(facts process: Int32, folder: String, vcpus: Int, machines: Int) {
        let words = ((try? TextFile.bytes(folder + "/cmdline")) ?? []).split(separator: 0)
            .map { String(decoding: $0, as: UTF8.self) }
        let comm = (try? TextFile.read(folder + "/comm", limit: 64)) ?? ""
        var status = stat()
        let isThere = stat(folder, &status) == 0
        program = comm.prefix { $0 != "\n" }.description.printable()
        name = Self.name(words).map { $0.printable() } ?? program
        user = isThere ? status.st_uid : UInt32.max
        self.process = process
        self.vcpus = vcpus
        self.machines = machines
        pod = (try? TextFile.read(folder + "/cgroup", limit: 16384)).flatMap(Self.pod)
    }

    /// What a VMM was told to call its VM; nil where it was not.
    static func name(_ words: [String]) -> String? {
        for (index, word) in words.enumerated().dropFirst() {
            let next = index + 1 < words.count ? words[index + 1] : nil
            guard word.hasPrefix("-") else { continue }
            switch word.drop(while: { $0 == "-" }) {
            case "name":
                // guest=NAME,debug-threads=on or NAME,process=...; a comma in a name is two.
                guard let next else { return nil }
                let parts = next.replacing(",,", with: "\u{0}").split(separator: ",").map(String.init)
                let guest = parts.first { $0.hasPrefix("guest=") }?.dropFirst(6).description ?? parts.first
                return guest?.replacing("\u{0}", with: ",")
            case "id": return next
            case let option where option.hasPrefix("id="): return String(option.dropFirst(3))
            default: continue
            }
        }
        return nil
    }

    /// `.../kubepods-burstable-pod1234_5678.slice/...` or `.../pod1234-5678/...`: 1234-5678. From within a pod the path
    /// leads out of its own cgroup, `/../../pod1234-5678/...`, and need not pass through kubepods.
    static func pod(_ cgroup: String) -> String? {
        for part in cgroup.split(whereSeparator: { "/\n:".contains($0) })
        where part.hasPrefix("pod") || part.hasPrefix("kubepods") {
            guard let word = part.ranges(of: "pod").last else { continue }
            let uid = part[word.upperBound...].prefix { $0.isHexDigit || $0 == "-" || $0 == "_" }
            if (32...36).contains(uid.count) { return String(uid.map { $0 == "_" ? "-" : $0 }) }
        }
        return nil
    }
}

extension String {
    /// Without anything that a terminal, a table or a metrics file could take for more than a letter: control characters
    /// and those that turn the writing direction are written as \u{...}, and no more than so many characters are left.
    public func printable(limit: Int = 80) -> String {
        var text = ""
        var count = 0
        for scalar in unicodeScalars {
            guard count < limit else { return text + "..." }
            count += 1
            switch scalar.properties.generalCategory {
            case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator:
                text += "\\u{\(String(scalar.value, radix: 16))}"
            default: text.unicodeScalars.append(scalar)
            }
        }
        return text
    }
}
