// SPDX-License-Identifier: Apache-2.0
import FoundationEssentials
import Glibc

/// What /proc and /sys say of this host, without a word from KVM: it is known even where /dev/kvm is out of reach.
public struct HostFacts: Equatable, Sendable {
    /// A kernel module of KVM.
    public struct Module: Equatable, Codable, Sendable {
        public struct Parameter: Equatable, Codable, Sendable {
            public var name: String
            public var value: String
            /// What it does to guests; nil for one that is not in our table.
            public var meaning: String?

            public init(name: String, value: String, meaning: String?) {
                self.name = name
                self.value = value
                self.meaning = meaning
            }
        }

        public var name: String
        /// False when it is built into the kernel: then its folder is there even if it found no hardware to drive.
        public var loadable: Bool
        public var parameters: [Parameter]

        public init(name: String, loadable: Bool, parameters: [Parameter]) {
            self.name = name
            self.loadable = loadable
            self.parameters = parameters
        }
    }

    /// KVM's device as a file.
    public struct DeviceFile: Equatable, Codable, Sendable {
        /// Permission bits.
        public var mode: UInt32
        public var owner: String
        public var group: String

        /// Whether everyone in ``group`` may use it.
        package var isOpenToGroup: Bool { mode & 0o060 == 0o060 }

        package var text: String { "mode 0\(String(mode, radix: 8)), owner \(owner), group \(group)" }

        public init(mode: UInt32, owner: String, group: String) {
            self.mode = mode
            self.owner = owner
            self.group = group
        }

        /// Reads them; nil when there is no such file.
        public init?(path: String) {
            var status = stat()
            guard stat(path, &status) == 0 else { return nil }
            let names = try? FileManager.default.attributesOfItem(atPath: path)
            self.init(
                mode: status.st_mode & 0o777,
                owner: names?[.ownerAccountName] as? String ?? "\(status.st_uid)",
                group: names?[.groupOwnerAccountName] as? String ?? "\(status.st_gid)")
        }
    }

    public var cpu: String?
    public var vendor: String?
    /// The `flags` line of /proc/cpuinfo.
    public var cpuFlags: Set<String>
    public var kernel: String?
    /// Empty when no module is there; nil when /sys/module cannot be read, and nothing is known.
    public var modules: [Module]?

    public init(
        cpu: String?, vendor: String?, cpuFlags: Set<String>, kernel: String?, modules: [Module]?
    ) {
        self.cpu = cpu
        self.vendor = vendor
        self.cpuFlags = cpuFlags
        self.kernel = kernel
        self.modules = modules
    }

    /// Reads them.
    /// - Parameter root: the folder that stands for `/`, for tests.
    public init(root: String = "") {
        var fields: [String: String] = [:]
        for line in Self.text("\(root)/proc/cpuinfo")?.split(separator: "\n", omittingEmptySubsequences: false) ?? [] {
            // An empty line ends the first processor; the others say the same.
            guard let colon = line.firstIndex(of: ":") else { break }
            fields[trimmed(line[..<colon])] = trimmed(line[line.index(after: colon)...])
        }
        self.init(
            cpu: fields["model name"], vendor: fields["vendor_id"],
            cpuFlags: Set((fields["flags"] ?? "").split(separator: " ").map(String.init)),
            kernel: Self.text("\(root)/proc/sys/kernel/osrelease").map { trimmed($0[...]) },
            modules: Self.modules("\(root)/sys/module"))
    }

    private static func modules(_ folder: String) -> [Module]? {
        guard let names = try? FileManager.default.contentsOfDirectory(atPath: folder) else { return nil }
        return names.sorted().filter { $0 == "kvm" || $0.hasPrefix("kvm_") }.map { name in
            let parameters =
                (try? FileManager.default.contentsOfDirectory(atPath: "\(folder)/\(name)/parameters")) ?? []
            return Module(
                name: name,
                loadable: FileManager.default.fileExists(atPath: "\(folder)/\(name)/initstate"),
                parameters: parameters.sorted().compactMap { parameter in
                    guard let value = text("\(folder)/\(name)/parameters/\(parameter)") else { return nil }
                    return Module.Parameter(
                        name: parameter, value: trimmed(value[...]), meaning: parameterMeanings[parameter])
                })
        }
    }

    private static func text(_ path: String) -> String? {
        FileManager.default.contents(atPath: path).map { String(decoding: $0, as: UTF8.self) }
    }

