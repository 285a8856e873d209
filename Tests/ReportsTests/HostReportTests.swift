// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVM
import Reports
import Testing
@testable import ThisHost

@Suite("Host report")
struct HostReportTests {
    // MARK: Backend

    @Test(
        "the backend is named only when the host shows which it is",
        arguments: [
            BackendCase([("kvm", true), ("kvm_intel", true)], "", "kvm_intel", "loaded"),
            BackendCase([("kvm", true), ("kvm_amd", true)], "svm", "kvm_amd", "loaded"),
            BackendCase([("kvm", false), ("kvm_intel", false), ("kvm_amd", false)], "svm", "kvm_amd", "built into"),
            BackendCase([("kvm", false), ("kvm_intel", false), ("kvm_amd", false)], "vmx", "kvm_intel", "built into"),
            BackendCase([("kvm", false), ("kvm_intel", false)], "", nil, "neither vmx nor svm for kvm_intel"),
            BackendCase([("kvm", false), ("kvm_pvm", false)], "", "kvm_pvm", "built into"),
            BackendCase([("kvm_intel", false), ("kvm_pvm", false)], "vmx", nil, "one of kvm_intel, kvm_pvm"),
            BackendCase([("kvm_intel", false), ("kvm_pvm", true)], "vmx", "kvm_pvm", "loaded"),
            BackendCase([("kvm", true)], "vmx", nil, "no backend"),
            BackendCase([], "", nil, "no backend"),
            BackendCase(nil, "vmx", nil, "cannot be read"),
        ])
    func backend(_ expected: BackendCase) {
        let report = HostReport(facts: expected.facts, kvm: .failure(.init(what: "", remedy: nil)))
        #expect(report.backend.name == expected.name)
        #expect(report.backend.evidence.contains(expected.evidence), "\(report.backend.evidence)")
    }

    struct BackendCase: Sendable, CustomTestStringConvertible {
        let facts: HostFacts
        let name: String?
        let evidence: String

        init(_ modules: [(String, loadable: Bool)]?, _ flags: String, _ name: String?, _ evidence: String) {
            facts = HostFacts(
                cpu: nil, vendor: nil, cpuFlags: Set(flags.split(separator: " ").map(String.init)), kernel: nil,
                modules: modules?.map { HostFacts.Module(name: $0.0, loadable: $0.loadable, parameters: []) })
            self.name = name
            self.evidence = evidence
        }

        var testDescription: String {
            "\(facts.modules?.map(\.name) ?? ["unreadable"]) on \(facts.cpuFlags): \(name ?? "unknown")"
        }
    }

    // MARK: A device that cannot be used

    @Test("without a device the remedy fits the host")
    func absent() {
        func remedy(_ flags: Set<String>, _ modules: [HostFacts.Module]?) -> String? {
            let facts = HostFacts(cpu: "A CPU", vendor: nil, cpuFlags: flags, kernel: nil, modules: modules)
            let problem = HostReport.Problem(what: "open /dev/kvm: no", remedy: "general", kind: .absent)
            let report = HostReport(facts: facts, kvm: .failure(problem))
            #expect(report.missing.map(\.what) == ["/dev/kvm"])
            #expect(report.capabilities == nil && report.liveCPUID == nil)
            #expect(report.text().contains("NOT USABLE: open /dev/kvm: no"))
            return report.device.remedy
        }
        let loaded = HostFacts.Module(name: "kvm_amd", loadable: true, parameters: [])
        #expect(remedy(["vmx"], [])?.contains("modprobe kvm_intel") == true)
        #expect(remedy(["svm", "hypervisor"], [])?.contains("modprobe kvm_amd") == true)
        #expect(remedy(["svm"], [loaded])?.contains("container") == true)
        #expect(remedy(["hypervisor"], [])?.contains("nested virtualization") == true)
        #expect(remedy([], nil)?.contains("firmware") == true)
    }

    @Test("a forbidden device: the remedy depends on who may use it")
    func denied() {
        func remedy(_ file: HostFacts.DeviceFile?) -> String? {
            let problem = HostReport.Problem(what: "no", remedy: "general", kind: .denied)
            return HostReport(facts: Self.intel, file: file, kvm: .failure(problem)).device.remedy
        }
        let open = remedy(.init(mode: 0o660, owner: "root", group: "virt"))
        #expect(open?.contains("usermod -aG virt") == true)
        #expect(open?.contains("chmod") == false)
        #expect(remedy(.init(mode: 0o600, owner: "root", group: "root"))?.contains("chgrp kvm /dev/kvm") == true)
        #expect(remedy(nil) == "general")
    }

    // MARK: Capabilities

