// SPDX-License-Identifier: Apache-2.0
import BootRecords
import ThisHost

/// What this host offers to a VMM, and what it lacks: `vmtally host`.
///
/// Made from plain values, so that any host can be described in a test.
public struct HostReport: Equatable, Encodable, Sendable {
    /// What KVM said of itself.
    public struct KVM: Sendable {
        public var apiVersion: Int32
        /// Number, name with `KVM_CAP_`, and value of each capability.
        public var capabilities: [(number: Int32, name: String, value: Int32)]
        /// Bit 31 of MSR_PLATFORM_INFO as KVM offers it to guests; nil when unknown.
        public var cpuidFaulting: Bool?

        public init(
            apiVersion: Int32, capabilities: [(number: Int32, name: String, value: Int32)], cpuidFaulting: Bool?
        ) {
            self.apiVersion = apiVersion
            self.capabilities = capabilities
            self.cpuidFaulting = cpuidFaulting
        }
    }

    /// Why KVM said nothing.
    public struct Problem: Error, Equatable, CustomStringConvertible, Sendable {
        /// What stands in the way; it decides which remedy fits.
        public enum Kind: Sendable {
            /// There is no such device.
            case absent
            /// The user may not open it.
            case denied
            case other
        }

        public var what: String
        /// What to do, as far as the error alone tells.
        public var remedy: String?
        public var kind: Kind

        public init(what: String, remedy: String?, kind: Kind = .other) {
            self.what = what
            self.remedy = remedy
            self.kind = kind
        }

        /// What, and what to do about it.
        public var description: String {
            what + (remedy.map { ". \($0)" } ?? "")
        }
    }

    public struct CPU: Equatable, Encodable, Sendable {
        public var name: String?
        public var vendor: String?
        /// `vmx` or `svm` where the processor shows it; nil where neither does.
        public var virtualization: String?
        /// True when this host is a virtual machine itself.
        public var virtualMachine: Bool
    }

    public struct Device: Equatable, Encodable, Sendable {
        public var path: String
        public var usable: Bool
        public var apiVersion: Int32?
        /// nil when there is no such file.
        public var file: HostFacts.DeviceFile?
        public var problem: String?
        public var remedy: String?
    }

    public struct Capability: Equatable, Encodable, Sendable {
        public var number: Int32
        public var name: String
        public var value: Int32
        public var subject: CapabilityGuide.Subject
        /// The names of the bits that are set, for a set of bits.
        public var bits: [String]?
        public var gives: String?
        public var cost: String?

        public var isPresent: Bool { value != 0 }
    }

    /// The loadable module of kernel-module/.
    public struct ExitModule: Equatable, Encodable, Sendable {
        /// A VM that is counted.
        public struct VM: Equatable, Encodable, Sendable {
            public var pid: Int32
            public var name: String
            public var vcpus: Int
            public var exits: UInt64

            public init(pid: Int32, name: String, vcpus: Int, exits: UInt64) {
                self.pid = pid
                self.name = name
                self.vcpus = vcpus
                self.exits = exits
            }
        }

        public var loaded: Bool
        /// Whose VMs are allowed: `allow all`, `allow 1234`, `allow name=NAME`; nil where we may not ask.
        public var rules: [String]?
        public var vms: [VM]?

        public init(loaded: Bool, rules: [String]? = nil, vms: [VM]? = nil) {
            self.loaded = loaded
            self.rules = rules
            self.vms = vms
        }
    }

    public struct Missing: Equatable, Encodable, Sendable {
        public var what: String
        public var cost: String
        public var remedy: String
    }

    public let schema = "vmtally.host/1"
    /// Who wrote it; set by whoever prints it.
    public var tool: BootRecording.Tool?
    public var cpu: CPU
    public var kernel: String?
    public var device: Device
    public var backend: HostBackend
    public var modules: [HostFacts.Module]?
    /// nil when KVM could not be asked.
    public var capabilities: [Capability]?
    public var liveCPUID: LiveCPUIDModes?
    /// nil when nobody looked.
    public var exitModule: ExitModule?
    public var missing: [Missing]

    public init(
        facts: HostFacts, path: String = "/dev/kvm", file: HostFacts.DeviceFile? = nil, kvm: Result<KVM, Problem>,
        probe: LiveCPUIDProbe = .init(), exitModule: ExitModule? = nil
    ) {
        self.exitModule = exitModule
        cpu = CPU(
            name: facts.cpu, vendor: facts.vendor,
            virtualization: ["vmx", "svm"].first { facts.cpuFlags.contains($0) },
            virtualMachine: facts.cpuFlags.contains("hypervisor"))
        kernel = facts.kernel
        modules = facts.modules
        backend = HostBackend(among: facts.modules, cpuFlags: facts.cpuFlags)
        switch kvm {
        case .success(let kvm):
            device = Device(path: path, usable: true, apiVersion: kvm.apiVersion, file: file)
            let present = Set(kvm.capabilities.lazy.filter { $0.value != 0 }.map(\.name))
            capabilities = kvm.capabilities.map(Self.capability)
            liveCPUID = LiveCPUIDModes(has: present.contains, faultingMSR: kvm.cpuidFaulting, probe: probe)
        case .failure(let problem):
            device = Device(
                path: path, usable: false, file: file, problem: problem.what,
                remedy: Self.remedy(problem, path: path, file: file, facts: facts))
        }
        missing = []
        missing = findMissing()
    }