    /// The parameters that a user of VMs has a reason to look at (module_param in arch/x86/kvm and virt/kvm).
    package static let parameterMeanings: [String: String] = [
        "nested": "VMs inside a VM",
        "ept": "nested page tables in hardware (Intel); off: shadow paging, an exit for each page-table change",
        "npt": "nested page tables in hardware (AMD); off: shadow paging, an exit for each page-table change",
        "tdp_mmu": "faster page-fault handling with nested page tables",
        "unrestricted_guest": "real mode in hardware (Intel); off: emulated, slow",
        "vpid": "TLB entries survive an exit (Intel)",
        "eptad": "accessed and dirty bits in nested page tables (Intel)",
        "pml": "dirty pages are logged in hardware (Intel)",
        "flexpriority": "task priority without exits (Intel)",
        "enable_apicv": "interrupts without exits (Intel)",
        "enable_ipiv": "IPIs without exits (Intel)",
        "avic": "interrupts without exits (AMD)",
        "force_avic": "AVIC even where the processor does not announce it (AMD)",
        "vgif": "interrupt flag of nested guests in hardware (AMD)",
        "vls": "VMLOAD and VMSAVE of nested guests in hardware (AMD)",
        "vnmi": "NMIs in hardware, without window exits",
        "nrips": "length of the exiting instruction from hardware (AMD)",
        "lbrv": "branch records of the guest in hardware (AMD)",
        "tsc_scaling": "guests with another TSC frequency (AMD)",
        "preemption_timer": "APIC timer by VMX-preemption timer: fewer, faster exits (Intel)",
        "enable_shadow_vmcs": "VMREAD and VMWRITE of nested hypervisors without exits (Intel)",
        "emulate_invalid_guest_state": "states that VMX refuses are emulated (Intel)",
        "ple_gap": "PAUSE-loop exits: longest gap inside a loop, in cycles; 0 is off (Intel)",
        "ple_window": "PAUSE-loop exits: length of a loop that exits, in cycles (Intel)",
        "pause_filter_count": "PAUSE exits: how many pauses make an exit; 0 is off (AMD)",
        "pause_filter_thresh": "PAUSE exits: longest gap between pauses, in cycles (AMD)",
        "intercept_smi": "SMIs exit to KVM (AMD)",
        "halt_poll_ns": "how long KVM polls before a halted vCPU sleeps: latency for CPU time",
        "halt_poll_ns_grow": "how fast the polling time grows",
        "halt_poll_ns_grow_start": "where the polling time starts, ns",
        "halt_poll_ns_shrink": "how fast the polling time shrinks; 0: at once",
        "enable_vmware_backdoor": "VMware's port 0x5658 from user mode; each #GP exits",
        "enable_pmu": "performance counters for guests",
        "enable_virt_at_load": "virtualization is on as long as the module is loaded, so the first VM starts sooner",
        "force_emulation_prefix": "a prefix that makes KVM emulate, for tests",
        "ignore_msrs": "accesses to unknown MSRs are ignored instead of raising #GP: hides them from the VMM",
        "report_ignored_msrs": "ignored MSR accesses are logged",
        "kvmclock_periodic_sync": "kvmclock is kept in step",
        "lapic_timer_advance": "the timer fires early, to arrive in time",
        "lapic_timer_advance_ns": "the timer fires early, to arrive in time; -1 is adaptive",
        "min_timer_period_us": "shortest period of the APIC timer",
        "pi_inject_timer": "timer interrupts are posted from another CPU",
        "mmio_caching": "MMIO pages are remembered: faster exits for MMIO",
        "mitigate_smt_rsb": "return-address mitigation: no HLT or MWAIT without exit",
        "nx_huge_pages": "ITLB-multihit mitigation: executable huge pages are split",
        "eager_page_split": "huge pages are split ahead when dirty logging starts",
        "tsc_tolerance_ppm": "by how much a TSC frequency may be off before it is scaled",
        "vector_hashing": "lowest-priority interrupts are spread by vector",
        "sev": "encrypted guests (AMD SEV)",
        "sev_es": "encrypted guests with encrypted registers (AMD SEV-ES)",
        "sev_snp": "encrypted guests with integrity (AMD SEV-SNP)",
        "sgx": "enclaves in guests (Intel SGX)",
        "tdx": "encrypted guests (Intel TDX)",
        "vmentry_l1d_flush": "L1TF mitigation: the data cache is flushed at VM entry",
    ]
}

private func trimmed(_ text: Substring) -> String {
    func isSpace(_ character: Character) -> Bool { character == " " || character == "\t" || character == "\n" }
    guard let first = text.firstIndex(where: { !isSpace($0) }), let last = text.lastIndex(where: { !isSpace($0) })
    else { return "" }
    return String(text[first...last])
}
