// SPDX-License-Identifier: Apache-2.0

/// The part of KVM that drives the processor.
public struct HostBackend: Equatable, Encodable, Sendable {
    /// nil when it cannot be told.
    public var name: String?
    public var evidence: String
    public var notes: [String]

    private init(name: String?, evidence: String, notes: [String]) {
        self.name = name
        self.evidence = evidence
        self.notes = notes
    }

    /// The backend, as far as it can be told: a loadable module stays loaded only when it drives the processor, but
    /// one that is built in has its folder in /sys/module in any case.
    public init(among modules: [HostFacts.Module]?, cpuFlags: Set<String>) {
        guard let modules else {
            self.init(name: nil, evidence: "/sys/module cannot be read", notes: [])
            return
        }
        let backends = modules.filter { $0.name.hasPrefix("kvm_") }
        let loaded = backends.filter(\.loadable)
        if loaded.count == 1 {
            self.init(
                name: loaded[0].name, evidence: "the module is loaded", notes: Self.notes(loaded[0].name))
            return
        }
        let candidates = loaded + backends.filter { !$0.loadable && Self.canDrive($0.name, cpuFlags) }
        if candidates.count == 1 {
            self.init(
                name: candidates[0].name,
                evidence: "built into the kernel, and the only one there that could drive this processor",
                notes: Self.notes(candidates[0].name))
            return
        }
        let names = (candidates.isEmpty ? backends : candidates).map(\.name).joined(separator: ", ")
        if candidates.isEmpty {
            self.init(
                name: nil,
                evidence: names.isEmpty
                    ? "no backend in /sys/module" : "the processor shows neither vmx nor svm for \(names)", notes: [])
            return
        }
        self.init(name: nil, evidence: "one of \(names); /sys/module does not tell which", notes: [])
    }

    private static func canDrive(_ backend: String, _ flags: Set<String>) -> Bool {
        switch backend {
        case "kvm_intel": flags.contains("vmx")
        case "kvm_amd": flags.contains("svm")
        default: true
        }
    }

    private static func notes(_ backend: String) -> [String] {
        guard backend == "kvm_pvm" else { return [] }
        return [
            "PVM virtualizes without VMX or SVM: there are no hardware VM exits, only what KVM counts as one.",
            "Guest ring 3 runs natively, ring 0 through the instruction emulator: expect it to be slow.",
        ]
    }
}