    private static func capability(number: Int32, name: String, value: Int32) -> Capability {
        let guide = CapabilityGuide.guide(name)
        var bits: [String]?
        if case .bits(let names)? = guide?.value {
            bits = (0..<32).filter { UInt32(bitPattern: value) >> $0 & 1 == 1 }.map { bit in
                bit < names.count && !names[bit].isEmpty ? names[bit] : "bit \(bit)"
            }
        }
        return Capability(
            number: number, name: name, value: value, subject: guide?.subject ?? .otherArchitectures, bits: bits,
            gives: guide?.gives, cost: guide?.cost)
    }
}

extension HostReport {
    /// What to do about a device that cannot be used: the error's own advice, narrowed down by what the host shows.
    private static func remedy(
        _ problem: Problem, path: String, file: HostFacts.DeviceFile?, facts: HostFacts
    ) -> String? {
        switch problem.kind {
        case .other: return problem.remedy
        case .denied:
            guard let file else { return problem.remedy }
            if file.isOpenToGroup {
                return "Join the group \(file.group), then log in again: `sudo usermod -aG \(file.group) \"$USER\"`."
            }
            return "\(path) is closed to its group too. Give it to the group kvm, `sudo groupadd -f kvm && "
                + "sudo chgrp kvm \(path) && sudo chmod 660 \(path)`, join that, `sudo usermod -aG kvm \"$USER\"`, and "
                + "log in again."
        case .absent:
            if facts.modules?.contains(where: { $0.name.hasPrefix("kvm_") && $0.loadable }) == true {
                return "KVM is loaded, but its device is not here. In a container, pass it through: `--device \(path)`."
            }
            if facts.cpuFlags.contains("vmx") { return "Load KVM: `sudo modprobe kvm_intel`." }
            if facts.cpuFlags.contains("svm") { return "Load KVM: `sudo modprobe kvm_amd`." }
            if facts.cpuFlags.contains("hypervisor") {
                return
                    "This host is a virtual machine without virtualization of its own: turn on nested virtualization "
                    + "on its host. \(laboratory)"
            }
            return "The processor shows neither vmx nor svm: turn on VT-x or SVM in the firmware. \(laboratory)"
        }
    }

    private static let laboratory = "Or use an emulated host: `Lab/run svm`."

    private func findMissing() -> [Missing] {
        var found: [Missing] = []
        if !device.usable {
            found.append(
                Missing(
                    what: device.path, cost: "no virtual machine can run",
                    remedy: device.remedy ?? "see the error above"))
        }
        // Without a device its remedy says the same.
        if cpu.virtualization == nil, device.usable {
            found.append(
                Missing(
                    what: "vmx or svm in the processor's flags",
                    cost: "no hardware VM exits to count here, and slower guests",
                    remedy: (cpu.virtualMachine
                        ? "This host is a virtual machine: turn on nested virtualization on its host. "
                        : "Turn on VT-x or SVM in the firmware. ") + Self.laboratory))
        }
        for capability in capabilities ?? [] where capability.subject == .vmtally && !capability.isPresent {
            found.append(
                Missing(
                    what: capability.name, cost: capability.cost ?? "",
                    remedy: remedy(since: CapabilityGuide.guide(capability.name)?.since)))
        }
        if let modes = liveCPUID?.modes, let fault = modes.first(where: { $0.mode == "fault" }), fault.possible == .no,
            !modes.contains(where: { $0.mode == "host" && $0.possible == .yes })
        {
            let patch = "use a host kernel with vmtally's patch (kernel-patch/)."
            let hasSites = modes.contains { $0.mode == "sites" && $0.possible != .no }
            found.append(
                Missing(
                    what: "live answers to every CPUID in ring 3",
                    cost: "\(hasSites ? "guests that do not list their CPUIDs" : "all guests") read a snapshot "
                        + "(\(fault.why))",
                    remedy: hasSites ? "List them in .vmtally.sites, or \(patch)" : "U" + patch.dropFirst()))
        }
        for module in modules ?? [] {
            for parameter in module.parameters {
                guard let hint = Self.hint(module.name, parameter) else { continue }
                found.append(hint)
            }
        }
        return found
    }

    private func remedy(since: String?) -> String {
        if let since, let kernel, HostReport.version(kernel).lexicographicallyPrecedes(HostReport.version(since)) {
            return "Linux \(since) or newer has it; this is \(kernel)."
        }
        return
            "This kernel's KVM\(backend.name.map { " (\($0))" } ?? "") does not offer it; try another kernel or backend."
    }

    /// The numbers that a release starts with: 6, 1, 0 for `6.1.0-56-cloud-amd64`.
    static func version(_ release: String) -> [Int] {
        var numbers: [Int] = []
        for part in release.split(separator: ".") {
            let digits = part.prefix { $0.isNumber }
            guard let number = Int(digits) else { break }
            numbers.append(number)
            if digits.count < part.count { break }
        }
        return numbers
    }

    /// Parameters whose present value costs a user something that a better one would not.
    private static func hint(_ module: String, _ parameter: HostFacts.Module.Parameter) -> Missing? {
        let isOff = parameter.value == "N" || parameter.value == "0"
        let cost: String
        let better: String
        switch parameter.name {
        case "nested" where isOff: (cost, better) = ("no VMs inside a VM", "1")
        case "ept" where isOff, "npt" where isOff:
            (cost, better) = ("shadow paging: an exit for each page-table change of the guest", "1")
        case "ignore_msrs" where !isOff:
            (cost, better) = ("accesses to unknown MSRs never reach the VMM, and are not counted", "0")
        default: return nil
        }
        let name = "\(module).\(parameter.name)"
        return Missing(
            what: "\(name) = \(parameter.value)", cost: cost,
            remedy: "Load the module with \(parameter.name)=\(better), or boot the host with \(name)=\(better).")
    }
}