    @Test("a missing capability is listed with what it costs, and with the kernel that has it")
    func missing() throws {
        func report(kernel: String) -> HostReport {
            var facts = Self.intel
            facts.kernel = kernel
            return HostReport(facts: facts, kvm: .success(Self.kvm(without: [188])))
        }
        let old = try #require(report(kernel: "4.18.0-553.el8.x86_64").missing.first)
        #expect(old.what == "KVM_CAP_X86_USER_SPACE_MSR")
        #expect(old.cost.contains("0x140"))
        #expect(old.remedy == "Linux 5.10 or newer has it; this is 4.18.0-553.el8.x86_64.")
        let new = try #require(report(kernel: "6.1.0-56-cloud-amd64").missing.first)
        #expect(new.remedy.contains("(kvm_intel) does not offer it"))
        #expect(report(kernel: "6.1.0").missing.contains { $0.what.hasPrefix("live answers") })
        #expect(HostReport(facts: Self.intel, kvm: .success(Self.kvm(without: []))).missing.isEmpty)
    }

    @Test("the remedy for a snapshot is only what this host can do")
    func snapshotRemedy() {
        func remedy(without missing: Set<Int32>) -> String? {
            HostReport(facts: Self.intel, kvm: .success(Self.kvm(without: missing))).missing
                .first { $0.what.hasPrefix("live answers") }?.remedy
        }
        #expect(remedy(without: [189])?.hasPrefix("List them in .vmtally.sites, or use") == true)
        #expect(remedy(without: [23])?.hasPrefix("Use a host kernel") == true)
        #expect(remedy(without: []) == nil)
    }

    @Test("parameters that cost something are listed")
    func parameters() {
        var facts = Self.intel
        facts.modules = [
            HostFacts.Module(
                name: "kvm_intel", loadable: true,
                parameters: [
                    .init(name: "nested", value: "N", meaning: nil), .init(name: "ept", value: "0", meaning: nil),
                    .init(name: "vpid", value: "N", meaning: nil),
                ]),
            HostFacts.Module(
                name: "kvm", loadable: true,
                parameters: [
                    .init(name: "ignore_msrs", value: "Y", meaning: nil),
                    .init(name: "nested", value: "1", meaning: nil),
                ]),
        ]
        let report = HostReport(facts: facts, kvm: .success(Self.kvm(without: [])))
        #expect(report.missing.map(\.what) == ["kvm_intel.nested = N", "kvm_intel.ept = 0", "kvm.ignore_msrs = Y"])
        #expect(report.missing.first?.remedy.contains("kvm_intel.nested=1") == true)
    }

    @Test("the text has every capability by name, the JSON every one with its value")
    func everything() throws {
        let report = HostReport(facts: Self.intel, kvm: .success(Self.kvm(without: [7, 74])))
        let text = report.text()
        for capability in Capability.all {
            #expect(text.contains(capability.name.dropFirst("KVM_CAP_".count)), "\(capability.name)")
        }
        let json = try #require(JSONSerialization.jsonObject(with: Data(report.json().utf8)) as? [String: Any])
        #expect(json["schema"] as? String == "vmtally.host/1")
        let capabilities = try #require(json["capabilities"] as? [[String: Any]])
        #expect(capabilities.count == Capability.all.count)
        let named = Dictionary(uniqueKeysWithValues: capabilities.map { ($0["name"] as? String ?? "", $0) })
        #expect(named["KVM_CAP_SYNC_REGS"]?["value"] as? Int == 0)
        #expect(named["KVM_CAP_SYNC_REGS"]?["bits"] as? [String] == [])
        #expect(named["KVM_CAP_USER_MEMORY"]?["value"] as? Int == 1)
        #expect(named["KVM_CAP_S390_PSW"]?["subject"] as? String == "other_architectures")
        #expect((json["device"] as? [String: Any])?["api_version"] as? Int == 12)
        #expect(json["live_cpuid"] != nil)
        #expect(try report.json() == report.json(), "keys in one order")
    }

    @Test("bits are named, those without a name by number")
    func bits() throws {
        let kvm = HostReport.KVM(
            apiVersion: 12,
            capabilities: [(143, "KVM_CAP_X86_DISABLE_EXITS", 0x8E), (195, "KVM_CAP_SET_GUEST_DEBUG2", 0)],
            cpuidFaulting: nil)
        let report = HostReport(facts: Self.intel, kvm: .success(kvm))
        #expect(report.capabilities?[0].bits == ["hlt", "pause", "cstate", "bit 7"])
        #expect(report.text().contains("0x8e"))
    }

    // MARK: Live CPUID

    @Test("no trial, no promise")
    func untried() {
        let modes = LiveCPUIDModes(has: { _ in true }, faultingMSR: true, probe: LiveCPUIDProbe())
        #expect(modes.modes.map(\.mode) == ["host", "fault", "sites", "snapshot"])
        #expect(modes.modes.map(\.possible) == [.untested, .untested, .untested, .yes])
        #expect(modes.auto == "snapshot")
    }

    @Test("a trial decides")
    func tried() {
        let works = LiveCPUIDProbe(hardwareBreakpoint: .works, cpuidFaulting: .works)
        #expect(LiveCPUIDModes(has: { _ in true }, faultingMSR: true, probe: works).auto == "fault+sites")
        let host = LiveCPUIDProbe(hostAnswers: .works, hardwareBreakpoint: .works, cpuidFaulting: .works)
        #expect(LiveCPUIDModes(has: { _ in true }, faultingMSR: true, probe: host).auto == "host")
        let sitesOnly = LiveCPUIDProbe(hardwareBreakpoint: .works, cpuidFaulting: .fails("no fault"))
        let modes = LiveCPUIDModes(has: { _ in true }, faultingMSR: true, probe: sitesOnly)
        #expect(modes.auto == "sites")
        #expect(modes.modes[1].why == "no fault")
        let nothing = LiveCPUIDProbe(hardwareBreakpoint: .fails("no stop"))
        #expect(LiveCPUIDModes(has: { _ in true }, faultingMSR: true, probe: nothing).auto == "snapshot")
        let software = LiveCPUIDProbe(hardwareBreakpoint: .fails("no stop"), softwareBreakpoint: .works)
        #expect(LiveCPUIDModes(has: { _ in true }, faultingMSR: true, probe: software).auto == "sites")
    }

    @Test("a capability that is missing rules a mode out, whatever a trial said")
    func ruledOut() {
        let works = LiveCPUIDProbe(hardwareBreakpoint: .works, cpuidFaulting: .works)
        let noDebug = LiveCPUIDModes(has: { $0 != "KVM_CAP_SET_GUEST_DEBUG" }, faultingMSR: nil, probe: works)
        #expect(noDebug.modes.map(\.possible) == [.untested, .no, .no, .yes])
        #expect(noDebug.modes[1].why == "KVM_CAP_SET_GUEST_DEBUG is missing")
        let noFilter = LiveCPUIDModes(has: { !$0.hasPrefix("KVM_CAP_X86_") }, faultingMSR: nil, probe: works)
        #expect(noFilter.modes[1].why == "KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_X86_MSR_FILTER are missing")
        #expect(noFilter.auto == "sites")
        let noFaulting = LiveCPUIDModes(has: { _ in true }, faultingMSR: false, probe: works)
        #expect(noFaulting.modes[1].possible == .no)
    }

    // MARK: Facts

    @Test("facts are read from /proc and /sys")
    func facts() throws {
        let root = FileManager.default.temporaryDirectory.appendingPathComponent("vmtally-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: root) }
        func write(_ path: String, _ text: String) throws {
            let folder = (root + path as NSString).deletingLastPathComponent
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
            try Data(text.utf8).write(to: URL(fileURLWithPath: root + path))
        }
        try write(
            "/proc/cpuinfo",
            """
            processor\t: 0
            vendor_id\t: GenuineIntel
            model name\t: A CPU @ 2.70GHz
            flags\t\t: fpu vmx hypervisor

            processor\t: 1
            model name\t: Another

            """)
        try write("/proc/sys/kernel/osrelease", "6.1.0-1-cloud-amd64\n")
        try write("/sys/module/kvm/parameters/halt_poll_ns", "200000\n")
        try write("/sys/module/kvm/initstate", "live\n")
        try write("/sys/module/kvm_intel/parameters/nested", "Y\n")
        try write("/sys/module/kvmgt_of_another_driver/initstate", "live\n")
        let facts = HostFacts(root: root)
        #expect(facts.cpu == "A CPU @ 2.70GHz")
        #expect(facts.vendor == "GenuineIntel")
        #expect(facts.cpuFlags == ["fpu", "vmx", "hypervisor"])
        #expect(facts.kernel == "6.1.0-1-cloud-amd64")
        let modules = try #require(facts.modules)
        #expect(modules.map(\.name) == ["kvm", "kvm_intel"])
        #expect(modules.map(\.loadable) == [true, false])
        #expect(modules[0].parameters.first?.value == "200000")
        #expect(modules[1].parameters.first?.meaning != nil)
    }

    @Test("a host that shows nothing is described all the same")
    func noFacts() throws {
        let facts = HostFacts(root: "/nonexistent")
        #expect(facts == HostFacts(cpu: nil, vendor: nil, cpuFlags: [], kernel: nil, modules: nil))
        let report = HostReport(facts: facts, kvm: .failure(.init(what: "no", remedy: nil)))
        #expect(report.text().contains("unknown"))
        #expect(try report.json().contains("\"schema\""))
    }

    private static let intel = HostFacts(
        cpu: "A CPU", vendor: "GenuineIntel", cpuFlags: ["vmx"], kernel: "6.12.0",
        modules: [HostFacts.Module(name: "kvm_intel", loadable: true, parameters: [])])

    private static func kvm(without missing: Set<Int32>) -> HostReport.KVM {
        HostReport.KVM(
            apiVersion: 12,
            capabilities: Capability.all.map { capability in
                let isX86 = CapabilityGuide.guide(capability.name) != nil
                return (capability.rawValue, capability.name, isX86 && !missing.contains(capability.rawValue) ? 1 : 0)
            },
            cpuidFaulting: true)
    }
}
